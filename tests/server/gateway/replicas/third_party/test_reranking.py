"""What every engine behind a replica's address must do for a pool that reranks, whatever it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from tokenizers import Tokenizer

from embedfleet.models.description import ModelDescription
from embedfleet.models.encoding.encoder import Encoder
from embedfleet.models.encoding.prompts import prompt_for
from embedfleet.vocabulary import (
    SCORE_WIDTH,
    Encoding,
    ReplicaError,
    Task,
    Truncation,
    UnfitReplicaError,
)
from tests.fakes.revealing_engine import UNLUCKY
from tests.server.gateway.replicas.third_party.attaching import attached, compute
from tests.stand_ins.openai import VLLM
from tests.stand_ins.rerankers import (
    GatewayReranker,
    Infinity,
    LlamaReranker,
    SGLangReranker,
    TEIReranker,
    VLLMReranker,
    causal_model,
    classifier_model,
    logit_of,
    sigmoid,
)
from tests.stand_ins.server import MAX_TOKENS, StandIn, answer


@dataclass(frozen=True)
class Kind:
    """One engine with a model that it computes."""

    name: str
    make: Callable[..., StandIn]
    model: Callable[[Path], ModelDescription]
    numbers: bool = True
    """Whether its scores have indices; others are in the order of the request."""
    counts: bool = True
    """Whether it tells how many tokens it computed."""
    instructs: bool = True
    """Whether a pair may have another instruction than the model's."""


def unigram(directory: Path) -> ModelDescription:
    return classifier_model(directory, "unigram")


def wordpiece(directory: Path) -> ModelDescription:
    return classifier_model(directory, "wordpiece")


def texts_apart(make: Callable[..., StandIn]) -> Callable[..., StandIn]:
    return lambda **fields: make(templated=False, **fields)


def converted(**fields: Any) -> StandIn:
    return SGLangReranker(embedding=True, **fields)


KINDS = [
    Kind("vllm", VLLMReranker, causal_model),
    Kind("vllm, two labels", lambda **f: VLLMReranker(labels=2, **f), causal_model),
    Kind("vllm of old", lambda **f: VLLMReranker(activates=False, **f), causal_model),
    Kind("vllm, classifier", texts_apart(VLLMReranker), wordpiece),
    Kind("sglang", SGLangReranker, causal_model, numbers=False),
    Kind("sglang, converted", converted, causal_model, numbers=False),
    Kind("sglang, classifier", converted, unigram, numbers=False),
    Kind("llama.cpp", LlamaReranker, causal_model, instructs=False),
    Kind("llama.cpp, classifier", texts_apart(LlamaReranker), unigram),
    Kind("gateway", GatewayReranker, causal_model),
    Kind("tei", TEIReranker, unigram, counts=False),
    Kind("tei, segments", TEIReranker, wordpiece, counts=False),
    Kind("infinity", Infinity, wordpiece, counts=False),
    Kind("infinity at the root", lambda **f: Infinity(path="/rerank", **f), unigram, counts=False),
]
ALIKE = ("two labels", "of old", "at the root", "converted", "segments")
"""What is read of these is read of others, too."""
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
READERS = [kind for kind in KINDS if not kind.name.endswith(ALIKE)]
each_reader = pytest.mark.parametrize("kind", READERS, ids=lambda kind: kind.name)


def pairs(
    model: ModelDescription,
    queries: dict[str, list[str]],
    instruction: str | None = None,
    truncate: Truncation = Truncation.NONE,
) -> list[Encoding]:
    """Encodings of each query with each of its documents."""
    encoder = Encoder(model)
    return [
        one.ids
        for query, documents in queries.items()
        for one in encoder.encode(
            documents,
            prompt=prompt_for(model.identity, None, instruction, query),
            truncate=truncate,
        )
    ]


QUERIES = {
    "which river?": [f"the {'sea and ' * (n % 7)}river flows; 天空 {'.' * n}!" for n in range(60)],
    "<Document>: what\n<Query>: of this": ["\n<Document>: the sea", "a river <Query>: of"],
    "the sky": ["the sky", "  two blanks  first", "naïve café 😀", "天空为什么是蓝色的?"],
}


def some(model: ModelDescription) -> list[Encoding]:
    return [ids for ids in pairs(model, QUERIES) if UNLUCKY not in ids]


def right(encodings: list[Encoding]) -> np.ndarray:
    return np.array([sigmoid(logit_of(ids.tolist())) for ids in encodings])


def scores(rows: np.ndarray) -> np.ndarray:
    np.testing.assert_allclose(np.linalg.norm(rows.astype(np.float64), axis=1), 1, atol=1e-6)
    return rows[:, 1].astype(np.float64) ** 2


def stand_in(kind: Kind, model: ModelDescription, **fields: Any) -> StandIn:
    return kind.make(directory=model.directory.parent, **fields)


@each_kind
async def test_it_is_recognised_and_described_as_the_pools_reranker(
    kind: Kind, tmp_path: Path
) -> None:
    model = kind.model(tmp_path)
    async with stand_in(kind, model).running() as url, attached(model) as client:
        description = await client.describe(url)
        assert (await client.describe(url)) == description  # as at each later probe

    assert description.task is Task.RERANK
    assert description.width == SCORE_WIDTH
    assert description.max_tokens == MAX_TOKENS
    assert description.device.startswith(("vllm", "sglang", "llama.cpp", "tei", "embed", "OpenAI"))


@each_kind
async def test_each_pair_has_its_own_score_as_a_probability(kind: Kind, tmp_path: Path) -> None:
    """Several queries in one call, more documents than any engine takes at once, answers in another
    order; logits or not, one class or two.
    """
    model = kind.model(tmp_path)
    engine = stand_in(kind, model, nonsense="reversed" if kind.numbers else "")
    asked = some(model)
    async with engine.running() as url, attached(model) as client:
        await client.describe(url)
        rows, failures, _ = await compute(client, url, asked, SCORE_WIDTH)

    assert len(asked) > 50
    assert not failures
    np.testing.assert_allclose(scores(rows), right(asked), atol=1e-6)


@each_reader
async def test_a_document_that_was_cut_is_computed_as_it_was_cut(
    kind: Kind, tmp_path: Path
) -> None:
    model = kind.model(tmp_path)
    queries = {"which river?": ["the river flows to the sea. " * 200]}
    asked = pairs(model, queries, truncate=Truncation.END)
    assert [len(ids) for ids in asked] == [MAX_TOKENS]
    async with stand_in(kind, model).running() as url, attached(model) as client:
        await client.describe(url)
        rows, failures, _ = await compute(client, url, asked, SCORE_WIDTH)

    assert not failures
    if kind.model is causal_model and kind.make is LlamaReranker:
        # It leaves the last token of its context free, so that the document has one less.
        end = len(asked[0]) - len(model.template.after)
        asked = [np.delete(asked[0], end - 1)]
    np.testing.assert_allclose(scores(rows), right(asked), atol=1e-6)


@each_kind
async def test_a_pair_without_a_score_takes_no_other_pair_down(kind: Kind, tmp_path: Path) -> None:
    model = kind.model(tmp_path)
    asked = some(model)[:9]
    word = unlucky_word(model)
    (bad,) = pairs(model, {"which river?": [word]})
    async with stand_in(kind, model).running() as url, attached(model) as client:
        await client.describe(url)
        mixed = [*asked[:4], bad, *asked[4:]]
        rows, failures, _ = await compute(client, url, mixed, SCORE_WIDTH)

    assert failures == {4: "invalid_vector"}
    np.testing.assert_allclose(scores(np.delete(rows, 4, axis=0)), right(asked), atol=1e-6)


def unlucky_word(model: ModelDescription) -> str:
    """A document in which the unlucky token is."""
    encoder = Encoder(model)
    spelled = Tokenizer.from_file(str(model.tokenizer_file)).decode([UNLUCKY])
    for word in (spelled.strip(), f"a {spelled}", f"2{spelled}"):
        found = encoder.encode([word], prompt="", truncate=Truncation.NONE)[0].ids
        if UNLUCKY in found:
            return word
    raise AssertionError(f"no text has the unlucky token {spelled!r}")


@each_reader
async def test_a_document_that_was_cut_within_a_character_has_its_score(
    kind: Kind, tmp_path: Path
) -> None:
    """An engine of texts gets a text of a few tokens less; engines of ids get all."""
    model = kind.model(tmp_path)
    queries = {f"river{'!' * n}": ["天空😀" * 600] for n in range(6)}
    asked = pairs(model, queries, truncate=Truncation.END)
    assert {len(ids) for ids in asked} == {MAX_TOKENS}
    engine = stand_in(kind, model)
    engine.unlucky = False  # type: ignore[attr-defined]
    async with engine.running() as url, attached(model) as client:
        await client.describe(url)
        rows, failures, _ = await compute(client, url, asked, SCORE_WIDTH)

    assert not failures
    end = len(model.template.after)
    for row, ids in zip(rows, asked, strict=True):
        kept = [
            np.concatenate((ids[: len(ids) - end - n], ids[len(ids) - end :])) for n in range(9)
        ]
        assert np.abs(right(kept) - float(row[1]) ** 2).min() < 1e-6


@pytest.mark.parametrize(
    ("kind", "nonsense"),
    [
        (kind, nonsense)
        for kind in READERS
        for nonsense in ("html", "nan", "missing", "repeated", "beyond", "constant")
        if kind.numbers or nonsense not in {"repeated", "beyond"}
    ],
    ids=lambda one: getattr(one, "name", one),
)
async def test_an_engine_that_answers_nonsense_is_unfit(
    kind: Kind, tmp_path: Path, nonsense: str
) -> None:
    """With what is wrong, before it gets any traffic."""
    model = kind.model(tmp_path)
    async with stand_in(kind, model, nonsense=nonsense).running() as url, attached(model) as client:
        with pytest.raises(UnfitReplicaError) as refused:
            await client.describe(url)

    complaint = {"html": "no supported engine", "constant": "same score"}.get(nonsense, "scores")
    assert complaint in refused.value.message


@pytest.mark.parametrize(
    ("kind", "nonsense"),
    [(kind, nonsense) for kind in READERS for nonsense in ("nan", "missing", "html")],
    ids=lambda one: getattr(one, "name", one),
)
async def test_an_engine_that_begins_to_answer_nonsense_fails_its_pairs(
    kind: Kind, tmp_path: Path, nonsense: str
) -> None:
    """As the replica's fault: they go to another one."""
    model = kind.model(tmp_path)
    engine = stand_in(kind, model)
    async with engine.running() as url, attached(model) as client:
        await client.describe(url)
        engine.nonsense = nonsense
        with pytest.raises(ReplicaError):
            await compute(client, url, some(model)[:3], SCORE_WIDTH)


@pytest.mark.parametrize(
    "kind", [kind for kind in READERS if kind.counts], ids=lambda kind: kind.name
)
async def test_a_pair_of_which_other_tokens_were_computed_has_no_score(
    kind: Kind, tmp_path: Path
) -> None:
    """It goes to another replica; the others of its request keep theirs."""
    model = kind.model(tmp_path)
    engine = stand_in(kind, model)
    asked = some(model)[:5]
    async with engine.running() as url, attached(model) as client:
        await client.describe(url)
        engine.cut = asked[2].tolist()  # type: ignore[attr-defined]
        rows, failures, _ = await compute(client, url, asked, SCORE_WIDTH)
        engine.nonsense = "cut"
        _, every, _ = await compute(client, url, asked[:3], SCORE_WIDTH)

    assert failures == {2: "invalid_vector"}
    found, expected = np.delete(rows, 2, axis=0), np.delete(right(asked), 2)
    np.testing.assert_allclose(scores(found), expected, atol=1e-6)
    assert every == dict.fromkeys(range(3), "invalid_vector")


async def test_a_query_that_llama_cpp_would_put_the_document_into_is_refused(
    tmp_path: Path,
) -> None:
    model = causal_model(tmp_path)
    asked = pairs(model, {"what is {document}?": ["a river"], "what is {query}?": ["{document}"]})
    engine = LlamaReranker(directory=model.directory.parent)
    engine.unlucky = False
    async with engine.running() as url, attached(model) as client:
        await client.describe(url)
        rows, failures, _ = await compute(client, url, asked, SCORE_WIDTH)

    assert failures == {0: "ids_not_text"}
    np.testing.assert_allclose(scores(rows[1:]), right(asked)[1:], atol=1e-6)


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind.model is causal_model], ids=lambda kind: kind.name
)
async def test_another_instruction_is_computed_or_refused(kind: Kind, tmp_path: Path) -> None:
    model = kind.model(tmp_path)
    asked = pairs(model, {"the sky": ["the sky", "a river"]}, "Find what is near")
    assert not any(UNLUCKY in ids for ids in asked)
    async with stand_in(kind, model).running() as url, attached(model) as client:
        await client.describe(url)
        rows, failures, _ = await compute(client, url, asked, SCORE_WIDTH)

    if not kind.instructs:
        assert set(failures.values()) == {"ids_not_text"}
    else:
        np.testing.assert_allclose(scores(rows), right(asked), atol=1e-6)


# -- what is refused by name --------------------------------------------------------------

EMBEDDER = {"id": "embedder", "object": "model", "owned_by": "embedfleet", "dimensions": 32}


@dataclass
class TwoModels(GatewayReranker):
    """Lists its embedding model first."""

    async def models(self, _request: web.Request) -> web.Response:
        return answer({"object": "list", "data": [EMBEDDER, self.model_row()]})


@dataclass
class Embeds(GatewayReranker):
    async def models(self, _request: web.Request) -> web.Response:
        return answer({"object": "list", "data": [EMBEDDER]})


async def test_of_a_gateway_of_several_models_the_reranker_is_asked(tmp_path: Path) -> None:
    """Under whatever name it is served."""
    model = causal_model(tmp_path)
    engine = TwoModels(directory=model.directory.parent, name="another-name")
    async with engine.running() as url, attached(model) as client:
        assert (await client.describe(url)).served_names == ["another-name"]


REFUSALS: list[tuple[str, Callable[..., StandIn], Callable[[Path], ModelDescription], str]] = [
    ("tei, template", TEIReranker, causal_model, "TEI knows no template .* vLLM, SGLang, llama"),
    (
        "unknown, template",
        Infinity,
        causal_model,
        "renders pairs is unknown.* vLLM, SGLang, llama",
    ),
    (
        "tei that embeds",
        lambda **f: TEIReranker(serves="embedding", **f),
        unigram,
        "serves embedding, not a reranker",
    ),
    (
        "vllm that embeds",
        VLLM,
        causal_model,
        "no scores of pairs; the test was answered 404",
    ),
    ("sglang, segments", SGLangReranker, wordpiece, "segment of a BERT pair begins; TEI, vLLM"),
    ("llama.cpp, segments", LlamaReranker, wordpiece, "segment of a BERT pair begins; TEI, vLLM"),
    ("gateway that embeds", Embeds, causal_model, "it serves no reranker"),
    (
        "sglang that joins",
        lambda **f: SGLangReranker(joins=True, **f),
        causal_model,
        "without --enable-mis",
    ),
    (
        "sglang of other probabilities",
        lambda **f: SGLangReranker(nonsense="odd", **f),
        causal_model,
        "two probabilities add up to 1.4",
    ),
    (
        "llama.cpp with another template",
        lambda **f: LlamaReranker(nonsense="cut", **f),
        causal_model,
        "in another way than the model's template",
    ),
]


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case[0])
async def test_an_engine_that_can_not_be_held_to_the_contract_is_refused_by_name(
    case: tuple[str, Callable[..., StandIn], Callable[[Path], ModelDescription], str],
    tmp_path: Path,
) -> None:
    _, make, model_of, said = case
    model = model_of(tmp_path)
    engine = make(directory=model.directory.parent)
    async with engine.running() as url, attached(model) as client:
        with pytest.raises(UnfitReplicaError, match=said):
            await client.describe(url)
