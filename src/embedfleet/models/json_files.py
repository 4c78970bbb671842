"""Reads a model's JSON files; errors name the file and what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import orjson

from embedfleet.models.absent import absent
from embedfleet.vocabulary import ModelError

_SHOWN: Final = 160
"""Characters of a wrong value that an error repeats."""
_LONGEST_NAME: Final = 255
"""Bytes of a name in a folder, on Linux' file systems."""


def read_json(path: Path) -> Any:
    """Read one JSON file; raises ModelError if it is absent or not JSON."""
    try:
        return orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise absent(path) from None
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error.strerror}") from None
    except orjson.JSONDecodeError as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from None


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises ModelError if the file is absent or holds something else."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ModelError(f"{path} does not hold a JSON object")
    return value


def names_neighbour(value: object) -> bool:
    """Whether a value of a file can name another file or folder beside it: one name and no path,
    neither hidden nor a parent, and no more bytes than file systems allow.
    """
    return (
        isinstance(value, str)
        and value.isprintable()
        and "/" not in value
        and not value.startswith(".")
        and 0 < len(value.encode()) <= _LONGEST_NAME
    )


def brief(value: object) -> str:
    """A value of a file as an error shows it."""
    return shortened(repr(value))


def shortened(text: str, most: int = _SHOWN) -> str:
    """Text of a file, or about it, in one line that is not long."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[:most]}…"
