"""The judge is judged: every check notices a service that breaks its sentence, over sockets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from embedfleet.conformance.check import Check
from embedfleet.conformance.checks import all_checks, reranking
from embedfleet.conformance.running import Verdict, run_check
from embedfleet.conformance.service import introduced
from embedfleet.conformance.transport import connected
from embedfleet.transport.asgi import App
from tests.conformance import faults
from tests.conformance.faults import Fault, Sent, Spoiling
from tests.contract.computed_in_place import RERANKER, answering

CHECKS = {check.name: check for check in all_checks()}
OF_RERANKERS = {check.name: check for check in reranking.suite.checks}


@dataclass(frozen=True)
class Wrong:
    """A service that is wrong in one way, and the checks that must notice."""

    way: str
    fault: Fault
    noticed_by: tuple[str, ...]
    linger_s: float = 0.0


def inputs(*kinds: type) -> faults.Condition:
    """Whether `input` is a list whose first element is of such a kind, or is one itself."""

    def condition(sent: Sent) -> bool:
        given = sent.request.get("input")
        return isinstance(given, kinds) or (
            isinstance(given, list) and bool(given) and isinstance(given[0], kinds)
        )

    return condition


def number_of_texts(sent: Sent) -> int:
    given = sent.request.get("input")
    return len(given) if isinstance(given, list) and isinstance(given[0], str) else 0


def number_of_ids(sent: Sent) -> int:
    given = sent.request.get("input")
    return len(given) if isinstance(given, list) and all(type(one) is int for one in given) else 0


WRONG = [
    Wrong(
        "vectors of the first two texts are swapped",
        faults.of_answer(faults.swapped),
        (
            "a list of strings is answered in order",
            "a list of lists of token ids is answered in order",
            "equal texts in one request have equal vectors",
            "truncate cuts over long texts and leaves the others",
        ),
    ),
    Wrong(
        "order is lost beyond a thousand texts",
        faults.of_answer(faults.swapped_late),
        ("two thousand and forty eight texts are answered in order",),
    ),
    Wrong(
        "only the first text is answered",
        faults.of_answer(faults.first_only),
        ("a list of strings is answered in order",),
    ),
    Wrong(
        "every index is 0",
        faults.of_answer(faults.unnumbered),
        ("a list of strings is answered in order",),
    ),
    Wrong(
        "requests at the same time get each other's vectors",
        faults.mixed_up_in_company,
        ("requests at the same time get their own answers",),
        linger_s=0.02,
    ),
    Wrong(
        "a list is embedded in another way than its text",
        faults.of_vectors(faults.as_a_list_another),
        ("a list of one string is like the string",),
    ),
    Wrong(
        "token ids are not taken",
        faults.failing(inputs(int), 400),
        ("a list of token ids is one text", "usage counts every token id"),
    ),
    Wrong(
        "every text has the same vector",
        faults.of_vectors(lambda _, vector: [1.0, *[0.0] * (len(vector) - 1)]),
        (
            "different texts have different vectors",
            "input type query puts a prompt before the text",
        ),
    ),
    Wrong(
        "usage is always the same",
        faults.of_answer(faults.counted_once),
        (
            "white space before a text is part of it",
            "usage is the sum over the texts",
            "a text one token below the limit fits",
            "a text of the limit fits",
        ),
    ),
    Wrong(
        "usage is missing",
        faults.of_answer(lambda answer: answer.pop("usage")),
        ("a string is one text", "usage is the sum over the texts"),
    ),
    Wrong(
        "usage depends on the format",
        faults.counted_by_format,
        ("usage is the same in every format",),
    ),
    Wrong(
        "the answer names another model",
        faults.of_answer(lambda answer: answer.update(model="gpt")),
        ("the answer names the model that was asked for",),
    ),
    Wrong(
        "the answer has no timing",
        faults.without_header(b"server-timing"),
        ("the answer tells where its time went",),
    ),
    Wrong(
        "`object` is missing",
        faults.of_answer(lambda answer: answer.pop("object")),
        ("a string is one text",),
    ),
    Wrong(
        "a vector holds null where a number overflowed",
        faults.of_answer(lambda answer: answer["data"][0].update(embedding=[None] * 64)),
        ("a string is one text",),
    ),
    Wrong(
        "base64 is never given",
        faults.always_written(packed=False),
        ("base64 is given where base64 is asked for",),
    ),
    Wrong(
        "base64 is always given",
        faults.always_written(packed=True),
        ("floats are the default", "floats are given where floats are asked for"),
    ),
    Wrong(
        "base64 loses its end",
        faults.repacked(cut=6),
        ("base64 and floats are the same vectors",),
    ),
    Wrong(
        "base64 holds big-endian numbers",
        faults.repacked(">f4"),
        ("base64 and floats are the same vectors",),
    ),
    Wrong(
        "base64 holds float64",
        faults.repacked("<f8"),
        ("base64 and floats are the same vectors",),
    ),
    Wrong(
        "base64 holds other bits than the floats",
        faults.of_vectors(faults.coarse_base64),
        ("base64 holds the very bits of the floats",),
    ),
    Wrong(
        "vectors are not of unit length",
        faults.of_vectors(lambda _, vector: vector * 1.001),
        (
            "vectors have unit length in float32",
            "input type document is accepted",
        ),
    ),
    Wrong(
        "shortened vectors are not of unit length",
        faults.of_vectors(faults.cut_and_left_short),
        (
            "dimensions cut the vector and bring it to length 1",
            "any dimensions from 32 to the width are given",
        ),
    ),
    Wrong(
        "dimensions are ignored",
        faults.of_vectors(
            lambda request, vector: [*vector, 0.0] if request.get("dimensions") else vector
        ),
        ("dimensions cut the vector and bring it to length 1",),
    ),
    Wrong(
        "the card tells another width",
        faults.of_models(lambda card: card.update(dimensions=65)),
        ("vectors are as wide as the card tells",),
    ),
    Wrong(
        "some characters are an error",
        faults.failing(faults.holding(b"\\u200b", "\u200b".encode())),
        ("any unicode has a vector", "escapes and UTF-8 are the same text"),
    ),
    Wrong(
        "half of a surrogate pair is an error of the server",
        faults.failing(faults.holding(b'"\\ud83d"')),
        (
            "half of a surrogate pair is no error of the server",
            "half of a surrogate pair is refused in words",
        ),
    ),
    Wrong(
        "malformed JSON is taken",
        faults.taking(faults.holding(b',"input":"a",}')),
        ("malformed JSON is refused", "malformed JSON is refused by its byte"),
    ),
    Wrong(
        "a list for a body is an error of the server",
        faults.failing(lambda sent: sent.asked == b"[]"),
        ("JSON that is no object is refused",),
    ),
    Wrong(
        "deep nesting breaks the parser",
        faults.failing(lambda sent: len(sent.asked) > 100_000 and b"[[[[" in sent.asked),
        ("deeply nested JSON is refused and the service lives on",),
    ),
    Wrong(
        "`user` changes the vector", faults.another_for("user"), ("the field user changes nothing",)
    ),
    Wrong(
        "white space around the body is an error",
        faults.failing(lambda sent: sent.asked[:1].isspace()),
        ("white space and the order of fields mean nothing",),
    ),
    Wrong(
        "only the bare content type is known",
        faults.failing(lambda sent: "charset" in sent.told.get("content-type", ""), 415),
        ("a content type may name its character set",),
    ),
    Wrong(
        "a body needs its length beforehand",
        faults.failing(
            lambda sent: sent.method == "POST" and "content-length" not in sent.told, 411
        ),
        ("a body may come in pieces",),
    ),
    Wrong(
        "nobody may wait for leave to send",
        faults.failing(lambda sent: "expect" in sent.told, 417),
        ("a client may wait for leave to send its body",),
    ),
    Wrong(
        "null is a wrong value",
        faults.failing(faults.holding(b'"dimensions": null'), 400),
        ("null fields are absent fields",),
    ),
    Wrong(
        "unknown fields are refused",
        faults.failing(faults.holding(b"zz_unknown"), 400),
        ("unknown fields are ignored",),
    ),
    Wrong(
        "errors come as HTML",
        faults.as_html,
        (
            "wrong input is refused",
            "an unknown model is not found",
            "an unknown path is not found",
            "a wrong method is not allowed",
            "a model that is not there is not shown",
        ),
    ),
    Wrong(
        "errors come as FastAPI words them",
        faults.as_detail,
        (
            "wrong input is refused",
            "wrong fields are refused",
            "missing fields are refused",
            "more than 2,048 texts are refused",
            "a text one token above the limit is refused",
            "an over long string is refused",
        ),
    ),
    Wrong(
        "errors have a number for a code",
        faults.of_errors(lambda error: error.update(code=400)),
        ("wrong input is refused", "an unknown model is not found"),
    ),
    Wrong(
        "errors name no parameter",
        faults.of_errors(lambda error: error.update(param=None)),
        (
            "wrong input is refused by its place",
            "empty texts are refused by their place",
            "wrong fields are refused by name",
            "missing fields are refused by name",
            "headers that mean nothing are refused by name",
        ),
    ),
    Wrong(
        "errors say only that something is wrong",
        faults.of_errors(lambda error: error.update(message="invalid")),
        (
            "half of a surrogate pair is refused in words",
            "malformed JSON is refused by its byte",
            "too many texts are refused with both numbers",
            "a text above the limit is refused with both numbers",
            "an over long string is refused by its place",
            "a refusal names every text that is wrong",
        ),
    ),
    Wrong(
        "errors have no code",
        faults.of_errors(lambda error: error.update(code=None)),
        (
            "an id outside the vocabulary is refused and the service lives on",
            "a body too large is refused before it is sent",
            "a wrong method is told the right ones",
            "a model that is not there is not shown",
        ),
    ),
    Wrong(
        "errors are of another type",
        faults.of_errors(lambda error: error.update(type="BadRequestError")),
        ("wrong input is refused", "a wrong method is not allowed"),
    ),
    Wrong(
        "errors repeat what was sent",
        lambda sent: faults.of_errors(lambda error: error.update(message=sent.asked.decode()))(
            sent
        ),
        ("a refusal repeats no more of a value than people read",),
    ),
    Wrong(
        "white space fails a request",
        faults.failing(lambda sent: " \n\t" in (sent.request.get("input") or ()), 400),
        ("white space is a text or refused by its place",),
    ),
    Wrong(
        "what would change the vector is passed over",
        faults.taking(lambda sent: "normalize" in sent.request),
        ("fields that would change the vector are not passed over",),
    ),
    Wrong(
        "fields that are not known fail a request",
        faults.failing(lambda sent: "zz_unknown" in sent.request, 400),
        ("fields that are not known are told",),
    ),
    Wrong(
        "empty texts are embedded",
        faults.taking(lambda sent: sent.request.get("input") == ""),
        ("empty texts are refused by their place",),
    ),
    Wrong(
        "more texts than 2,048 are taken",
        faults.taking(lambda sent: number_of_texts(sent) > 2048),
        ("more than 2,048 texts are refused",),
    ),
    Wrong(
        "a text of the limit is one too long",
        faults.failing(lambda sent: number_of_ids(sent) >= 511, 400),
        ("a text of the limit fits",),
    ),
    Wrong(
        "over-long texts are cut without a word",
        faults.taking(lambda sent: b"context_length" in sent.body),
        (
            "a text one token above the limit is refused",
            "an over long string is refused",
        ),
    ),
    Wrong(
        "models are listed without their owner",
        faults.of_models(lambda card: card.pop("owned_by")),
        ("models are listed",),
    ),
    Wrong(
        "a model is shown in another way than listed",
        faults.of_models(lambda card: card.update(created=7), shown=True),
        ("a model is shown as it is listed",),
    ),
    Wrong(
        "a model's card tells nothing of its limits",
        faults.of_models(lambda card: card.pop("max_tokens"), shown=True),
        ("a card tells the longest text and the width",),
    ),
    Wrong(
        "a wrong key is an error of the server",
        faults.failing(lambda sent: "wrong" in sent.told.get("authorization", "")),
        ("a wrong key is refused",),
    ),
    Wrong(
        "a missing key is an error of the server",
        faults.failing(lambda sent: "authorization" not in sent.told),
        ("a missing key is refused",),
    ),
    Wrong(
        "the instruction is put in another way",
        faults.another_for("instruction"),
        ("an instruction is the model's prompt with that task",),
    ),
    Wrong(
        "the end-of-text token is doubled",
        lambda sent: (
            faults.of_vectors(lambda _, vector: vector[::-1])(sent)
            if b"<|endoftext|>" in sent.asked
            else sent
        ),
        ("an end of text token in the text is not doubled",),
    ),
    Wrong(
        "tokenize gives ids of another tokenizer",
        faults.of_tokens(lambda one: one.update(tokens=one["tokens"][::-1])),
        ("the ids of tokenize have the vector of the text",),
    ),
    Wrong(
        "tokenize does not tell that a text was cut",
        faults.of_tokens(lambda one: one.update(truncated=False)),
        ("tokenize tells which texts were cut",),
    ),
    Wrong(
        "tokenize counts in another way than usage",
        faults.of_answer(faults.counted_once),
        ("tokenize counts what embeddings count",),
    ),
    Wrong(
        "tokenize takes what embeddings refuse",
        faults.taking(lambda sent: sent.path.endswith("/tokenize")),
        ("tokenize refuses what embeddings refuse",),
    ),
    Wrong(
        "Cohere's int8 has a scale for each row, and so another zero",
        faults.of_path(
            "/v2/embed",
            lambda _, told: (
                told["embeddings"].update(
                    int8=[[min(127, one + 90) for one in row] for row in told["embeddings"]["int8"]]
                )
                or told
            ),
        ),
        ("cohere's v2 gives every type of the same vectors",),
    ),
    Wrong(
        "Cohere's bits begin at the other end of a byte",
        faults.of_path(
            "/v2/embed",
            lambda _, told: (
                told["embeddings"].update(
                    ubinary=[
                        [int(f"{one:08b}"[::-1], 2) for one in row]
                        for row in told["embeddings"]["ubinary"]
                    ]
                )
                or told
            ),
        ),
        ("cohere's v2 gives every type of the same vectors",),
    ),
    Wrong(
        "Cohere's v1 answers by type",
        faults.of_path(
            "/v1/embed", lambda _, told: told | {"embeddings": {"float": told["embeddings"]}}
        ),
        ("cohere's v1 gives plain lists where no types are named",),
    ),
    Wrong(
        "Cohere's v1 loses the order of texts",
        faults.of_path(
            "/v1/embed", lambda _, told: told | {"embeddings": told["embeddings"][::-1]}
        ),
        ("cohere's v1 gives plain lists where no types are named",),
    ),
    Wrong(
        "errors are OpenAI's for everybody",
        lambda sent: (
            sent
            if sent.status < 400
            else sent.saying({"error": {"message": "no", "type": "x", "param": None, "code": None}})
        ),
        (
            "cohere's errors are in message",
            "tei's errors have a type",
            "ollama's errors are a string",
            "google's errors have a status",
        ),
    ),
    Wrong(
        "TEI's vectors come in an object",
        faults.of_path(
            "/embed", lambda _, told: {"embeddings": told} if isinstance(told, list) else told
        ),
        ("tei's embed gives a bare list", "tei's prompt name is the prompt of a query"),
    ),
    Wrong(
        "TEI's prompt_name is ignored",
        faults.of_path(
            "/embed",
            lambda asked, told: [row[::-1] for row in told] if asked.get("prompt_name") else told,
        ),
        ("tei's prompt name is the prompt of a query",),
    ),
    Wrong(
        "TEI's places of tokens are those of bytes",
        faults.of_path(
            "/tokenize",
            lambda _, told: (
                told
                if isinstance(told, dict)
                else [
                    [one if one["special"] else one | {"start": one["start"] + 1} for one in tokens]
                    for tokens in told
                ]
            ),
        ),
        ("tei's tokenize gives the ids with their places",),
    ),
    Wrong(
        "TEI's tokens are without those around a text",
        faults.of_path(
            "/tokenize",
            lambda _, told: told if isinstance(told, dict) else [tokens[:-1] for tokens in told],
        ),
        ("tei's tokenize gives the ids with their places",),
    ),
    Wrong(
        "Ollama's count of tokens is that of texts",
        faults.of_path(
            "/api/embed",
            lambda asked, told: told | {"prompt_eval_count": len(asked["input"])},
        ),
        ("ollama's embed gives embeddings and their tokens",),
    ),
    Wrong(
        "Ollama's vector of one text comes in a list",
        faults.of_path("/api/embeddings", lambda _, told: {"embedding": told["embedding"][::-1]}),
        ("ollama's embeddings gives the vector of one text",),
    ),
    Wrong(
        "Ollama lists no model",
        faults.of_path("/api/tags", lambda _, told: {"models": []}),
        ("ollama lists the model",),
    ),
    Wrong(
        "Azure's path is not read",
        lambda sent: (
            replace(sent, status=200).saying(
                {
                    "object": "list",
                    "data": [],
                    "model": "m",
                    "usage": {"prompt_tokens": 1, "total_tokens": 1},
                }
            )
            if "/deployments/" in sent.path and sent.status == 404
            else sent
        ),
        ("azure's path names the model",),
    ),
    Wrong(
        "Google's batch loses the order of texts",
        faults.of_path(
            ":batchEmbedContents",
            lambda _, told: told | {"embeddings": told["embeddings"][::-1]},
        ),
        ("google's batch gives values and their tokens",),
    ),
]
"""Each check of a model that embeds has a service here that breaks its sentence."""

OF_PAIRS = [
    Wrong(
        "results are in the order of the documents",
        faults.of_path("/rerank", lambda _, told: told | {"results": by_place(told)}),
        ("documents come back best first with their places",),
    ),
    Wrong(
        "scores depend on the place",
        faults.of_path("/rerank", lambda _, told: told | {"results": renumbered(told)}),
        ("the order of documents changes no score",),
    ),
    Wrong(
        "scores are spread over those of a request",
        faults.of_path("/rerank", lambda _, told: told | {"results": spread(told)}),
        ("a document has the same score alone",),
    ),
    Wrong(
        "top_n is ignored",
        faults.of_path(
            "/rerank", lambda _, told: told | {"results": told["results"] + told["results"][:1]}
        ),
        ("top n keeps the best",),
    ),
    Wrong(
        "texts are those of other documents",
        faults.of_path(
            "/rerank",
            lambda _, told: (
                told
                | {"results": [one | {"document": {"text": "another"}} for one in told["results"]]}
            ),
        ),
        ("documents are returned where they are asked for",),
    ),
    Wrong(
        "usage counts requests",
        faults.of_path(
            "/rerank", lambda _, told: told | {"usage": {"prompt_tokens": 1, "total_tokens": 1}}
        ),
        ("usage counts more tokens for more documents",),
    ),
    Wrong(
        "scoring is another computation",
        faults.of_path(
            "/score",
            lambda _, told: (
                told | {"data": [one | {"score": 1 - one["score"] ** 2} for one in told["data"]]}
            ),
        ),
        ("a score is that of reranking",),
    ),
    Wrong(
        "scores are logits",
        faults.of_path(
            "/rerank",
            lambda _, told: (
                told
                | {
                    "results": [
                        one | {"relevance_score": 9 * one["relevance_score"]}
                        for one in told["results"]
                    ]
                }
            ),
        ),
        ("scores are probabilities",),
    ),
    Wrong(
        "it is not told what was cut",
        lambda sent: replace(
            sent,
            headers={
                name: value
                for name, value in sent.headers.items()
                if name != b"x-embedfleet-truncated"
            },
        ),
        ("a document that is too long is cut and named",),
    ),
    Wrong(
        "wrong requests are errors of the server",
        lambda sent: sent if sent.status == 200 else replace(sent, status=500),
        (
            "a query is never cut",
            "a request without a query is refused",
            "a request without documents is refused",
            "a wrong document is named",
        ),
    ),
]
"""The same of a model that reranks."""


def by_place(told: Any) -> Any:
    """Results in the order of their documents; the worst first, should that be the best."""
    found = sorted(told["results"], key=lambda one: one["index"])
    scores = [one["relevance_score"] for one in found]
    return found[::-1] if scores == sorted(scores, reverse=True) else found


def renumbered(told: Any) -> Any:
    """The best is always said to be the first document."""
    return [one | {"index": place} for place, one in enumerate(told["results"])]


def spread(told: Any) -> Any:
    """Scores brought to the span from 0 to 1 within the request, as some gateways do."""
    scores = [one["relevance_score"] for one in told["results"]]
    width = max(scores) - min(scores) or 1.0
    return [
        one | {"relevance_score": (one["relevance_score"] - min(scores)) / width}
        for one in told["results"]
    ]


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Spoiling]]:
    """A base URL, and what spoils the answers there."""
    around: list[Spoiling] = []

    def spoil(app: App) -> App:
        around.append(Spoiling(app))
        return around[0]

    with answering(tmp_path_factory.mktemp("model"), around=spoil, reranker=True) as url:
        yield url, around[0]


@pytest.mark.parametrize("wrong", [*WRONG, *OF_PAIRS], ids=lambda wrong: wrong.way)
async def test_a_fault_is_noticed_by_the_checks_of_its_sentence(
    wrong: Wrong, spoiled: tuple[str, Spoiling]
) -> None:
    url, spoiling = spoiled
    model = RERANKER if wrong in OF_PAIRS else None
    async with connected(url, key="none", timeout_s=30) as transport:
        for name in wrong.noticed_by:
            spoiling.fault, spoiling.linger_s = wrong.fault, wrong.linger_s
            try:
                service = await introduced(transport, model=model, max_tokens=None, guarded=True)
                result = await run_check(service, (OF_RERANKERS if model else CHECKS)[name])
            finally:
                spoiling.fault, spoiling.linger_s = faults.right, 0.0
            assert result.verdict is Verdict.FAILED, name
            assert result.reason


@pytest.mark.parametrize("check", CHECKS.values(), ids=lambda check: check.name)
def test_every_check_is_known_to_notice_something(check: Check) -> None:
    assert any(check.name in wrong.noticed_by for wrong in WRONG)


@pytest.mark.parametrize("check", OF_RERANKERS.values(), ids=lambda check: check.name)
async def test_checks_of_rerankers_pass_where_nothing_is_wrong_and_each_notices_something(
    check: Check, spoiled: tuple[str, Spoiling]
) -> None:
    assert any(check.name in wrong.noticed_by for wrong in OF_PAIRS)
    async with connected(spoiled[0], key="none", timeout_s=30) as transport:
        service = await introduced(transport, model=RERANKER, max_tokens=None, guarded=True)
        result = await run_check(service, check)
    assert result.verdict is Verdict.PASSED, result.reason
