"""Parses rerank and score requests as Jina, vLLM, Cohere, Voyage and TEI define them.

A request for scores is a request for vectors whose texts are documents and which has queries
(`EmbeddingRequest.queries`); a score is a vector of two numbers (`vocabulary.SCORE_WIDTH`). As for
embeddings, a field that would change scores is honoured or refused, and unknown ones are ignored
and reported.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from embedfleet.api.formats.embedding_request import EmbeddingRequest, RequestLimits
from embedfleet.api.formats.fields import (
    MOST_IGNORED,
    integer,
    shown,
    truncation_of,
    unknown_field,
    wrong,
)
from embedfleet.api.formats.large_bodies import Body
from embedfleet.vocabulary import CallerError, Truncation

BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"

_DOCUMENTS: Final = 'a list of strings, or of objects with a string "text"'
_QUERIES: Final = "a string, or a list of as many strings as there are documents"
_LEFT: Final = ("text_1", "data_1", "queries", "query", "source_sentence")
_RIGHT: Final = ("text_2", "data_2", "documents", "items", "sentences")
"""Names that vLLM has had for the two sides of a pair."""
_VOYAGE: Final = {"top_k", "truncation"}
"""Voyage's names for `top_n` and `truncate`."""
_SIDES: Final = ("truncation_direction", "truncation_side")
"""TEI's and vLLM's name for the end that is cut off."""
_ACTIVATED: Final = ("use_activation", "activation")
"""vLLM's names, of which false is `raw_scores`."""
_ALL_TOKENS: Final = "truncate_prompt_tokens"
_MEANT: Final = {
    "model", "user", "instruction", "truncate", "raw_scores", _ALL_TOKENS, *_SIDES, *_ACTIVATED,
}  # fmt: skip
INSTEAD: Final = {
    "instruct": "its name here is `instruction`",
    "instructions": "its name here is `instruction`",
    "query_instruction": "its name here is `instruction`",
    "prompt": "put it before the query, or send the task in words as `instruction`",
    "rank_fields": "join the fields that count, and send them as `text`",  # Cohere's first version
    "return_embeddings": "/v1/embeddings has vectors",  # Jina
    "images": "only texts are scored",
    "messages": "send query and documents",
    "chat_template": "`reranker.json` in the model's directory sets a template",  # vLLM
    "chat_template_kwargs": "an instruction is sent as `instruction`",
    "lora": "adapters are not served",
}
"""Fields that would change the answer and are not supported, with what does the same."""
_IDLE: Final[tuple[object, ...]] = ("", [], {}, False, ["text"])
"""Values of these that change nothing."""


class RerankRequest(EmbeddingRequest, frozen=True):
    """One request for scores; `inputs` are the documents."""

    top_n: int | None = None
    """How many of the best are answered; None: all."""
    return_documents: bool = False
    raw_scores: bool = False
    """Whether logits are answered in the place of probabilities."""
    bare: bool = False
    """Whether a bare list is answered, as TEI does."""
    as_data: bool = False
    """Whether the results are answered under Voyage's name too."""


class _Names(msgspec.Struct, gc=False):
    """Which of two names a body has."""

    texts: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    documents: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_names = msgspec.json.Decoder(_Names)


def is_for_tei(body: Body) -> bool:
    """Whether a body is TEI's: it has `texts` in the place of `documents`."""
    if b'"texts"' not in body:
        return False
    try:
        found = _names.decode(bytes(body).removeprefix(BYTE_ORDER_MARK))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return _given(found.texts) and not _given(found.documents)


def _given(value: msgspec.Raw | msgspec.UnsetType) -> bool:
    return value is not msgspec.UNSET and bytes(value) != b"null"


def parse_rerank(body: Body, limits: RequestLimits) -> RerankRequest:
    """Read the body of a reranking route; raises CallerError with `param` and `code`."""
    fields = _object(body)
    bare = "texts" in fields and "documents" not in fields
    name = "texts" if bare else "documents"
    query = fields.get("query")
    if not isinstance(query, str) or not query.strip():
        raise wrong("query", "a string that is not blank", query)
    documents = _documents(name, fields.get(name), limits)
    with_text = "return_text" if bare else "return_documents"
    known = {"query", name, "top_n", *_VOYAGE, with_text, *_MEANT}
    return RerankRequest(
        **_common(fields, known, limits),
        inputs=documents,
        queries=(query,),
        field=name,
        truncate=_truncation(fields, Truncation.NONE if bare else Truncation.END),
        top_n=_top(fields),
        return_documents=_flag(fields, with_text),
        raw_scores=_raw(fields),
        bare=bare,
        as_data=not _VOYAGE.isdisjoint(fields),
    )


def parse_score(body: Body, limits: RequestLimits) -> RerankRequest:
    """Read the body of a scoring route: one query for all documents, or one for each."""
    fields = _object(body)
    left = _named(fields, _LEFT)
    right = _named(fields, _RIGHT)
    given = fields[right]
    documents = _documents(right, [given] if isinstance(given, str) else given, limits)
    queries = fields[left]
    queries = [queries] if isinstance(queries, str) else queries
    if not isinstance(queries, list) or not all(
        isinstance(each, str) and each.strip() for each in queries
    ):
        raise wrong(left, _QUERIES, queries)
    if len(queries) not in {1, len(documents)}:
        raise CallerError(
            f"`{left}` has {len(queries)} texts and `{right}` {len(documents)}; send one query, or "
            "one for each document.",
            param=left,
            code="invalid_value",
        )
    if len(set(queries)) == 1:
        queries = queries[:1]
    return RerankRequest(
        **_common(fields, {left, right, *_MEANT}, limits),
        inputs=documents,
        queries=tuple(queries),
        field=right,
        truncate=_truncation(fields, Truncation.NONE),
        raw_scores=_raw(fields),
    )


def _object(body: Body) -> dict[str, Any]:
    try:
        fields = msgspec.json.decode(bytes(body).removeprefix(BYTE_ORDER_MARK))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        told = str(error)[:200] or "it is nested too deeply"
        raise CallerError(f"The body is not valid JSON: {told}.", code="invalid_json") from None
    if not isinstance(fields, dict):
        raise CallerError("The body must be a JSON object.", code="invalid_type")
    return {name: value for name, value in fields.items() if value is not None}


def _named(fields: dict[str, Any], names: tuple[str, ...]) -> str:
    found = [name for name in names if name in fields]
    if len(found) == 1:
        return found[0]
    if not found:
        raise CallerError(
            f"`{names[0]}` is missing; send {_QUERIES if names is _LEFT else _DOCUMENTS}.",
            param=names[0],
            code="missing_required_parameter",
        )
    raise CallerError(
        f"`{found[0]}` and `{found[1]}` mean the same; send one of them.",
        param=found[1],
        code="invalid_value",
    )


def _documents(name: str, given: object, limits: RequestLimits) -> tuple[str, ...]:
    if given is None:
        raise CallerError(
            f"`{name}` is missing; send {_DOCUMENTS}.",
            param=name,
            code="missing_required_parameter",
        )
    if not isinstance(given, list):
        raise wrong(name, _DOCUMENTS, given)
    if not given:
        raise CallerError(f"`{name}` is empty.", param=name, code="empty_array")
    if len(given) > limits.max_texts:
        raise CallerError(
            f"`{name}` has {len(given)} texts; at most {limits.max_texts} can be sent in one "
            "request.",
            param=name,
            code="array_above_max_length",
        )
    texts = []
    for place, one in enumerate(given):
        text = one.get("text") if isinstance(one, dict) else one
        if not isinstance(text, str):
            raise wrong(f"{name}[{place}]", 'a string, or an object with a string "text"', one)
        texts.append(text)
    return tuple(texts)


def _common(fields: dict[str, Any], known: set[str], limits: RequestLimits) -> dict[str, Any]:
    """Model, instruction and what is ignored."""
    model, instruction = fields.get("model", ""), fields.get("instruction")
    if not isinstance(model, str):
        raise wrong("model", "a string, the name of a served model", model)
    most = limits.max_instruction_characters
    if instruction is not None and (not isinstance(instruction, str) or len(instruction) > most):
        raise wrong("instruction", f"a string of at most {most} characters", instruction)
    ignored = [name for name in fields if name not in known]
    for name in ignored:
        if name in INSTEAD and fields[name] not in _IDLE:
            raise CallerError(
                f"`{name}` would change the answer and is not supported; {INSTEAD[name]}.",
                param=name,
                code="unsupported_parameter",
            )
    if ignored and not limits.unknown_fields:
        raise unknown_field(ignored[0])
    return {
        "model": model,
        "instruction": instruction or None,
        "ignored": tuple(map(shown, ignored[:MOST_IGNORED])),
    }


def _truncation(fields: dict[str, Any], otherwise: Truncation) -> Truncation:
    """What becomes of documents that are too long; queries are never cut."""
    wanted = otherwise
    for name in ("truncation", "truncate"):
        if name in fields:
            wanted = truncation_of(name, fields[name])
    if _ALL_TOKENS in fields:
        if fields[_ALL_TOKENS] != -1:
            right = "-1, which cuts documents to what the model takes"
            raise wrong(_ALL_TOKENS, right, fields[_ALL_TOKENS])
        wanted = Truncation.END if wanted is Truncation.NONE else wanted
    for name in _SIDES:
        side = fields.get(name, "right")
        if str(side).lower() not in {"left", "right"}:
            raise wrong(name, 'one of "Left" and "Right"', side)
        if name in fields and wanted is not Truncation.NONE:
            wanted = Truncation.START if str(side).lower() == "left" else Truncation.END
    return wanted


def _top(fields: dict[str, Any]) -> int | None:
    found = None
    for name in ("top_k", "top_n"):
        value = fields.get(name)
        if value is not None:
            found = integer(value)
            if found is None or found < 1:
                raise wrong(name, "a positive whole number", value)
    return found


def _raw(fields: dict[str, Any]) -> bool:
    """Whether logits are answered."""
    return _flag(fields, "raw_scores") or not all(
        _flag(fields, name, otherwise=True) for name in _ACTIVATED
    )


def _flag(fields: dict[str, Any], name: str, *, otherwise: bool = False) -> bool:
    value = fields.get(name, otherwise)
    if not isinstance(value, bool):
        raise wrong(name, "true or false", value)
    return value
