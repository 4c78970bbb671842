"""What is asked of the tokenizers library, and its errors translated."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, ParamSpec, Protocol, TypeVar

import numpy as np
from tokenizers import Tokenizer

from embedfleet.models.absent import absent
from embedfleet.models.json_files import shortened
from embedfleet.models.tokenizer_kind import TokenizerKind
from embedfleet.vocabulary import EmbedfleetError, Encoding, ModelError

log = logging.getLogger(__name__)

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class TokenizerError(ModelError):
    """The tokenizer of a model fails on a text that is no fault of its sender's."""


class Spelling(NamedTuple):
    """The tokens of one text, and where they are in it."""

    ids: list[int]
    places: list[tuple[int, int]]
    """The first character of each token, and the one behind its last."""
    words: list[int | None]
    """The number of the word that each token is of."""


class Library(Protocol):
    """One tokenizer. Threads may share it.

    Everything that is given a text raises TokenizerError where the library fails on it, and
    TypeError for a text that is no Unicode.
    """

    kind: TokenizerKind

    def ids(self, texts: Sequence[str]) -> list[Encoding]:
        """Token ids of texts, none added."""
        ...

    def spell(self, text: str, *, whole: bool = False) -> Spelling:
        """A text's tokens with their places; of the `whole`, with what the file puts around."""
        ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def id_of(self, token: str) -> int | None:
        """The id of a token, as the file writes it."""
        ...

    def token_of(self, number: int) -> str | None:
        """The token of an id, as the file writes it."""
        ...

    def close(self) -> None:
        """End what it holds of the system."""
        ...


class InProcess:
    """A tokenizer in this process."""

    def __init__(
        self, path: Path, content: bytes, kind: TokenizerKind, below: int | None = None
    ) -> None:
        """`content` is the file's, as the library is to read it. Raises ModelError for what it can
        not read, and for a vocabulary with ids that are not below `below`.
        """
        self.kind = kind
        with panics_translated(path):
            self._library = Tokenizer.from_buffer(content)
            largest = max(self._library.get_vocab(with_added_tokens=True).values(), default=-1)
        if below is not None and largest >= below:
            raise ModelError(
                f"{path} has token ids up to {largest}, the embedding table only {below} rows"
            )

    def ids(self, texts: Sequence[str]) -> list[Encoding]:
        found = guarded(self._library.encode_batch_fast, texts, add_special_tokens=False)
        return [np.array(each.ids, dtype=np.int32) for each in found]

    def spell(self, text: str, *, whole: bool = False) -> Spelling:
        found = guarded(self._library.encode, text, add_special_tokens=whole)
        return Spelling(found.ids, found.offsets, found.word_ids)

    def decode(self, ids: Sequence[int]) -> str:
        text: str = guarded(self._library.decode, ids, skip_special_tokens=False)
        return text

    def id_of(self, token: str) -> int | None:
        found: int | None = self._library.token_to_id(token)
        return found

    def token_of(self, number: int) -> str | None:
        found: str | None = self._library.id_to_token(number)
        return found

    def close(self) -> None:
        """Nothing is held."""


@contextmanager
def panics_translated(path: Path) -> Iterator[None]:
    """ModelError for whatever the library raises of a file: plain Exception, and PanicException,
    which is no Exception.
    """
    try:
        yield
    except FileNotFoundError:
        raise absent(path) from None
    except TokenizerError as error:
        raise ModelError(f"{path}: {error.message}") from None
    except (EmbedfleetError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001  see above
        raise ModelError(f"{path} can't be read: {shortened(str(error))}") from None


def guarded(
    call: Callable[Arguments, Result], *args: Arguments.args, **options: Arguments.kwargs
) -> Result:
    """What a call of the library returns. Some files make it fail or panic on some texts.

    Raises TokenizerError; TypeError for a text that is no Unicode.
    """
    try:
        return call(*args, **options)
    except (TypeError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001  PanicException is no Exception
        # Its words may repeat a text, so that they are for the sender alone.
        kind = type(error).__name__
        log.error("the model's tokenizer failed on a text (%s)", kind)  # noqa: TRY400
        told = f"the model's tokenizer fails on a text: {shortened(str(error))}"
        raise TokenizerError(told) from None
