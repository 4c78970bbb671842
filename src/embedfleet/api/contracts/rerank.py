"""Reranking as Jina, vLLM, Cohere, Voyage and TEI define it, and scoring as vLLM defines it.

One response suits clients of the first four: each reads its own fields. TEI's is a bare list, and
its errors have another form than theirs at the same path.
Scores are probabilities from 0 to 1, or logits on request (`raw_scores`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import orjson
from numpy.typing import NDArray

from embedfleet.api.contracts.contract import Answer, Asked, Contract, TwoApis
from embedfleet.api.contracts.tei import TEI
from embedfleet.api.formats.large_bodies import Body, Step
from embedfleet.api.formats.rerank_request import (
    RerankRequest,
    is_for_tei,
    parse_rerank,
    parse_score,
)
from embedfleet.models.scores import logits_of, probabilities_of
from embedfleet.transport.asgi import Response
from embedfleet.transport.errors import render_error
from embedfleet.vocabulary import SCORE_WIDTH, EmbedfleetError


class Rerank:
    """`/rerank`, `/v1/rerank` and `/v2/rerank`."""

    name = "rerank"

    def read(self, body: Body, asked: Asked) -> RerankRequest:
        return parse_rerank(body, asked.limits)

    def read_large(self, body: Body, asked: Asked, step: Step) -> RerankRequest:
        step()
        return parse_rerank(body, asked.limits)

    def write(self, answer: Answer) -> Response:
        request = asked_for(answer)
        scores = scores_of(answer)
        best = np.argsort(-scores, kind="stable")[: request.top_n]
        if request.bare:
            return Response(orjson.dumps(_ranked(request, scores, best, "score", nested=False)))
        ranked = _ranked(request, scores, best, "relevance_score", nested=True)
        document = {
            "id": answer.name,
            "object": "list",
            "model": request.model,
            "results": ranked,
            "usage": {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens},
            "meta": {
                "api_version": {"version": "2"},
                "billed_units": {"search_units": 1},
                "tokens": {"input_tokens": answer.tokens},
            },
        }
        if request.as_data:
            document["data"] = ranked
        return Response(orjson.dumps(document))

    def refuse(self, error: EmbedfleetError) -> bytes:
        return _refusal(error)


class TeiRerank(Rerank):
    """The same paths where the body is TEI's."""

    def refuse(self, error: EmbedfleetError) -> bytes:
        return TEI.refuse(error)


class Score:
    """`/score` and `/v1/score`."""

    name = "score"

    def read(self, body: Body, asked: Asked) -> RerankRequest:
        return parse_score(body, asked.limits)

    def read_large(self, body: Body, asked: Asked, step: Step) -> RerankRequest:
        step()
        return parse_score(body, asked.limits)

    def write(self, answer: Answer) -> Response:
        data = [
            {"index": place, "object": "score", "score": score}
            for place, score in enumerate(scores_of(answer).tolist())
        ]
        document = {
            "id": answer.name,
            "object": "list",
            "model": answer.request.model,
            "data": data,
            "usage": {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens},
        }
        return Response(orjson.dumps(document))

    def refuse(self, error: EmbedfleetError) -> bytes:
        return _refusal(error)


RERANK = Rerank()
SCORE = Score()

_EITHER = TwoApis(RERANK, TeiRerank(), is_for_tei)

ROUTES: Final[Mapping[str, Contract | TwoApis]] = {
    "/rerank": _EITHER,
    "/v1/rerank": _EITHER,
    "/v2/rerank": _EITHER,
    "/score": SCORE,
    "/v1/score": SCORE,
}
"""Paths at which scores are requested by POST."""


def asked_for(answer: Answer) -> RerankRequest:
    if not isinstance(answer.request, RerankRequest):
        raise TypeError(f"no request for scores: {type(answer.request).__name__}")
    return answer.request


def scores_of(answer: Answer) -> NDArray[np.float64]:
    """Of all documents in order: logits for `raw_scores`, else probabilities."""
    rows = np.asarray(answer.full, np.float32).reshape(-1, SCORE_WIDTH)
    return logits_of(rows) if asked_for(answer).raw_scores else probabilities_of(rows)


def _ranked(
    request: RerankRequest,
    scores: NDArray[np.float64],
    best: NDArray[np.intp],
    name: str,
    *,
    nested: bool,
) -> Sequence[dict[str, object]]:
    found = []
    for place in best.tolist():
        one: dict[str, object] = {"index": place, name: float(scores[place])}
        if request.return_documents:
            text = str(request.inputs[place])
            one |= {"document": {"text": text}} if nested else {"text": text}
        found.append(one)
    return found


def _refusal(error: EmbedfleetError) -> bytes:
    """OpenAI's form, which vLLM has, and beside it the message where Cohere's clients look."""
    document = orjson.loads(render_error(error))
    return orjson.dumps({"message": error.message, **document})
