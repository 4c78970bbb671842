"""What a request may ask for beside vectors: forms, an end to cut, errors by item, their space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pybase64
import pytest

from embedfleet.api.formats.vector_forms import derive, rounded
from embedfleet.api.served_model import ModelVersion
from embedfleet.api.vector_space import space_id
from embedfleet.cache.memory import MemoryTier
from embedfleet.cache.tiers import VectorCache
from embedfleet.models.description import Template
from embedfleet.vocabulary import Pooling, Precision, VectorError, Vectors
from tests.fakes.asking import WIDTH, Asker, RevealingBackend, request

LONG = "the river rises in the mountains " * 120


@pytest.fixture(params=["with a cache", "without one"])
def asker(request: pytest.FixtureRequest, tmp_path: Path) -> Asker:
    cache = VectorCache(MemoryTier(2**20)) if request.param == "with a cache" else None
    return Asker(tmp_path / "model", cache)


def matrix(asker: Asker, *texts: str) -> Vectors:
    return np.stack([np.frombuffer(asker.right(text), "<f4") for text in texts])


async def raw(asker: Asker, texts: Sequence[str], **fields: Any) -> tuple[bytes, dict[str, str]]:
    body = {"model": "revealing", "input": texts} | fields
    response = await asker.endpoint.embeddings(request(body, {}, None))
    assert response.status == 200, response.body
    headers = {name.decode(): value.decode() for name, value in response.headers}
    return response.body, headers | {"content-type": response.content_type.decode()}


class TestForms:
    @pytest.mark.parametrize("dimensions", [None, 32])
    @pytest.mark.parametrize("kind", ["int8", "uint8", "binary", "ubinary"])
    async def test_integers_are_listed_or_in_base64(
        self, asker: Asker, kind: Any, dimensions: int | None
    ) -> None:
        expected = np.asarray(rounded(derive(matrix(asker, "one", "two"), dimensions), kind))
        for _ in range(2):  # the second answer comes from the cache, where there is one
            listed = await asker.ask(
                ["one", "two"], encoding_format="float", output_dtype=kind, dimensions=dimensions
            )
            rows = [row["embedding"] for row in listed.body["data"]]
            assert rows == expected.tolist()
            coded = await asker.ask(["one", "two"], output_dtype=kind, dimensions=dimensions)
            assert b"".join(coded.vectors) == expected.tobytes()
            assert coded.body["output_dtype"] == kind
            assert ("scale" in coded.body) == kind.endswith("int8")

    async def test_the_scale_of_the_answer_gives_the_vector_back(self, asker: Asker) -> None:
        answer = await asker.ask(["one"], encoding_format="float", output_dtype="int8")
        found = np.array(answer.body["data"][0]["embedding"]) * answer.body["scale"]
        assert found @ matrix(asker, "one")[0] > 0.999

    async def test_narrow_floats_are_numbers_in_json(self, asker: Asker) -> None:
        for kind in ("float16", "bfloat16", "fp8_e4m3", "fp8_e5m2"):
            answer = await asker.ask(["one"], encoding_format="float", output_dtype=kind)
            found = np.array(answer.body["data"][0]["embedding"], np.float32)
            expected = np.asarray(rounded(matrix(asker, "one"), kind)).astype(np.float32)
            assert (found == expected[0]).all()

    async def test_bytes_are_one_body_with_all_vectors(self, asker: Asker) -> None:
        body, headers = await raw(asker, ["one", "two"], encoding_format="bytes_only")
        assert body == matrix(asker, "one", "two").tobytes()
        assert headers["content-type"] == "application/octet-stream"
        assert headers["x-embedfleet-shape"] == f"2, {WIDTH}"
        assert headers["x-embedfleet-dtype"] == "float32"
        assert "prompt_tokens" in headers["x-embedfleet-usage"]
        assert "metadata" not in headers

    async def test_bytes_are_described_as_vllm_does(self, asker: Asker) -> None:
        body, headers = await raw(
            asker,
            ["one", "two"],
            encoding_format="bytes",
            embed_dtype="float16",
            endianness="big",
            dimensions=32,
        )
        told = orjson.loads(headers["metadata"])
        expected = derive(matrix(asker, "one", "two"), 32)
        for item, row in zip(told["data"], expected, strict=True):
            assert (item["embed_dtype"], item["endianness"]) == ("float16", "big")
            found = np.frombuffer(body[item["start"] : item["end"]], ">f2")
            assert (found == row.astype(np.float16)).all()
            assert item["shape"] == [32]
        assert told["usage"]["prompt_tokens"] > 0

    async def test_what_bytes_can_t_hold_is_refused_before_anything_is_computed(
        self, asker: Asker
    ) -> None:
        for fields in (
            {"input": ["a"] * 65, "encoding_format": "bytes"},
            {"encoding_format": "bytes_only", "on_error": "item"},
        ):
            body = {"model": "revealing", "input": ["a"]} | fields
            response = await asker.endpoint.embeddings(request(body, {}, None))
            assert response.status == 400
            assert b"encoding_format" in response.body
        assert not asker.backend.computed


class TestTruncation:
    async def test_either_end_is_truncated_and_reported_for_each_text(self, asker: Asker) -> None:
        texts = ["short", LONG + "to the sea", "brief"]
        for end in ("end", "start"):
            answer = await asker.ask(texts, truncate=end)
            assert [row.get("truncated") for row in answer.body["data"]] == [None, True, None]
            assert answer.headers[b"x-embedfleet-truncated"] == b"1"
        start = await asker.ask(texts, truncate="start")
        ending = await asker.ask(texts, truncate="end")
        assert start.vectors[1] != ending.vectors[1] == asker.right(texts[1])
        assert start.vectors[0] == ending.vectors[0]

    async def test_what_is_kept_of_a_text_is_its_prompt_and_its_other_end(
        self, asker: Asker
    ) -> None:
        other = "how are you? " * 90 + LONG + "to the sea"
        found = [await asker.ask(each, truncate="start") for each in (other, LONG + "to the sea")]
        assert found[0].vectors == found[1].vectors
        asked: dict[str, Any] = {"truncate": "start", "instruction": "Find the river"}
        prompted = [await asker.ask(each, **asked) for each in (other, LONG + "to the sea")]
        assert prompted[0].vectors == prompted[1].vectors != found[0].vectors

    async def test_the_pool_s_default_holds_where_a_request_does_not_say(
        self, asker: Asker
    ) -> None:
        assert (await asker.ask(LONG)).status == 400
        for default in ("start", "end"):
            asker.truncate(default)
            answer = await asker.ask(LONG)
            assert answer.vectors == (await asker.ask(LONG, truncate=default)).vectors
            assert (await asker.ask(LONG, truncate=False)).status == 400


class TestErrorsByItem:
    async def test_the_good_are_answered_and_the_bad_have_an_error_in_their_place(
        self, asker: Asker
    ) -> None:
        texts = ["", "one", LONG, "two", ""]
        for _ in range(2):
            answer = await asker.ask(texts, on_error="item")
            data = answer.body["data"]
            assert [row["index"] for row in data] == [0, 1, 2, 3, 4]
            assert [row["object"] for row in data] == [
                *("error", "embedding", "error", "embedding", "error")
            ]
            codes = [row["error"]["code"] for row in data if row["object"] == "error"]
            assert codes == ["empty_string", "context_length_exceeded", "empty_string"]
            assert data[2]["error"]["param"] == "input[2]"
            found = [pybase64.b64decode(data[place]["embedding"]) for place in (1, 3)]
            assert found == [asker.right("one"), asker.right("two")]
            assert answer.headers[b"x-embedfleet-errors"] == b"3"

    async def test_a_header_says_it_for_clients_that_can_t(self, asker: Asker) -> None:
        answer = await asker.ask(["", "one"], headers={"x-embedfleet-on-error": "item"})
        assert [row["object"] for row in answer.body["data"]] == ["error", "embedding"]
        wrong = await asker.ask(["one"], headers={"x-embedfleet-on-error": "skip"})
        assert wrong.body["error"]["param"] == "x-embedfleet-on-error"

    async def test_all_texts_of_a_request_may_be_invalid(self, asker: Asker) -> None:
        answer = await asker.ask(["", ""], on_error="item")
        assert [row["object"] for row in answer.body["data"]] == ["error", "error"]
        assert answer.tokens == 0

    async def test_a_text_that_engines_fail_takes_no_other_down(self, tmp_path: Path) -> None:
        class Choosy(RevealingBackend):
            def tell(self, text: Any) -> None:
                if len(text.encoding) > 4:
                    text.fail(VectorError("it came out as NaN"))
                else:
                    super().tell(text)

        for name, cache in (("one", None), ("two", VectorCache(MemoryTier(2**20)))):
            asker = Asker(tmp_path / name, cache, backend=Choosy())
            bad = "the river rises in the mountains"
            answer = await asker.ask(["one", bad, "two", bad], on_error="item")
            assert [row["object"] for row in answer.body["data"]] == [
                *("embedding", "error", "embedding", "error")
            ]
            assert answer.body["data"][1]["error"]["code"] == "invalid_vector"
            assert (await asker.ask(["one", bad])).status == 500

    async def test_a_refusal_names_every_text_and_tells_of_each(self, asker: Asker) -> None:
        answer = await asker.ask(["one", LONG, "two", LONG + "!"])
        error = answer.body["error"]
        assert (answer.status, error["param"]) == (400, "input[1]")
        assert "`input[3]`" in error["message"]
        assert [each["param"] for each in error["details"]] == ["input[1]", "input[3]"]


class TestSpaces:
    async def test_every_answer_says_which_space_its_vectors_are_in(self, asker: Asker) -> None:
        one, two = await asker.ask("one"), await asker.ask("two", input_type="query", dimensions=32)
        space = one.headers[b"x-embedfleet-space"]
        assert len(space) == 32
        assert two.headers[b"x-embedfleet-space"] == space

    async def test_what_decides_a_vector_decides_its_space(self, asker: Asker) -> None:
        identity, template = asker.model.identity, asker.model.encoder.template
        right = (identity, ModelVersion("r", Precision.F32), template, Pooling.LAST)
        others = [
            *(
                (replace(identity, **change), *right[1:])
                for change in ({"tokenizer": "t"}, {"width": 32}, {"prompts": {"query": "q: "}})
            ),
            (identity, ModelVersion("q", Precision.F32), template, Pooling.LAST),
            (identity, ModelVersion("r", Precision.INT8), template, Pooling.LAST),
            (identity, right[1], Template(template.after, template.after), Pooling.LAST),
            (identity, right[1], template, Pooling.MEAN),
            (identity, right[1], template, "other"),
        ]
        assert space_id(*right) == space_id(*right)
        assert len({space_id(*each) for each in [right, *others]}) == 1 + len(others)

    async def test_unknown_weights_have_no_space(self, asker: Asker) -> None:
        asker.version = ModelVersion("unknown 123", Precision.F32)
        assert b"x-embedfleet-space" not in (await asker.ask("one")).headers
