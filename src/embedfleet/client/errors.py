"""The client's exceptions, by what helps: a different request, a later retry, another service."""

from __future__ import annotations

from embedfleet.vocabulary import EmbedfleetError


class ClientError(EmbedfleetError):
    """Anything that a client reports."""


class RefusedError(ClientError):
    """The service refuses the request, and would again."""

    def __init__(
        self,
        message: str,
        *,
        http_status: int | None = None,
        code: str | None = None,
        param: str | None = None,
        index: int | None = None,
    ) -> None:
        """`index` is the text that is refused, by its place in what was asked for; None where the
        whole request is. `http_status` is None where it was not even sent.
        """
        super().__init__(message)
        self.http_status = http_status
        self.code = code
        self.param = param
        self.index = index


class UnavailableError(ClientError):
    """The service did not answer, or had no room, for as long as the client is patient."""


class AnswerError(ClientError):
    """What came back is no answer to what was asked: not OpenAI's format, vectors too few, of
    unequal lengths, or with numbers that are not finite.
    """
