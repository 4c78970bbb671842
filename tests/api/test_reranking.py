"""Scores of pairs by every form of asking for them, over a backend whose scores reveal the pair."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfleet.api.contracts.rerank import ROUTES
from embedfleet.api.endpoint import Endpoint
from embedfleet.api.formats.embedding_request import RequestLimits
from embedfleet.api.formats.rerank_request import INSTEAD, parse_rerank, parse_score
from embedfleet.api.served_model import ModelVersion, ServedModel
from embedfleet.cache.memory import MemoryTier
from embedfleet.cache.tiers import VectorCache
from embedfleet.models.description import describe
from embedfleet.models.encoding.encoder import Encoder
from embedfleet.models.reranker import TEMPLATE_FILE, pair_prompt
from embedfleet.models.scores import rows_of_logits
from embedfleet.scheduling.texts import Text
from embedfleet.vocabulary import CallerError, Encoding, Precision, Truncation
from tests.fakes.asking import Asker, Heard, RevealingBackend, heard, request
from tests.small_tokenizer import write_model

RERANKER, LIMIT = "scores", 60
TEMPLATE = {
    "before": "<|im_start|>",
    "pair": "{instruction} {query} | ",
    "after": "<|im_end|>",
    "instruction": "Rank",
}
DOCUMENTS = ["the river", "the sea", "a mountain", "the capital"]


def logit_of(ids: Encoding) -> float:
    digest = hashlib.blake2b(np.asarray(ids, "<i4").tobytes(), digest_size=4).digest()
    return int.from_bytes(digest, "little") / 2**29 - 4


class ScoringBackend(RevealingBackend):
    def tell(self, text: Text) -> None:
        row = rows_of_logits(np.array([logit_of(text.encoding)]))[0]
        text.answer(row, 0.5, 0.25, "fake")


class Reranking:
    """An endpoint with a reranker and, where told, an embedder beside it."""

    def __init__(self, directory: Path, *, embedder: bool = False, cached: bool = False) -> None:
        write_model(directory / "reranker", max_position_embeddings=LIMIT)
        (directory / "reranker" / TEMPLATE_FILE).write_text(json.dumps(TEMPLATE))
        described = describe(directory / "reranker", name=RERANKER)
        self.prompts = described.identity.prompts
        self.encoder, self.backend = Encoder(described), ScoringBackend()
        version = ModelVersion("revision", Precision.F32)
        served = ServedModel(
            described.identity, (RERANKER,), self.encoder, self.backend, 0, lambda: version
        )
        models = {RERANKER: served}
        if embedder:
            other = Asker(directory / "embedder", None)
            models["vectors"] = other.model
        self.endpoint = Endpoint(
            lambda: models,
            limits=RequestLimits(max_texts=10),
            max_body_bytes=2**20,
            max_held_bytes=2**24,
            timeout_s=30,
            tokenizer_threads=1,
            answered=lambda _: None,
            cache=VectorCache(MemoryTier(2**20)) if cached else None,
        )

    async def ask(self, path: str, **body: Any) -> Heard:
        response = await self.endpoint.by(ROUTES[path])(request(body, {}, None))
        assert response is not None
        return heard(response)

    async def embeddings(self, **body: Any) -> Heard:
        return heard(await self.endpoint.embeddings(request(body, {}, None)))

    def ids(self, query: str, document: str, instruction: str | None = None) -> Encoding:
        prompt = pair_prompt(self.prompts, query, instruction)
        (found,) = self.encoder.encode([document], prompt=prompt, truncate=Truncation.END)
        return found.ids

    def score(self, query: str, document: str, instruction: str | None = None) -> float:
        return 1 / (1 + float(np.exp(-logit_of(self.ids(query, document, instruction)))))


@pytest.fixture
def reranking(tmp_path: Path) -> Reranking:
    return Reranking(tmp_path)


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
async def test_documents_come_back_best_first_with_their_places(
    reranking: Reranking, path: str
) -> None:
    answer = await reranking.ask(path, model=RERANKER, query="sea?", documents=DOCUMENTS)
    assert answer.status == 200
    expected = [reranking.score("sea?", each) for each in DOCUMENTS]
    results = answer.body["results"]
    assert [each["index"] for each in results] == np.argsort(expected)[::-1].tolist()
    for each in results:
        assert each["relevance_score"] == pytest.approx(expected[each["index"]], abs=1e-6)
        assert "document" not in each
    tokens = sum(len(reranking.ids("sea?", each)) for each in DOCUMENTS)
    assert answer.body["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


async def test_so_many_of_the_best_are_answered_as_are_asked_for_with_their_texts(
    reranking: Reranking,
) -> None:
    objects = [{"text": each} for each in DOCUMENTS]
    answer = await reranking.ask(
        "/v1/rerank", query="sea?", documents=objects, top_n=2, return_documents=True
    )
    results = answer.body["results"]
    assert len(results) == 2
    for each in results:
        assert each["document"] == {"text": DOCUMENTS[each["index"]]}


async def test_voyages_words_are_understood_and_its_client_finds_the_results(
    reranking: Reranking,
) -> None:
    asked = {"query": "sea?", "documents": DOCUMENTS}
    answer = (await reranking.ask("/v1/rerank", **asked, top_k=2, truncation=True)).body
    plain = (await reranking.ask("/v1/rerank", **asked, top_n=2)).body
    assert answer["data"] == answer["results"] == plain["results"]
    assert "data" not in plain
    too_long = {"query": "sea?", "documents": ["the river " * LIMIT]}
    assert (await reranking.ask("/v1/rerank", **too_long, truncation=True)).status == 200
    refused = await reranking.ask("/v1/rerank", **too_long, truncation=False)
    assert (refused.status, refused.body["error"]["code"]) == (400, "context_length_exceeded")


async def test_an_instruction_takes_the_place_of_the_models(reranking: Reranking) -> None:
    answer = await reranking.ask(
        "/v1/rerank", query="sea?", documents=["the sea"], instruction="Find water"
    )
    (only,) = answer.body["results"]
    expected = reranking.score("sea?", "the sea", "Find water")
    assert only["relevance_score"] == pytest.approx(expected, abs=1e-6)
    assert expected != reranking.score("sea?", "the sea")


async def test_tei_gets_a_bare_list_with_logits_where_it_wants_them(reranking: Reranking) -> None:
    answer = await reranking.ask(
        "/rerank", query="sea?", texts=DOCUMENTS, raw_scores=True, return_text=True
    )
    expected = [logit_of(reranking.ids("sea?", each)) for each in DOCUMENTS]
    assert [each["index"] for each in answer.body] == np.argsort(expected)[::-1].tolist()
    for each in answer.body:
        assert each["score"] == pytest.approx(expected[each["index"]], abs=1e-4)
        assert each["text"] == DOCUMENTS[each["index"]]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"texts": DOCUMENTS, "query": ""}, "`query`"),
        ({"texts": []}, "`texts` is empty"),
        ({"texts": [5]}, "texts[0]"),
        ({"texts": "the sea", "documents": None}, "`texts` must be"),
        ({"texts": ["the sea " * LIMIT]}, "texts[0]"),
        ({"texts": ["a"], "truncation_direction": "Up", "truncate": True}, "truncation_direction"),
        ({"texts": DOCUMENTS, "model": "other"}, "`other` does not exist"),
    ],
)
async def test_tei_is_refused_in_its_own_form(
    reranking: Reranking, fields: dict[str, Any], words: str
) -> None:
    answer = await reranking.ask("/rerank", **({"query": "sea?"} | fields))
    assert answer.status in {400, 404}
    assert answer.body.keys() == {"error", "error_type"}
    assert answer.body["error_type"] == "Validation"
    assert words in answer.body["error"]


@pytest.mark.parametrize(
    "fields", [{"documents": []}, {"texts": None}, {"texts": ["a"], "documents": [5]}, {}]
)
async def test_others_are_refused_in_openai_s_form(
    reranking: Reranking, fields: dict[str, Any]
) -> None:
    answer = await reranking.ask("/rerank", query="sea?", **fields)
    assert answer.status == 400
    assert answer.body["error"]["message"] == answer.body["message"]


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
async def test_one_query_is_scored_with_each_text(reranking: Reranking, path: str) -> None:
    answer = await reranking.ask(path, model=RERANKER, text_1="sea?", text_2=DOCUMENTS)
    found = [each["score"] for each in answer.body["data"]]
    expected = [reranking.score("sea?", each) for each in DOCUMENTS]
    assert found == pytest.approx(expected, abs=1e-6)


async def test_as_many_queries_as_texts_are_scored_pair_by_pair(reranking: Reranking) -> None:
    queries = ["sea?", "how high?", "{query}?", "sea?"]
    answer = await reranking.ask("/score", queries=queries, documents=DOCUMENTS)
    found = [each["score"] for each in answer.body["data"]]
    expected = [reranking.score(*pair) for pair in zip(queries, DOCUMENTS, strict=True)]
    assert found == pytest.approx(expected, abs=1e-6)


async def test_a_single_pair_of_strings_is_scored(reranking: Reranking) -> None:
    answer = await reranking.ask("/score", text_1="sea?", text_2="the sea")
    (only,) = answer.body["data"]
    assert only["score"] == pytest.approx(reranking.score("sea?", "the sea"), abs=1e-6)


async def test_a_document_that_is_too_long_is_cut_and_its_query_is_not(
    reranking: Reranking,
) -> None:
    long = "the sea " * 100
    answer = await reranking.ask("/v1/rerank", query="sea?", documents=[long, "the sea"])
    assert answer.headers[b"x-embedfleet-truncated"] == b"0"
    cut = reranking.ids("sea?", long)
    whole = reranking.ids("sea?", "the sea")
    assert len(cut) == LIMIT
    assert cut[-1] == whole[-1]
    prompt = reranking.encoder.encode(["x"], prompt="Rank sea? |", truncate=Truncation.END)[0].ids
    assert cut[: len(prompt) - 3].tolist() == prompt[:-3].tolist()


async def test_a_query_that_leaves_no_room_is_refused(reranking: Reranking) -> None:
    answer = await reranking.ask("/v1/rerank", query="sea " * 200, documents=["the sea"])
    assert answer.status == 400
    assert answer.body["error"]["code"] == "context_length_exceeded"
    assert "query" in answer.body["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/rerank", {"query": "sea?", "documents": ["the sea " * 100], "truncate": False}),
        ("/score", {"text_1": "sea?", "text_2": "the sea " * 100}),
        ("/score", {"text_1": ["a", "b"], "text_2": ["c", "the sea " * 100]}),
    ],
)
async def test_a_text_that_is_too_long_is_refused_unless_truncation_is_allowed(
    reranking: Reranking, path: str, body: dict[str, Any]
) -> None:
    answer = await reranking.ask(path, **body)
    assert answer.status == 400
    assert answer.body["error"]["code"] == "context_length_exceeded"


async def test_what_was_scored_before_is_answered_from_the_cache(tmp_path: Path) -> None:
    reranking = Reranking(tmp_path, cached=True)
    first = await reranking.ask("/v1/rerank", query="sea?", documents=DOCUMENTS)
    computed = len(reranking.backend.computed)
    again = await reranking.ask("/v1/rerank", query="sea?", documents=[*DOCUMENTS[:2], "new"])
    assert len(reranking.backend.computed) == computed + 1
    assert again.cache == "hit=2; miss=1"
    other = await reranking.ask("/v1/rerank", query="see?", documents=DOCUMENTS)
    instructed = await reranking.ask(
        "/v1/rerank", query="sea?", documents=DOCUMENTS, instruction="Other"
    )
    assert other.cache == instructed.cache == "hit=0; miss=4"
    assert first.body["results"] != other.body["results"] != instructed.body["results"]


async def test_a_model_for_another_task_is_refused_by_name(tmp_path: Path) -> None:
    reranking = Reranking(tmp_path, embedder=True)
    wrong = await reranking.ask("/v1/rerank", model="vectors", query="?", documents=["a"])
    assert (wrong.status, wrong.body["error"]["code"]) == (400, "wrong_task")
    wrong = await reranking.embeddings(model=RERANKER, input="a")
    assert (wrong.status, wrong.body["error"]["code"]) == (400, "wrong_task")
    assert "/v1/rerank" in wrong.body["error"]["message"]


async def test_without_a_name_the_only_reranker_is_meant(tmp_path: Path) -> None:
    reranking = Reranking(tmp_path, embedder=True)
    answer = await reranking.ask("/rerank", query="sea?", texts=["the sea"])
    assert answer.status == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"documents": ["a"]}, "query"),
        ({"query": " ", "documents": ["a"]}, "query"),
        ({"query": "q"}, "documents"),
        ({"query": "q", "documents": []}, "documents"),
        ({"query": "q", "documents": "a"}, "documents"),
        ({"query": "q", "documents": ["a", 1]}, "documents[1]"),
        ({"query": "q", "documents": [{"title": "a"}]}, "documents[0]"),
        ({"query": "q", "documents": ["a"] * 11}, "documents"),
        ({"query": "q", "documents": ["a"], "top_n": 0}, "top_n"),
        ({"query": "q", "documents": ["a"], "top_n": True}, "top_n"),
        ({"query": "q", "documents": ["a"], "return_documents": "yes"}, "return_documents"),
        ({"query": "q", "documents": ["a"], "instruction": 5}, "instruction"),
        ({"query": "q", "documents": ["a"], "model": 5}, "model"),
        ({"query": "q", "documents": ["a"], "truncation_direction": "Up", "truncate": True},
         "truncation_direction"),
        ({"query": "q", "documents": ["a", ""]}, "documents[1]"),
        ({"query": "q", "documents": ["a"], "truncate_prompt_tokens": 8}, "truncate_prompt_tokens"),
        ({"query": "q", "documents": ["a"], "truncation_side": "top"}, "truncation_side"),
        ({"query": "q", "documents": ["a"], "use_activation": "no"}, "use_activation"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_named(
    reranking: Reranking, body: dict[str, Any], param: str
) -> None:
    answer = await reranking.ask("/v1/rerank", **body)
    assert answer.status == 400
    assert answer.body["error"]["param"] == param
    assert answer.body["message"] == answer.body["error"]["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"text_2": "a"}, "text_1"),
        ({"text_1": "a"}, "text_2"),
        ({"text_1": ["a", "b"], "text_2": ["c"]}, "text_1"),
        ({"text_1": "a", "query": "b", "text_2": ["c"]}, "query"),
        ({"text_1": ["a", 1], "text_2": ["c", "d"]}, "text_1"),
    ],
)
async def test_errors_of_a_request_for_scores_are_named(
    reranking: Reranking, body: dict[str, Any], param: str
) -> None:
    answer = await reranking.ask("/score", **body)
    assert (answer.status, answer.body["error"]["param"]) == (400, param)


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/score"])
@pytest.mark.parametrize("name", INSTEAD)
async def test_what_would_change_scores_is_refused_and_not_ignored(
    reranking: Reranking, path: str, name: str
) -> None:
    names = {"/rerank": ("query", "texts"), "/score": ("text_1", "text_2")}
    query, documents = names.get(path, ("query", "documents"))
    body: dict[str, Any] = {query: "q", documents: ["a"]}
    value: Any
    for value in ("words", ["title"], {"a": 1}, True):
        answer = await reranking.ask(path, **body, **{name: value})
        assert answer.status == 400
        found = answer.body["error"]
        if path == "/rerank":  # in TEI's form
            assert f"`{name}`" in found
            continue
        assert (found["param"], found["code"]) == (name, "unsupported_parameter")
    for value in (None, "", [], {}, False):
        assert (await reranking.ask(path, **body, **{name: value})).status == 200


async def test_scores_are_logits_by_the_names_of_several_services(reranking: Reranking) -> None:
    asked = {"query": "sea?", "documents": DOCUMENTS}
    expected = await reranking.ask("/v1/rerank", **asked, raw_scores=True)
    for name in ("use_activation", "activation"):
        answer = await reranking.ask("/v1/rerank", **asked, **{name: False})
        assert answer.body["results"] == expected.body["results"]
        answer = await reranking.ask("/v1/rerank", **asked, **{name: True})
        assert answer.body["results"] != expected.body["results"]


async def test_which_end_is_cut_is_said_in_the_words_of_several_services(
    reranking: Reranking,
) -> None:
    ends = ["first " + "x " * 3000, "x " * 3000 + "last"]
    kept = {
        cut: await reranking.ask("/v1/rerank", query="q", documents=ends, truncate=cut)
        for cut in ("start", "end")
    }
    assert kept["start"].body["results"] != kept["end"].body["results"]
    fields: dict[str, Any]
    for cut, fields in (
        ("start", {"truncation_side": "left"}),
        ("start", {"truncation_direction": "Left", "truncate_prompt_tokens": -1}),
        ("end", {"truncation_side": "right", "truncation": True}),
        ("end", {"truncate_prompt_tokens": -1}),
    ):
        answer = await reranking.ask("/v1/rerank", query="q", documents=ends, **fields)
        assert answer.body["results"] == kept[cut].body["results"], fields
    answer = await reranking.ask(
        "/v1/rerank", query="q", documents=ends, truncate=False, truncation_side="left"
    )
    assert answer.body["error"]["code"] == "context_length_exceeded"


async def test_unknown_fields_are_listed_in_a_header(reranking: Reranking) -> None:
    answer = await reranking.ask(
        "/v2/rerank", query="q", documents=["a"], max_tokens_per_doc=100, priority=1
    )
    assert answer.headers[b"x-embedfleet-ignored"] == b"max_tokens_per_doc, priority"


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
FIELDS = [
    "model",
    "query",
    "documents",
    "texts",
    "text_1",
    "text_2",
    "queries",
    "top_n",
    "instruction",
    "truncate",
    "truncation_direction",
    "truncation_side",
    "truncate_prompt_tokens",
    "use_activation",
    "rank_fields",
    "raw_scores",
    "return_documents",
    "return_text",
    "x",
]


@settings(max_examples=200, deadline=None)
@given(fields=st.dictionaries(st.sampled_from(FIELDS), anything))
def test_whatever_is_sent_is_read_or_refused_in_words(fields: dict[str, Any]) -> None:
    for parse in (parse_rerank, parse_score):
        try:
            found = parse(json.dumps(fields).encode(), RequestLimits())
        except CallerError:
            continue
        assert len(found.queries) in {1, len(found.inputs)}


@settings(deadline=None)
@given(body=st.binary(max_size=40))
def test_bytes_that_are_no_json_object_are_refused_in_words(body: bytes) -> None:
    with pytest.raises(CallerError):
        parse_rerank(body, RequestLimits())
