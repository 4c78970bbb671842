"""The client's exceptions: request rejected, service unavailable, answer malformed."""

from __future__ import annotations

from embedfleet.vocabulary import EmbedfleetError


class ClientError(EmbedfleetError):
    """Base class of the client's errors."""


class RefusedError(ClientError):
    """The service rejects the request; a retry would not help."""

    def __init__(
        self,
        message: str,
        *,
        http_status: int | None = None,
        code: str | None = None,
        param: str | None = None,
        index: int | None = None,
    ) -> None:
        """`index` is the place of the text that is rejected; None if the whole request is.
        `http_status` is None if the request was not sent.
        """
        super().__init__(message)
        self.http_status = http_status
        self.code = code
        self.param = param
        self.index = index


class UnavailableError(ClientError):
    """The service did not answer, or shed the request, until the retry timeout."""


class AnswerError(ClientError):
    """The answer is malformed: not in OpenAI's format, with vectors missing, of unequal lengths, or
    with numbers that are not finite.
    """
