"""Aliases of request fields in other APIs, and fields that are accepted and ignored.

A field that would change the vector is honoured, or refused with what would be right; it is never
ignored. Aliases have one meaning: `output_dimension` is `dimensions`, `passage` is `document`. Two
fields with the same meaning must agree.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from embedfleet.api.formats.bodies import Read, checked
from embedfleet.api.formats.embedding_request import (
    LEAST_DIMENSIONS,
    EmbeddingRequest,
    RequestLimits,
)
from embedfleet.api.formats.large_bodies import LARGEST_ID
from embedfleet.api.formats.vector_forms import FLOATS, KINDS, LAYOUTS, Form
from embedfleet.vocabulary import CallerError, Role, Truncation


def one_of(values: Mapping[str, object] | tuple[str, ...] | list[str]) -> str:
    *first, last = (f'"{each}"' for each in values)
    return f"one of {', '.join(first)} and {last}"


ROLES: Final = {
    "query": Role.QUERY,
    "document": Role.DOCUMENT,
    "passage": Role.DOCUMENT,  # NVIDIA NIM, E5
    "search_query": Role.QUERY,  # Cohere, Nomic
    "search_document": Role.DOCUMENT,
}
INPUT_TYPES: Final = one_of(ROLES)

TASKS: Final = {
    **ROLES,
    "retrieval.query": Role.QUERY,  # Jina
    "retrieval.passage": Role.DOCUMENT,
    "retrieval_query": Role.QUERY,  # Gemini
    "retrieval_document": Role.DOCUMENT,
    "embed": None,  # vLLM: what is asked of a model that can do more
    "embedding": None,
}
"""`task` and `task_type`, in lower case."""

TRUNCATE_WORDS: Final = 'true, false, or one of "none", "start" and "end"'
LAYOUT_WORDS: Final = one_of(LAYOUTS)
_KIND_NAMES: Final = {"float": "float32"} | {kind: kind for kind in KINDS}
"""`float` is Voyage's name for it."""
_KIND_WORDS: Final = one_of(_KIND_NAMES)

MOST_IGNORED: Final = 16
"""Most names of ignored fields that a header lists."""

_SHOWN: Final = re.compile(r"[A-Za-z0-9_.\-]{1,64}")

Found: TypeAlias = dict[str, Any]
"""Fields of an `EmbeddingRequest`, by name."""

Handler: TypeAlias = Callable[[str, Any], Found]
"""Takes a field's name and value to what they mean."""


Kind = TypeVar("Kind", bound=EmbeddingRequest)


def request_of(
    kind: type[Kind], read: Read[Any], limits: RequestLimits, found: Found, **more: Any
) -> Kind:
    """The request of a body: what was `found` in its fields, what further ones mean beside it, and
    its texts. Raises CallerError.
    """
    by_item, ignored = limits.by_item, _NONE
    if read.further:
        found, by_item, ignored = _meaning(read.further, found, limits)
    texts = checked(read.texts, by_item=by_item)
    if texts.faults:
        more["faulty"], more["faults"] = zip(*texts.faults, strict=True)
    return kind(
        inputs=texts.good, places=texts.places, by_item=by_item, ignored=ignored, **found, **more
    )


_NONE: tuple[str, ...] = ()


def _meaning(
    further: Mapping[str, msgspec.Raw], found: Found, limits: RequestLimits
) -> tuple[Found, bool, tuple[str, ...]]:
    """Join what further fields mean to what is found already; the second says whether errors come
    by item, the third which fields mean nothing.
    """
    found = dict(found)
    named = {key: key for key, value in found.items() if value is not None}
    form = found["forms"][0]
    parts: Found = {} if form is FLOATS else {"layout": form.layout}
    named |= {"layout": "encoding_format", "role": "input_type"}
    ignored: list[str] = []
    by_item = limits.by_item
    for name, raw in further.items():
        handler = KNOWN.get(name)
        if handler is None:
            ignored.append(name)
            continue
        value = _decoded(name, raw)
        if value is None:
            continue
        for key, meant in handler(name, value).items():
            target = parts if key in {"kind", "layout", "big_endian"} else found
            if target.get(key) is not None and target[key] != meant:
                raise _contradiction(name, named.get(key, key))
            target[key], named[key] = meant, name
    if "by_item" in found:
        by_item = found.pop("by_item")
    if parts and len(found["forms"]) == 1:
        found["forms"] = (Form(**parts),)
    if ignored and not limits.unknown_fields:
        raise unknown_field(ignored[0])
    return found, by_item, tuple(map(shown, ignored[:MOST_IGNORED]))


def unknown_field(name: str) -> CallerError:
    """The refusal of a field that is not known."""
    told = shown(name)
    return CallerError(
        f"`{told}` is an unknown field; leave it out (gateway.unknown_fields is `refuse`).",
        param=told,
        code="unknown_parameter",
    )


def shown(name: str) -> str:
    """The name of a field that a caller made up, fit for a header."""
    return name if _SHOWN.fullmatch(name) else "?"


def role_of(name: str, value: object) -> Role:
    """What texts are for; raises CallerError for what no prompt of the model is for."""
    role = ROLES.get(value.lower()) if isinstance(value, str) else None
    if role is None:
        raise wrong(
            name, f"{INPUT_TYPES}, or left out; `instruction` takes a task of your own", value
        )
    return role


def truncation_of(name: str, value: object) -> Truncation:
    """What becomes of texts that are too long: true and false, or the words of Cohere and NIM."""
    if isinstance(value, bool):
        return Truncation.END if value else Truncation.NONE
    try:
        return Truncation(value.lower() if isinstance(value, str) else "")
    except ValueError:
        raise wrong(name, TRUNCATE_WORDS, value) from None


def dimensions_of(name: str, value: object) -> int:
    """A number of dimensions, which only the model can bound from above; raises CallerError."""
    right = f"an integer from {LEAST_DIMENSIONS} to the model's width"
    number = integer(value)
    if number is None:
        raise wrong(name, right, value, code="invalid_type")
    if not 1 <= number <= LARGEST_ID:
        bound = "integer_below_min_value" if number < 1 else "integer_above_max_value"
        raise wrong(name, right, value, code=bound)
    return number


def integer(value: object) -> int | None:
    """The integer that a JSON number is, however it is written; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def wrong(name: str, right: str, value: object, *, code: str = "") -> CallerError:
    """The refusal of a value; without a code, that of its type."""
    told = repr(value) if isinstance(value, str) else msgspec.json.encode(value).decode()
    code = code or ("invalid_value" if isinstance(value, str | int) else "invalid_type")
    told = told if len(told) <= 62 else f"{told[:60]}…"
    return CallerError(f"`{name}` must be {right}; got {told}.", param=name, code=code)


def _contradiction(name: str, other: str) -> CallerError:
    return CallerError(
        f"`{name}` and `{other}` have the same meaning but different values; send one of them.",
        param=name,
        code="invalid_value",
    )


def _decoded(name: str, raw: msgspec.Raw) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise CallerError(
            f"The value of `{name}` is not valid JSON.", param=name, code="invalid_json"
        ) from None


def _dimensions(name: str, value: Any) -> Found:
    return {"dimensions": dimensions_of(name, value)}


def _role(name: str, value: Any) -> Found:
    return {"role": role_of(name, value)}


def _task(name: str, value: Any) -> Found:
    task = value.lower() if isinstance(value, str) else None
    if task not in TASKS:
        right = f"{one_of(list(TASKS))}; `instruction` takes a task in words"
        raise wrong(name, right, value)
    role = TASKS[task]
    return {} if role is None else {"role": role}


def _truncation(name: str, value: Any) -> Found:
    return {"truncate": truncation_of(name, value)}


def _side(name: str, value: Any) -> Found:
    sides = {"left": Truncation.START, "right": Truncation.END}
    side = sides.get(value.lower()) if isinstance(value, str) else None
    if side is None:
        raise wrong(name, 'one of "left" and "right"', value)
    return {"cut": side}


def _prompt_tokens(name: str, value: Any) -> Found:
    """vLLM's: -1 cuts to what the model takes."""
    if value == -1 and not isinstance(value, bool):
        return {"truncate": Truncation.END}
    raise wrong(
        name,
        "-1, which cuts at the model's limit; cut shorter texts yourself",
        value,
    )


def kind_of(name: str, value: object) -> str:
    if not isinstance(value, str) or value not in _KIND_NAMES:
        raise wrong(name, _KIND_WORDS, value)
    return _KIND_NAMES[value]


def _kind(name: str, value: Any) -> Found:
    return {"kind": kind_of(name, value)}


def _kind_or_base64(name: str, value: Any) -> Found:
    """Jina's and Cohere's, one or a list of one."""
    if isinstance(value, list) and len(value) == 1:
        (value,) = value
    elif isinstance(value, list):
        raise wrong(name, "a list of one; /v2/embed answers in several forms at once", value)
    return {"layout": "base64"} if value == "base64" else _kind(name, value)


def _endianness(name: str, value: Any) -> Found:
    if value not in ("native", "little", "big"):  # a value may be unhashable
        raise wrong(name, 'one of "little", "big" and "native", which is little here', value)
    return {"big_endian": value == "big"}


def _by_item(name: str, value: Any) -> Found:
    return {"by_item": by_item_of(name, value)}


def by_item_of(name: str, value: object) -> bool:
    if value not in ("item", "request"):
        raise wrong(name, 'one of "item" and "request"', value)
    return value == "item"


def _only(*right: object, because: str) -> Handler:
    """A field that only says what holds anyway."""

    def check(name: str, value: Any) -> Found:
        if not any(value == each and type(value) is type(each) for each in right):
            told = " or ".join(msgspec.json.encode(each).decode() for each in right)
            raise wrong(name, f"{told}, or left out: {because}", value)
        return {}

    return check


def _never(instead: str) -> Handler:
    """A field that would change the vector in a way that is not to be had by it."""

    def refuse(name: str, value: Any) -> Found:
        if value in ("", [], {}, False):
            return {}
        raise CallerError(
            f"`{name}` would change the vector and is not supported; {instead}.",
            param=name,
            code="unsupported_parameter",
        )

    return refuse


def _config(name: str, value: Any) -> Found:
    """Google's: an object of such fields. Those that are not known mean nothing."""
    if not isinstance(value, dict):
        raise wrong(name, "an object", value)
    found: Found = {}
    for each, inner in value.items():
        handler = KNOWN.get(each)
        if handler is None or handler is _config or inner is None:
            continue
        for key, meant in handler(f"{name}.{each}", inner).items():
            if found.setdefault(key, meant) != meant:
                raise _contradiction(f"{name}.{each}", name)
    return found


_UNIT = "every vector has length 1"
_OWN_PROMPT = "put it before the texts, or send the task in words as `instruction`"
_TEXTS_ONLY = "send texts as `input`"

KNOWN: Final[dict[str, Handler]] = {
    "output_dimension": _dimensions,  # Voyage, Cohere
    "output_dimensionality": _dimensions,  # Gemini
    "outputDimensionality": _dimensions,
    "dimension": _dimensions,  # DashScope
    "dims": _dimensions,
    "prompt_name": _role,  # TEI, sentence-transformers
    "text_type": _role,  # DashScope
    "task_type": _task,  # Gemini, Nomic
    "taskType": _task,
    "task": _task,  # Jina, vLLM
    "truncation": _truncation,  # Voyage
    "auto_truncate": _truncation,
    "autoTruncate": _truncation,
    "truncation_side": _side,  # vLLM
    "truncation_direction": _side,  # TEI
    "truncate_prompt_tokens": _prompt_tokens,
    "output_dtype": _kind,  # Voyage
    "embed_dtype": _kind,  # vLLM
    "embedding_type": _kind_or_base64,  # Jina
    "embedding_types": _kind_or_base64,
    "encoding_type": _kind_or_base64,  # Jina's by LlamaIndex
    "endianness": _endianness,
    "on_error": _by_item,
    "normalize": _only(True, because=_UNIT),
    "normalized": _only(True, because=_UNIT),
    "embd_normalize": _only(2, because=_UNIT),
    "use_activation": _only(True, because=_UNIT),
    "add_special_tokens": _only(True, because="the end-of-text token is part of every vector"),
    "return_multivector": _only(False, because="each text has one vector"),  # Jina
    "late_chunking": _only(False, because="each text has a vector of its own"),
    "prompt": _never(_OWN_PROMPT),
    "instruct": _never("its name here is `instruction`"),
    "instructions": _never("its name here is `instruction`"),
    "query_instruction": _never("its name here is `instruction`"),
    "title": _never("put it before the text"),  # Gemini
    "pooling": _never("the model's own is used"),
    "pooling_type": _never("the model's own is used"),
    "lora": _never("adapters are not served"),
    "embedContentConfig": _config,
    "embed_content_config": _config,
    "images": _never(_TEXTS_ONLY),
    "messages": _never(_TEXTS_ONLY),
    "texts": _never(_TEXTS_ONLY),
    "inputs": _never(_TEXTS_ONLY),
}
"""Fields beside the usual ones that change vectors elsewhere, or say how they are to be given."""
