"""Third-party engines that rerank, as their sources say; each score reveals its pair.

vLLM 0.24 (`/classify` and `/rerank`), SGLang 0.5.15 (`/v1/score`), llama.cpp's server with
`--reranking`, TEI 1.8 and Infinity 0.0.78 (`/rerank`), and another embedfleet gateway. What each
does with pairs is its own: ids as they come, a template of its own around texts, or the tokenizer's
way to encode two texts.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import web
from tokenizers import processors

from embedfleet.models.description import ModelDescription, describe
from tests import encoder_tokenizers, small_tokenizer
from tests.fakes.revealing_engine import UNLUCKY
from tests.stand_ins.openai import VLLM, Gateway, LlamaCpp, OpenAICompatible
from tests.stand_ins.server import MAX_TOKENS, StandIn, answer, posted
from tests.stand_ins.sglang import SGLang
from tests.stand_ins.tei import TEI

YES, NO = 7, 11
"""Token ids of the answers."""

INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
TEMPLATE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
    "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
"""As the model's card has it, and llama.cpp's conversion script."""


def causal_model(directory: Path) -> ModelDescription:
    """A reranker of Qwen3-Reranker's kind, without weights."""
    place = small_tokenizer.write_model(
        directory / "small",
        architectures=["Qwen3ForCausalLM"],
        model_type="qwen3",
        max_position_embeddings=MAX_TOKENS,
    )
    (place / "1_LogitScore").mkdir()
    told = f'{{"true_token_id": {YES}, "false_token_id": {NO}}}'
    (place / "1_LogitScore" / "config.json").write_text(told)
    return describe(place)


def classifier_model(directory: Path, kind: encoder_tokenizers.Kind) -> ModelDescription:
    """One of bge-reranker's kind (`unigram`), or of MiniLM's with two segments (`wordpiece`)."""
    built = encoder_tokenizers.tokenizer(kind)
    roberta = kind == "unigram"
    if roberta:
        built.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>",
            pair="<s> $A </s> </s> $B </s>",
            special_tokens=[(token, built.token_to_id(token)) for token in ("<s>", "</s>")],
        )
    name = "XLMRoberta" if roberta else "Bert"
    place = small_tokenizer.write_model(
        directory / "small",
        built=built,
        architectures=[f"{name}ForSequenceClassification"],
        model_type="xlm-roberta" if roberta else "bert",
        id2label={"0": "LABEL_0"},
        type_vocab_size=1 if roberta else 2,
        pad_token_id=1 if roberta else 0,
        max_position_embeddings=MAX_TOKENS + 2 if roberta else MAX_TOKENS,
    )
    return describe(place)


def logit_of(ids: Sequence[int]) -> float:
    """The one right logit of a pair, between -6 and 6."""
    raw = np.asarray(ids, "<i4").tobytes()
    number = int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little")
    return 12 * number / 2**64 - 6


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def number(value: float) -> float | None:
    """JSON has no NaN: some engines write null."""
    return None if math.isnan(value) else value


def spoiled(engine: StandIn, values: list[float]) -> list[tuple[int, float]]:
    """Number the scores; wrongly, or wrong ones, where nonsense is asked for."""
    nonsense = engine.nonsense
    if nonsense == "nan":
        values = [math.nan] * len(values)
    if nonsense == "constant":
        values = [1.0] * len(values)
    if nonsense == "missing":
        values = values[:-1]
    if nonsense == "repeated":
        return [(0, value) for value in values]
    if nonsense == "beyond":
        return [(place + 1, value) for place, value in enumerate(values)]
    if nonsense == "reversed":  # in another order, rightly numbered: no nonsense at all
        return list(enumerate(values))[::-1]
    return list(enumerate(values))


def used(engine: Any, rows: list[list[int]]) -> dict[str, int]:
    """Tokens as the engine counts them: fewer where it cuts pairs."""
    count = sum(map(len, rows)) - (engine.nonsense == "cut" or engine.cut in rows)
    return {"prompt_tokens": count, "total_tokens": count}


def jina_results(engine: Any, rows: list[list[int]], score: Callable[[float], float]) -> Any:
    """Best first, as all of them answer."""
    found = spoiled(engine, [score(engine.logit(row)) for row in rows])
    if engine.nonsense != "reversed":
        found.sort(key=lambda one: (math.isnan(one[1]), -one[1] if one[1] == one[1] else 0))
    return [{"index": index, "relevance_score": number(value)} for index, value in found]


def in_place_of_vectors(routes: list[web.RouteDef], *ours: web.RouteDef) -> list[web.RouteDef]:
    return [*(route for route in routes if route.path != "/v1/embeddings"), *ours]


class Pairs:
    """What an engine makes of a query and a document."""

    templated: bool = True
    unlucky: bool = True
    """Whether it has NaN for pairs with a certain token."""
    cut: Sequence[int] = ()
    """The pair that it cuts."""

    def unable(self, rows: Sequence[Sequence[int]]) -> bool:
        return self.unlucky and any(UNLUCKY in row for row in rows)

    def logit(self, ids: Sequence[int]) -> float:
        return math.nan if self.unable([ids]) else logit_of(ids)

    def pair(self, query: str, document: str, instruction: str = INSTRUCTION) -> list[int]:
        assert isinstance(self, StandIn)
        if self.templated:
            text = TEMPLATE.replace("{instruction}", instruction)
            text = text.replace("{query}", query).replace("{document}", document)
            found: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
            return found
        both: list[int] = self.tokenizer.encode(query, document).ids
        return both


@dataclass
class VLLMReranker(VLLM, Pairs):
    """`vllm serve --runner pooling --convert classify`."""

    templated: bool = True
    labels: int = 1
    activates: bool = True
    """Whether it knows that its activation function may be left out."""

    def routes(self) -> list[web.RouteDef]:
        return in_place_of_vectors(
            super().routes(), web.post("/classify", self.classify), web.post("/rerank", self.rerank)
        )

    def activation(self, body: dict[str, Any]) -> Callable[[float], float]:
        if self.activates and body.get("use_activation") is False:
            return float
        return sigmoid

    @posted
    async def classify(self, body: dict[str, Any]) -> web.StreamResponse:
        rows = [list(one) for one in body["input"]]
        if refused := self.refuses(body, rows):
            return refused
        score = self.activation(body)
        data = []
        for index, value in spoiled(self, [score(self.logit(row)) for row in rows]):
            if math.isnan(value):
                return self.error(500, "Out of range float values are not JSON compliant")
            probabilities = [value]
            if self.labels == 2:
                probabilities = [1 - value, value] if score is sigmoid else [-value / 2, value / 2]
            told = {"label": "LABEL_0", "num_classes": self.labels}
            data.append({"index": index, "probs": probabilities, **told})
        usage = used(self, rows) | {"completion_tokens": 0}
        return answer({"id": "classify-1", "object": "list", "data": data, "usage": usage})

    @posted
    async def rerank(self, body: dict[str, Any]) -> web.StreamResponse:
        rows = [self.pair(body["query"], document) for document in body["documents"]]
        if self.unable(rows):
            return self.error(500, "Out of range float values are not JSON compliant")
        if refused := self.refuses({"model": body["model"], "input": rows}, rows):
            return refused
        results = jina_results(self, rows, self.activation(body))
        return answer(
            {"id": "1", "model": self.name, "results": results, "usage": used(self, rows)}
        )


@dataclass
class SGLangReranker(SGLang, Pairs):
    """SGLang with the causal model as it was published, or with a classifier."""

    embedding: bool = False
    joins: bool = False

    def routes(self) -> list[web.RouteDef]:
        return in_place_of_vectors(super().routes(), web.post("/v1/score", self.score))

    async def server_info(self, request: web.Request) -> web.Response:
        found = await super().server_info(request)
        return answer(json.loads(found.text or "") | {"enable_mis": self.joins})

    @posted
    async def score(self, body: dict[str, Any]) -> web.StreamResponse:
        if body["query"] != [] or not all(isinstance(one, list) for one in body["items"]):
            return self.refusal("Invalid combination of query/items types for score_request.")
        rows = body["items"]
        logits = [value for _, value in spoiled(self, [self.logit(row) for row in rows])]
        scores: list[list[float | None]] = [[number(value)] for value in logits]
        if not self.embedding:
            if body.get("label_token_ids") != [YES, NO] or not body["apply_softmax"]:
                return self.refusal("label_token_ids is required for generation models.")
            chances = [sigmoid(value) for value in logits]
            scores = [[number(chance), number(1 - chance)] for chance in chances]
            if self.nonsense == "odd":
                scores = [[0.5, 0.9] for _ in scores]
        return answer({"scores": scores, "usage": used(self, rows), "object": "scoring"})


@dataclass
class LlamaReranker(LlamaCpp, Pairs):
    """`llama-server --reranking`."""

    templated: bool = True

    def routes(self) -> list[web.RouteDef]:
        return in_place_of_vectors(super().routes(), web.post("/v1/rerank", self.rerank))

    @posted
    async def rerank(self, body: dict[str, Any]) -> web.StreamResponse:
        rows = [self.pair(body["query"], document) for document in body["documents"]]
        if self.templated and any(len(row) >= self.context for row in rows):
            return self.error(400, "request exceeds the available context size, try increasing it")
        if too_long := super().refuses(body, [row for row in rows if len(row) > self.microbatch]):
            return too_long
        results = jina_results(self, rows, sigmoid if self.templated else float)
        return answer({"model": self.name, "results": results, "usage": used(self, rows)})


@dataclass
class GatewayReranker(Gateway, Pairs):
    """Another gateway, whose only model is the reranker."""

    templated: bool = True

    def routes(self) -> list[web.RouteDef]:
        return in_place_of_vectors(super().routes(), web.post("/v1/rerank", self.rerank))

    def model_row(self) -> dict[str, Any]:
        row = super().model_row() | {"task": "rerank"}
        del row["dimensions"]
        return row

    @posted
    async def rerank(self, body: dict[str, Any]) -> web.StreamResponse:
        instruction = body.get("instruction") or INSTRUCTION
        rows = [self.pair(body["query"], text, instruction) for text in body["documents"]]
        if body.get("model") != self.name:
            return self.error(404, f"the model `{body.get('model')}` does not exist here")
        if self.unable(rows):
            return self.error(500, "no finite vector")
        results = jina_results(self, rows, float if body.get("raw_scores") else sigmoid)
        return answer({"model": self.name, "results": results, "usage": used(self, rows)})


@dataclass
class TEIReranker(TEI, Pairs):
    """`text-embeddings-router` with a classifier of one label."""

    templated: bool = False
    serves: str = "reranker"

    def routes(self) -> list[web.RouteDef]:
        return in_place_of_vectors(super().routes(), web.post("/rerank", self.rerank))

    async def info(self, request: web.Request) -> web.Response:
        page = json.loads((await super().info(request)).text or "")
        labels = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
        return answer(page | {"model_type": {self.serves: labels}})

    @posted
    async def rerank(self, body: dict[str, Any]) -> web.StreamResponse:
        if len(body["texts"]) > self.most_texts:
            message = f"batch size {len(body['texts'])} > maximum allowed {self.most_texts}"
            return self.error(413, message)
        rows = [self.pair(body["query"], text) for text in body["texts"]]
        results = jina_results(self, rows, float if body["raw_scores"] else sigmoid)
        return answer([{"index": one["index"], "score": one["relevance_score"]} for one in results])


@dataclass
class Infinity(OpenAICompatible, Pairs):
    """`infinity_emb v2 --url-prefix /v1`, which knows `raw_scores`; its usage is none of tokens."""

    templated: bool = False
    path: str = "/v1/rerank"
    owner: str = "infinity"

    def routes(self) -> list[web.RouteDef]:
        return in_place_of_vectors(super().routes(), web.post(self.path, self.rerank))

    @posted
    async def rerank(self, body: dict[str, Any]) -> web.StreamResponse:
        rows = [self.pair(body["query"], document) for document in body["documents"]]
        results = jina_results(self, rows, float if body["raw_scores"] else sigmoid)
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        return answer({"model": self.name, "results": results, "usage": usage})
