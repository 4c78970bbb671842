"""Requests to third-party engines for vectors of texts and for scores of pairs, and their answers.

A score comes as a logit or as a probability, and leaves as the row (√(1-p), √p) of
`vocabulary.SCORE_WIDTH`. So whatever delivers vectors delivers scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

import numpy as np
import orjson

from embedfleet.models.reranker import Scoring
from embedfleet.server.gateway.replicas.third_party.answers import (
    Rows,
    Scores,
    read_classes,
    read_label_scores,
    read_ranks,
    read_results,
    read_vectors,
    scored_by_logits,
    scored_by_probabilities,
)
from embedfleet.server.gateway.replicas.third_party.facts import Facts
from embedfleet.server.gateway.replicas.third_party.texts import Pair
from embedfleet.transport.frames import MOST_WIDTH
from embedfleet.vocabulary import Encoding, ReplicaError, UnfitReplicaError

Input: TypeAlias = Encoding | str | Pair


class MiscountError(ReplicaError):
    """An engine computed another number of tokens than it was sent."""


class Form(Enum):
    """What an engine is sent of a text."""

    IDS = "ids"
    """The token ids that were made here, template and all."""
    TEXT = "text"
    """The text that has these ids between the template's."""
    PAIR = "pair"
    """Query and document; the engine puts the template around them."""


class Meaning(Enum):
    """What a number of an answer is."""

    LOGIT = "logit"
    """The score is its sigmoid."""
    PROBABILITY = "probability"
    """The score itself."""


@dataclass(frozen=True, slots=True)
class Asking:
    """How the rows of a batch are requested from one engine."""

    path: str
    form: Form
    body: Callable[[str, Sequence[Any]], Mapping[str, Any]]
    """The request for inputs of `form` from the model of this name. All pairs of one request have
    the same query and instruction."""

    def request(self, model: str, inputs: Sequence[Input]) -> bytes:
        return orjson.dumps(self.body(model, inputs), option=orjson.OPT_SERIALIZE_NUMPY)

    def rows(self, body: bytes, texts: int, tokens: int, width: int = MOST_WIDTH) -> Rows:  # noqa: ARG002
        """The rows of an answer for so many texts of so many tokens, of `width` dimensions at most;
        ReplicaError on nonsense.
        """
        return read_vectors(body, texts, width)


@dataclass(frozen=True, slots=True)
class ScoreAsking(Asking):
    """How scores are requested from one engine."""

    read: Callable[[bytes, int], Scores]
    """The numbers of an answer, in the order of the request."""
    meaning: Meaning | None
    """None where it has to be found out, by comparison of `body` with `activated`."""
    activated: Callable[[str, Sequence[Any]], Mapping[str, Any]] | None = None
    """The request for the same numbers after the engine's activation function."""
    instructs: bool = False
    """Whether it takes the instruction of a pair; others have the model's own."""
    counts: bool = False
    """Whether the answer's usage counts the tokens of the pairs. It must agree with what was sent
    then: an engine that cuts, or writes pairs in another way, is found out."""
    spare: int = 0
    """Tokens of its context that the engine leaves free: a pair that needs them is sent without
    the last tokens of its document."""
    placeholder: str = ""
    """What the engine replaces in its template after the query is in it: no query may have it."""

    def scores(self, body: bytes, texts: int, tokens: int) -> Scores:
        """The numbers of an answer; ReplicaError on nonsense, MiscountError of other tokens."""
        found = self.read(body, texts)
        if self.counts and found.tokens != tokens:
            raise MiscountError(
                f"it computed {found.tokens} tokens where {tokens} were sent: it cuts pairs, or "
                "writes them in another way than the model's template"
            )
        return found

    def rows(self, body: bytes, texts: int, tokens: int, width: int = MOST_WIDTH) -> Rows:  # noqa: ARG002
        found = self.scores(body, texts, tokens)
        if self.meaning is Meaning.LOGIT:
            return scored_by_logits(found.numbers)
        return scored_by_probabilities(found.numbers)


def embeddings(form: Form, encoding_format: str) -> Asking:
    """OpenAI's embeddings, always as a list. `dimensions` is never sent: engines differ in how they
    shorten vectors, and the gateway derives them from the full ones.
    """

    def body(model: str, inputs: Sequence[Any]) -> Mapping[str, Any]:
        return {"model": model, "input": list(inputs), "encoding_format": encoding_format}

    return Asking("/v1/embeddings", form, body)


# -- scores ---------------------------------------------------------------------------------


def _classify(*, activation: bool) -> Callable[[str, Sequence[Any]], Mapping[str, Any]]:
    """`activation` was the field's name until 0.11."""

    def body(model: str, inputs: Sequence[Any]) -> Mapping[str, Any]:
        told = {"use_activation": activation, "activation": activation}
        return {"model": model, "input": list(inputs), **told}

    return body


VLLM_CLASSES = ScoreAsking(
    "/classify",
    Form.IDS,
    _classify(activation=False),
    read_classes,
    None,
    _classify(activation=True),
    counts=True,
)
"""vLLM's `/score` and `/rerank` take texts and write pairs themselves; `/classify` takes the ids of
whole pairs, and its one class is the score."""


def _rerank(**more: Any) -> Callable[[str, Sequence[Any]], Mapping[str, Any]]:
    """Jina's request."""

    def body(model: str, inputs: Sequence[Any]) -> Mapping[str, Any]:
        documents = [pair.document for pair in inputs]
        return {"model": model, "query": inputs[0].query, "documents": documents, **more}

    return body


VLLM_RANKS = ScoreAsking(
    "/rerank",
    Form.PAIR,
    _rerank(use_activation=False, activation=False),
    read_results,
    None,
    _rerank(use_activation=True, activation=True),
    counts=True,
)
"""For classifiers of the BERT family, whose second text is a segment of its own: ids alone do not
tell where it begins."""


def vllm(reranker: Scoring, _facts: Facts) -> tuple[ScoreAsking, ...]:
    return (VLLM_CLASSES if reranker.causal else VLLM_RANKS,)


def _sglang_labels(tokens: tuple[int, int]) -> ScoreAsking:
    """SGLang's probabilities of two tokens after a prompt, those of "yes" and "no"."""

    def body(model: str, inputs: Sequence[Any]) -> Mapping[str, Any]:
        asked = {"label_token_ids": list(tokens), "apply_softmax": True}
        return {"model": model, "query": [], "items": list(inputs), **asked}

    return ScoreAsking(
        "/v1/score", Form.IDS, body, read_label_scores, Meaning.PROBABILITY, counts=True
    )


def _sglang_pooled(model: str, inputs: Sequence[Any]) -> Mapping[str, Any]:
    return {"model": model, "query": [], "items": list(inputs), "apply_softmax": False}


SGLANG_CLASSES = ScoreAsking(
    "/v1/score", Form.IDS, _sglang_pooled, read_label_scores, Meaning.LOGIT, counts=True
)
"""The logits of a classifier."""


def sglang(reranker: Scoring, facts: Facts) -> tuple[ScoreAsking, ...]:
    if reranker.segments:
        raise UnfitReplicaError(f"SGLang is asked by token ids, which do not tell {SEGMENTS}")
    if not facts.generates:
        return (SGLANG_CLASSES,)
    if reranker.answers is None:
        raise UnfitReplicaError('it generates text, and this model has no tokens "yes" and "no"')
    return (_sglang_labels(reranker.answers),)


def llamacpp(reranker: Scoring, _facts: Facts) -> tuple[ScoreAsking, ...]:
    """It writes pairs by the template in the GGUF file. Of Qwen3 it answers the softmax over "yes"
    and "no", of others a logit.
    """
    if reranker.segments:
        raise UnfitReplicaError(f"llama.cpp does not compute {SEGMENTS}")
    meaning = Meaning.PROBABILITY if reranker.causal else Meaning.LOGIT
    return (
        ScoreAsking(
            "/v1/rerank",
            Form.PAIR,
            _rerank(),
            read_results,
            meaning,
            counts=True,
            spare=1 if reranker.causal else 0,
            placeholder="{document}" if reranker.causal else "",
        ),
    )


def _gateway_rerank(model: str, inputs: Sequence[Any]) -> Mapping[str, Any]:
    body = _rerank(truncate=False, raw_scores=True)(model, inputs)
    return {**body, "instruction": inputs[0].instruction} if inputs[0].instruction else body


GATEWAY_RANKS = ScoreAsking(
    "/v1/rerank",
    Form.PAIR,
    _gateway_rerank,
    read_results,
    Meaning.LOGIT,
    counts=True,
    instructs=True,
)


def gateway(_reranker: Scoring, _facts: Facts) -> tuple[ScoreAsking, ...]:
    return (GATEWAY_RANKS,)


def _tei_rerank(*, raw: bool) -> Callable[[str, Sequence[Any]], Mapping[str, Any]]:
    def body(_model: str, inputs: Sequence[Any]) -> Mapping[str, Any]:
        texts = [pair.document for pair in inputs]
        told = {"raw_scores": raw, "truncate": False}
        return {"query": inputs[0].query, "texts": texts, **told}

    return body


TEI_RANKS = ScoreAsking("/rerank", Form.PAIR, _tei_rerank(raw=True), read_ranks, Meaning.LOGIT)


def tei(reranker: Scoring, _facts: Facts) -> tuple[ScoreAsking, ...]:
    if reranker.causal:
        raise UnfitReplicaError(
            f"TEI knows no template for pairs, and this model has one; {OTHERS}"
        )
    return (TEI_RANKS,)


RANKS = tuple(
    ScoreAsking(
        path, Form.PAIR, _rerank(raw_scores=True), read_results, None, _rerank(raw_scores=False)
    )
    for path in ("/v1/rerank", "/rerank")
)
"""Jina's API, as Infinity and others have it."""


def openai(reranker: Scoring, _facts: Facts) -> tuple[ScoreAsking, ...]:
    if reranker.causal:
        raise UnfitReplicaError(
            "how this engine renders pairs is unknown, and this model has a template for them; "
            f"{OTHERS}"
        )
    return RANKS


OTHERS = "vLLM, SGLang, llama.cpp and embedfleet compute it"
SEGMENTS = "where the second segment of a BERT pair begins; TEI, vLLM and Infinity do"


def meaning_of(raw: Scores, activated: Scores) -> Meaning:
    """What an engine answers where logits are asked for, by what it answers where probabilities
    are. Raises ReplicaError where neither is likely.
    """
    numbers = activated.numbers
    if not np.array_equal(raw.numbers, numbers):
        # Of two classes the difference was read, which may be negative.
        if np.abs(numbers).max() <= 1:
            return Meaning.LOGIT
        raise ReplicaError("its scores are not probabilities, in any form of request")
    # It has no activation function, or does not know that it may be left out.
    return Meaning.PROBABILITY if numbers.min() >= 0 and numbers.max() <= 1 else Meaning.LOGIT
