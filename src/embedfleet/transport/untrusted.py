"""Decodes untrusted bytes: any defect raises one error with a bounded, one-line message.

Replicas, third-party engines and Redis are not trusted. Their data is bounded before it is parsed,
and whatever parsing may raise beyond the parser's own error is translated here, once:
RecursionError from deep nesting, MemoryError, OverflowError from huge numbers, and the
PanicException of Rust libraries, which is not an Exception.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import msgspec

from embedfleet.vocabulary import EmbedfleetError, ReplicaError

MOST_PAGE_BYTES = 1 << 20
"""Most bytes of a page that describes a replica or an engine; those seen have a few kB."""

MOST_SHOWN = 300
"""Characters of others' words that are repeated in errors and logs; they can hold whole texts."""

_TITLE = re.compile(r"<title>([^<]{1,300})</title>", re.IGNORECASE)

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def parsed(
    what: str,
    parse: Callable[Arguments, Result],
    *args: Arguments.args,
    **options: Arguments.kwargs,
) -> Result:
    """What `parse` makes of bytes from elsewhere.

    Raises ReplicaError, which begins with `what`, for anything that `parse` raises; errors of
    embedfleet's own pass.
    """
    try:
        return parse(*args, **options)
    except (EmbedfleetError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        # Not only Exception: a panic in Rust code (tokenizers) is a BaseException.
        raise ReplicaError(f"{what}: {shown(str(error) or type(error).__name__)}") from error


def message_of(body: bytes) -> str:
    """The message in an error's body, whatever its form: OpenAI's, SGLang's, TEI's, FastAPI's, or
    the title of a proxy's page.
    """
    try:
        found = parsed("no JSON", msgspec.json.decode, body)
    except ReplicaError:
        found = None
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and key in found:
            found = found[key]
    if not isinstance(found, str):
        found = body.decode("utf-8", "replace")
        title = _TITLE.search(found)
        found = title[1] if title else found
    return shown(found) or "it gave no reason"


def shown(text: str, most: int = MOST_SHOWN) -> str:
    """Others' words as one line without control characters, at most so many characters.

    Else a replica could write lines of its own, or a terminal's escapes, into a log.
    """
    cut = text[: most + 1]
    line = "".join([one if one.isprintable() else " " for one in cut])
    line = " ".join(line.split())
    return line if len(cut) <= most else line[: most - 1] + "…"
