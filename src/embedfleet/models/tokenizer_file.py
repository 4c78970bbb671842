"""Loads tokenizer.json with padding, truncation and dropout removed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import orjson
from tokenizers import Tokenizer

from embedfleet.models.json_files import shortened
from embedfleet.vocabulary import EmbedfleetError, ModelError

log = logging.getLogger(__name__)

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class TokenizerError(ModelError):
    """The tokenizer of a model fails on a text that is no fault of its sender's."""


def load_tokenizer(path: Path, below: int | None = None) -> Tokenizer:
    """The library's tokenizer of a file.

    `below` leaves out added tokens whose ids are not below it; a vocabulary of larger ids is
    refused then. Raises ModelError for whatever is wrong with the file.
    """
    with panics_translated(path):
        library = _load(path.read_bytes(), below)
        largest = max(library.get_vocab(with_added_tokens=True).values(), default=-1)
    if below is not None and largest >= below:
        raise ModelError(
            f"{path} has token ids up to {largest}, the embedding table only {below} rows"
        )
    return library


@contextmanager
def panics_translated(path: Path) -> Iterator[None]:
    """ModelError for whatever the library raises of a file: plain Exception, and PanicException,
    which is no Exception.
    """
    try:
        yield
    except FileNotFoundError:
        raise ModelError(f"{path} is missing") from None
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


def _load(content: bytes, below: int | None) -> Tokenizer:
    definition = orjson.loads(content)
    if not isinstance(definition, dict):
        raise TypeError("it does not hold a JSON object")
    if not (_tamed(definition) | _without_rowless(definition, below)):
        return Tokenizer.from_buffer(content)
    return Tokenizer.from_str(orjson.dumps(definition).decode())


def _tamed(definition: dict[str, Any]) -> bool:
    """Take out padding, truncation and dropout; return whether there was any."""
    found = False
    for key in ("padding", "truncation"):
        if definition.get(key) is not None:
            definition[key] = None
            found = True
    model = definition.get("model")
    if isinstance(model, dict) and model.get("dropout"):
        model["dropout"] = None
        found = True
    return found


def _without_rowless(definition: dict[str, Any], below: int | None) -> bool:
    """Take out added tokens without a row in the embedding table; return whether there were any.

    The tables of Qwen3-Embedding 4B and 8B have four rows fewer than the tokenizer of the 0.6B has
    tokens, and a tokenizer is easily copied from one to the other.
    """
    added = definition.get("added_tokens") or []
    kept = [token for token in added if below is None or token["id"] < below]
    if len(kept) == len(added):
        return False
    definition["added_tokens"] = kept
    return True
