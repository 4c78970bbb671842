"""Converts a raw value to the type of its option; errors say what would be right.

The caller adds where the value came from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from embedfleet.runtime.settings.options import Option

MOST_QUOTED = 200
"""Characters of a value that an error repeats."""

WORDS = {"true": True, "yes": True, "on": True, "1": True}
WORDS |= {"false": False, "no": False, "off": False, "0": False}


class UnfitError(ValueError):
    """The value does not suit the option; the message says what would."""


def convert(option: Option, raw: object, *, text: bool) -> Any:
    """Return `raw` as the option's type; `text` where everything arrives as a string."""
    if option.rule.none is not None and (raw is None or raw == option.rule.none):
        return None
    if option.choices:
        return _choice(option, raw, text=text)
    if option.type is bool:
        return _boolean(option, raw, text=text)
    if option.type in {int, float}:
        return _number(option, raw, text=text)
    if option.type == tuple[str, ...]:
        return _strings(option, raw, text=text)
    if option.type == tuple[float, ...]:
        return _numbers(option, raw, text=text)
    return _string(option, raw)


def expected(option: Option) -> str:
    """Say what the option accepts, in words, for errors and documentation."""
    if option.choices:
        words = [*option.choices, *([option.rule.none] if option.rule.none else [])]
        return "one of " + ", ".join(dict.fromkeys(f"{word}" for word in words))
    kind = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        Path: "a path",
        str: "a string",
        tuple[float, ...]: "a list of numbers",
    }.get(option.type, "a list of strings")
    low, high = option.rule.at_least, option.rule.at_most
    if low is not None and high is not None:
        kind += f" from {low:,g} to {_plain(high)}"
    elif low is not None:
        kind += f" of at least {low:,g}"
    return kind if option.rule.none is None else f"{kind}, or {option.rule.none}"


def _plain(number: float) -> str:
    return f"{int(number):,}" if number == int(number) else f"{number:,g}"


def _unfit(option: Option, raw: object) -> UnfitError:
    reason = option.rule.refused.get(raw) if isinstance(raw, str) else None
    why = f": {reason}" if reason else ""
    return UnfitError(f"{_shown(raw)} is not {expected(option)}{why}")


def _shown(raw: object) -> str:
    if isinstance(raw, list | tuple) and all(isinstance(item, str) for item in raw):
        return f"[{', '.join(map(_shown, raw))}]"
    text = one_line(str(raw), MOST_QUOTED)
    return f'"{text}"' if isinstance(raw, str | Path) else text


def one_line(text: str, most: int) -> str:
    """A value as an error quotes it: control characters escaped, at most so many characters."""
    line = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text[: most + 1])
    return line if len(line) <= most else line[: most - 1] + "…"


def _choice(option: Option, raw: object, *, text: bool) -> Any:
    """One of the words; in a text in any case, and with the end of line that files leave there."""
    if not isinstance(raw, str):
        raise _unfit(option, raw)
    word = raw.strip().casefold() if text else raw
    for choice in option.choices:
        if word == (choice.casefold() if text else choice):
            return choice
    raise _unfit(option, raw)


def _string(option: Option, raw: object) -> str | Path:
    if option.type is Path:
        if not isinstance(raw, str | Path) or not str(raw):
            raise _unfit(option, raw)
        return Path(raw)
    if not isinstance(raw, str):
        raise _unfit(option, raw)
    return raw


def _items(option: Option, raw: object, *, text: bool) -> Sequence[Any]:
    """The items of a list; of a text what stands between its commas."""
    if text and isinstance(raw, str):
        return [part.strip() for part in raw.split(",")] if raw.strip() else []
    if not isinstance(raw, list | tuple):
        raise _unfit(option, raw)
    return raw


def _strings(option: Option, raw: object, *, text: bool) -> tuple[str, ...]:
    items = _items(option, raw, text=text)
    if not all(isinstance(item, str) for item in items):
        raise _unfit(option, raw)
    if "" in items:
        raise UnfitError(f"{_shown(raw)} is not {expected(option)}: one of them is empty")
    return tuple(items)


def _numbers(option: Option, raw: object, *, text: bool) -> tuple[float, ...]:
    items = _items(option, raw, text=text)
    try:
        return tuple(map(_finite, items))
    except ValueError:
        raise _unfit(option, raw) from None


def _finite(value: Any) -> float:
    """ValueError for what is no number, or one that is too large for a float."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(value)
    return number


def _boolean(option: Option, raw: object, *, text: bool) -> bool:
    if text and isinstance(raw, str):
        raw = WORDS.get(raw.strip().lower(), raw)
    if not isinstance(raw, bool):
        raise _unfit(option, raw)
    return raw


def _number(option: Option, raw: object, *, text: bool) -> int | float:
    value = raw
    try:
        if text and isinstance(raw, str):
            value = option.type(raw)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _unfit(option, raw)
        if option.type is float:
            value = _finite(value)
    except ValueError:
        raise _unfit(option, raw) from None
    if option.type is int and not isinstance(value, int):
        raise _unfit(option, raw)
    low = -math.inf if option.rule.at_least is None else option.rule.at_least
    high = math.inf if option.rule.at_most is None else option.rule.at_most
    if not low <= value <= high:
        raise _unfit(option, raw)
    return value
