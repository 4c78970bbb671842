"""Served models as clients see them, and adapting requests to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from embedfleet.api.formats.embedding_request import EmbeddingRequest
from embedfleet.models.encoding.encoder import Encoder
from embedfleet.models.encoding.prompts import prompt_for
from embedfleet.models.reranker import pair_prompt
from embedfleet.scheduling.texts import Backend
from embedfleet.vocabulary import CallerError, ModelIdentity, Pooling, Precision, Task, Truncation

UNKNOWN = "unknown "
"""Prefix of the revision of weights whose fingerprint is unknown."""


@dataclass(frozen=True, slots=True, eq=False)
class ModelVersion:
    """The version of a model that a pool serves: every vector of it is of these weights and at
    least this precision."""

    revision: str
    """Fingerprint of the weights; where it is unknown, a value unique to this process."""
    precision: Precision


def _no_version() -> ModelVersion | None:
    return None


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as callers see it."""

    identity: ModelIdentity
    names: tuple[str, ...]
    """What callers may call it; the first one is shown in lists."""
    encoder: Encoder
    backend: Backend
    created: int
    """Seconds since 1970, for OpenAI's model list."""
    version: Callable[[], ModelVersion | None] = _no_version
    """The same object each time, once it is known; until then the cache is not used."""
    pooling: str = Pooling.LAST
    """Which states of a text become its vector."""
    truncate: Truncation = Truncation.NONE
    """What becomes of texts that are too long where a request does not say."""


def truncation(model: ServedModel, parsed: EmbeddingRequest) -> Truncation:
    """What becomes of a request's texts that are too long for its model."""
    wanted = parsed.truncate or model.truncate
    return wanted if wanted is Truncation.NONE or parsed.cut is None else parsed.cut


def prompt_of(model: ServedModel, parsed: EmbeddingRequest) -> str:
    """What stands before each of a request's texts."""
    query = parsed.queries[0] if parsed.queries else None
    return prompt_for(model.identity, parsed.role, parsed.instruction, query)


def fitted(parsed: EmbeddingRequest, model: ServedModel) -> EmbeddingRequest:
    """The request as its model is asked. Raises CallerError where the model is for another task.

    Texts that have a query each get it before them; where such a pair is too long, it is refused,
    for a cut might come to the query.
    """
    reranks, name = model.identity.task is Task.RERANK, model.names[0]
    if reranks and not parsed.queries:
        raise CallerError(
            f"the model `{name}` is a reranker, not an embedding model: use it at /v1/rerank",
            param="model",
            code="wrong_task",
        )
    if parsed.queries and not reranks:
        raise CallerError(
            f"the model `{name}` is an embedding model, not a reranker: use it, at /v1/embeddings",
            param="model",
            code="wrong_task",
        )
    if len(parsed.queries) <= 1:
        return parsed
    prompts = model.identity.prompts
    pairs = tuple(
        f"{pair_prompt(prompts, query, parsed.instruction)}{text}"
        for query, text in zip(parsed.queries, parsed.inputs, strict=True)
    )
    return msgspec.structs.replace(
        parsed, inputs=pairs, queries=(), instruction=None, truncate=Truncation.NONE
    )


class Answered(msgspec.Struct, frozen=True):
    """What is reported about each finished request, for metrics."""

    model: str | None
    """First name of the model; None when the request did not get that far."""
    status: int
    seconds: float
    texts: int = 0
    tokens: int = 0
    address: str = ""
    """The client's, as far as it can be believed."""
    key: str = ""
    """The id of the caller's key."""
    hits: int | None = None
    """Texts that a cache knew; None without one."""
