"""Every API asks for the same vectors in its own words, and is answered in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pybase64
import pytest

from embedfleet.api.contracts.contract import Asked
from embedfleet.api.contracts.google import GOOGLE
from embedfleet.api.formats.embedding_request import RequestLimits
from embedfleet.api.formats.vector_forms import derive, rounded, scale
from embedfleet.api.routes import meant
from embedfleet.cache.memory import MemoryTier
from embedfleet.cache.tiers import VectorCache
from embedfleet.vocabulary import CallerError, Vectors
from tests.api.contracts.door import Door
from tests.fakes.asking import MODEL, WIDTH, Asker

LONG = "the river rises in the mountains " * 120
QUERY = (
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
)


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(Asker(tmp_path / "model", VectorCache(MemoryTier(2**20))))


def right(door: Door, *texts: str, prompt: str = "") -> Vectors:
    return np.stack([np.frombuffer(door.asker.right(text, prompt=prompt), "<f4") for text in texts])


def same(found: Any, expected: Any) -> bool:
    return bool((np.array(found, np.float32) == expected).all())


class TestPaths:
    @pytest.mark.parametrize(
        "path",
        [
            "/v1/embeddings",
            "/embeddings",
            "/v1/embeddings/",
            "/v1//embeddings",
            "//v1/embeddings",
            "/v1/v1/embeddings",
            "/openai/v1/embeddings",
            "/openai/v1/embeddings/",
            "/openai/embeddings",
            f"/openai/deployments/{MODEL}/embeddings",
            f"/openai/deployments/{MODEL}/embeddings/",
            f"/v1/engines/{MODEL}/embeddings",
        ],
    )
    async def test_openai_s_clients_find_vectors_wherever_they_look(
        self, door: Door, path: str
    ) -> None:
        told = await door.post(path, {"model": MODEL, "input": "one"})
        assert same(told.json["data"][0]["embedding"], right(door, "one"))

    async def test_the_deployment_counts_whatever_the_body_says(self, door: Door) -> None:
        path = f"/openai/deployments/{MODEL}/embeddings"
        for body in ({"input": "one"}, {"model": "text-embedding-ada-002", "input": "one"}):
            told = await door.post(path, body)
            assert (told.status, told.json["model"]) == (200, MODEL)
        told = await door.post("/openai/deployments/other/embeddings", {"input": "one"})
        assert (told.status, told.json["error"]["code"]) == (404, "model_not_found")
        told = await door.post(f"/openai/deployments/{MODEL}/chat/completions", {})
        assert (told.status, told.json["error"]["code"]) == (404, "unknown_url")

    async def test_models_are_listed_with_and_without_v1(self, door: Door) -> None:
        paths = ("/v1/models", "/models", "/models/", "/openai/v1/models", "/openai/models")
        for path in paths:
            told = await door.ask("GET", path)
            assert told.json["data"][0]["id"] == MODEL

    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("/openai/files", "/v1/files"),
            ("/openai/files/file-1/content", "/v1/files/file-1/content"),
            ("/openai/batches/", "/v1/batches"),
            ("//openai//v1/batches/batch-1/cancel", "/v1/batches/batch-1/cancel"),
            ("/openai/deployments/files/embeddings", "/openai/deployments/files/embeddings"),
            ("/openai/deployments", "/openai/deployments"),
            ("/openai", "/openai"),
            ("/openaid/models", "/openaid/models"),
            ("/v1/models/openai/v1/x", "/v1/models/openai/v1/x"),
            ("/v1/v1", "/v1/v1"),
        ],
    )
    def test_what_azure_puts_before_a_path_is_left_out(self, path: str, expected: str) -> None:
        assert meant(path) == expected
        assert meant(expected) == expected

    async def test_a_wrong_method_is_refused_with_the_right_one_on_every_spelling_of_the_path(
        self, door: Door
    ) -> None:
        told = await door.ask("GET", "/v1//embeddings/")
        assert (told.status, told.headers["allow"]) == (405, "POST")


class TestCohere:
    async def test_several_forms_of_each_vector_in_one_answer(self, door: Door) -> None:
        types = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
        body = {"model": MODEL, "texts": ["one", "two"], "embedding_types": types}
        for dimensions in (None, 32):
            told = (await door.post("/v2/embed", body | {"output_dimension": dimensions})).json
            expected = derive(right(door, "one", "two"), dimensions)
            found = told["embeddings"]
            assert list(found) == types
            assert same(found["float"], expected)
            for kind in types[1:5]:
                assert found[kind] == np.asarray(rounded(expected, kind)).tolist()  # type: ignore[arg-type]
            coded = [pybase64.b64decode(row) for row in found["base64"]]
            assert b"".join(coded) == np.asarray(expected).tobytes()
            assert told["meta"]["scales"]["int8"] == scale("int8", dimensions or WIDTH)
            assert told["response_type"] == "embeddings_by_type"
            assert told["texts"] == ["one", "two"]
            assert told["meta"]["billed_units"]["input_tokens"] > 0

    async def test_v1_lists_floats_where_no_types_are_named(self, door: Door) -> None:
        told = (await door.post("/v1/embed", {"model": MODEL, "texts": ["one"]})).json
        assert told["response_type"] == "embeddings_floats"
        assert same(told["embeddings"], right(door, "one"))
        body = {"model": MODEL, "texts": ["one"], "embedding_types": ["float"]}
        assert list((await door.post("/v1/embed", body)).json["embeddings"]) == ["float"]

    async def test_input_types_are_the_model_s_prompts(self, door: Door) -> None:
        for input_type, prompt in (("search_query", QUERY), ("search_document", "")):
            body = {"model": MODEL, "texts": ["one"], "input_type": input_type}
            told = (await door.post("/v2/embed", body)).json
            assert same(told["embeddings"]["float"], right(door, "one", prompt=prompt))

    async def test_inputs_are_texts_in_pieces(self, door: Door) -> None:
        content = [{"type": "text", "text": "on"}, {"type": "text", "text": "e"}]
        body = {"model": MODEL, "inputs": [{"content": content}, {"content": "two"}]}
        told = (await door.post("/v2/embed", body)).json
        assert same(told["embeddings"]["float"], right(door, "one", "two"))

    async def test_texts_are_cut_unless_they_are_not_to_be(self, door: Door) -> None:
        for truncate, status in ((None, 200), ("END", 200), ("START", 200), ("NONE", 400)):
            body = {"model": MODEL, "texts": [LONG], "truncate": truncate}
            assert (await door.post("/v2/embed", body)).status == status

    @pytest.mark.parametrize(
        ("fields", "named"),
        [
            ({"images": ["data:image/png;base64,AA"]}, "images"),
            ({"max_tokens": 5}, "max_tokens"),
            ({"embedding_types": ["float", "int4"]}, "embedding_types[1]"),
            ({"embedding_types": []}, "embedding_types"),
            ({"texts": ["a", ""]}, "texts[1]"),
            ({"texts": None}, "texts"),
            ({"texts": [1]}, "texts[0]"),
            ({"input_type": "image"}, "input_type"),
            ({"output_dimension": 31}, "dimensions"),
            ({"normalize": False}, "normalize"),
        ],
    )
    async def test_errors_have_cohere_s_shape(
        self, door: Door, fields: dict[str, Any], named: str
    ) -> None:
        told = await door.post("/v2/embed", {"model": MODEL, "texts": ["one"]} | fields)
        assert told.status == 400
        assert list(told.json) == ["message"]
        assert f"`{named}`" in told.json["message"]

    async def test_an_invalid_text_has_null_in_its_place_if_requested(self, door: Door) -> None:
        body = {"model": MODEL, "texts": ["", "one"]}
        told = (await door.post("/v2/embed", body, x_embedfleet_on_error="item")).json
        nothing, vector = told["embeddings"]["float"]
        assert nothing is None
        assert same([vector], right(door, "one"))
        assert "`texts[0]`" in told["meta"]["warnings"][0]


class TestTei:
    @pytest.mark.parametrize("path", ["/embed", "/", "/embed/"])
    async def test_vectors_are_a_bare_list(self, door: Door, path: str) -> None:
        for inputs in (["one", "two"], "one"):
            told = await door.post(path, {"inputs": inputs, "normalize": True})
            expected = right(door, "one", "two")[: len(told.json)]
            assert same(told.json, expected)

    async def test_prompts_and_ends_have_tei_s_names(self, door: Door) -> None:
        body = {"inputs": "one", "prompt_name": "query"}
        assert same((await door.post("/embed", body)).json, right(door, "one", prompt=QUERY))
        assert (await door.post("/embed", {"inputs": LONG})).status == 400
        ends = [
            (await door.post("/embed", {"inputs": LONG + "sea", "truncate": True} | side)).json
            for side in ({}, {"truncation_direction": "Left"}, {"truncation_direction": "Right"})
        ]
        assert ends[0] == ends[2] != ends[1]

    async def test_errors_have_tei_s_shape(self, door: Door) -> None:
        for body, named in (({"inputs": ["a", ""]}, "inputs[1]"), ({}, "inputs")):
            told = await door.post("/embed", body)
            assert (told.status, told.json["error_type"]) == (400, "Validation")
            assert f"`{named}`" in told.json["error"]

    async def test_info_tells_the_limits(self, door: Door) -> None:
        told = (await door.ask("GET", "/info")).json
        assert told["model_id"] == MODEL
        assert told["max_input_length"] == door.asker.model.identity.max_tokens
        assert told["max_client_batch_size"] == 2048
        assert told["model_type"] == {"embedding": {"pooling": "last_token"}}


class TestOllama:
    async def test_vectors_stand_beside_their_cost(self, door: Door) -> None:
        for name in (MODEL, f"{MODEL}:latest"):
            told = (await door.post("/api/embed", {"model": name, "input": ["one", "two"]})).json
            assert same(told["embeddings"], right(door, "one", "two"))
            assert told["model"] == name
            assert told["prompt_eval_count"] > 0
        one = (await door.post("/api/embed", {"model": MODEL, "input": "one"})).json
        assert same(one["embeddings"], right(door, "one"))

    async def test_one_text_has_the_older_path(self, door: Door) -> None:
        body = {"model": MODEL, "prompt": "one", "options": {"num_ctx": 512}, "keep_alive": "5m"}
        told = await door.post("/api/embeddings", body)
        assert same([told.json["embedding"]], right(door, "one"))
        assert told.headers["x-embedfleet-ignored"] == "options"

    @pytest.mark.parametrize("body", [{"input": []}, {"input": ""}, {"input": None}, {}])
    async def test_no_texts_have_no_vectors(self, door: Door, body: dict[str, Any]) -> None:
        """Ollama's clients have a model loaded so."""
        told = await door.post("/api/embed", {"model": MODEL, **body})
        assert (told.status, told.json["embeddings"]) == (200, [])
        body = {{"input": "prompt"}[name]: value for name, value in body.items() if value != []}
        told = await door.post("/api/embeddings", {"model": MODEL, **body})
        assert (told.status, told.json) == (200, {"embedding": []})
        assert (await door.post("/api/embed", {"model": "other", **body})).status == 404
        assert (await door.post("/api/embed", {"model": MODEL, "input": [""]})).status == 400

    async def test_texts_are_cut_unless_they_are_not_to_be(self, door: Door) -> None:
        for truncate, status in ((None, 200), (True, 200), (False, 400)):
            body = {"model": MODEL, "input": LONG, "truncate": truncate}
            assert (await door.post("/api/embed", body)).status == status

    async def test_models_are_listed_as_ollama_lists_them(self, door: Door) -> None:
        for path in ("/api/tags", "/api/ps"):
            assert (await door.ask("GET", path)).json["models"][0]["name"] == f"{MODEL}:latest"
        assert (await door.ask("GET", "/api/version")).json["version"]
        shown = (await door.post("/api/show", {"model": MODEL})).json
        assert shown["capabilities"] == ["embedding"]
        assert shown["model_info"]["embedfleet.embedding_length"] == WIDTH
        assert (await door.post("/api/show", {"model": "other"})).status == 404
        assert (await door.post("/api/show", [])).status == 400


def contents(*texts: str, **fields: Any) -> list[dict[str, Any]]:
    return [{"content": {"parts": [{"text": text}], "role": "user"}} | fields for text in texts]


class TestGoogle:
    @pytest.mark.parametrize("version", ["v1", "v1beta"])
    async def test_one_text_and_several_have_a_route_each(self, door: Door, version: str) -> None:
        path = f"/{version}/models/{MODEL}"
        one = (await door.post(f"{path}:embedContent", contents("one")[0])).json
        assert same([one["embedding"]["values"]], right(door, "one"))
        body = {"requests": contents("one", "two", model=f"models/{MODEL}")}
        two = (await door.post(f"{path}:batchEmbedContents", body)).json
        assert same([each["values"] for each in two["embeddings"]], right(door, "one", "two"))
        assert two["usageMetadata"]["promptTokenCount"] > one["usageMetadata"]["promptTokenCount"]

    @pytest.mark.parametrize(
        "names", [("taskType", "outputDimensionality"), ("task_type", "output_dimensionality")]
    )
    async def test_fields_are_named_in_either_case(
        self, door: Door, names: tuple[str, str]
    ) -> None:
        fields: dict[str, Any] = dict(zip(names, ("RETRIEVAL_QUERY", 32), strict=True))
        expected = derive(right(door, "one", prompt=QUERY), 32)
        path = f"/v1beta/models/{MODEL}"
        told = await door.post(f"{path}:embedContent", contents("one", **fields)[0])
        assert same([told.json["embedding"]["values"]], expected)
        body = {"requests": contents("one", "one", **fields)}
        told = await door.post(f"{path}:batchEmbedContents", body)
        assert same([told.json["embeddings"][1]["values"]], expected)

    async def test_parts_are_one_text(self, door: Door) -> None:
        body = {"content": {"parts": [{"text": "on"}, {"text": "e"}]}}
        told = await door.post(f"/v1/models/{MODEL}:embedContent", body)
        assert same([told.json["embedding"]["values"]], right(door, "one"))

    @pytest.mark.parametrize(
        ("verb", "body", "said"),
        [
            ("embedContent", {}, "`content` is missing"),
            ("embedContent", {"content": {"parts": []}}, "`content` is empty"),
            ("embedContent", {"content": {"parts": [{"inlineData": {}}]}}, "`content"),
            ("embedContent", {"texts": ["one"]}, "`content`"),
            ("embedContent", contents("one", title="T")[0], "`title`"),
            ("embedContent", contents("one", taskType="CLUSTERING")[0], "`taskType`"),
            ("batchEmbedContents", {}, "`requests` is missing"),
            ("batchEmbedContents", {"requests": []}, "`requests` is empty"),
            ("batchEmbedContents", {"requests": contents("one", "")}, "`requests[1]` is empty"),
            ("batchEmbedContents", {"requests": [{"content": 3}]}, "`requests[0].content`"),
            (
                "batchEmbedContents",
                {"requests": [*contents("a"), *contents("b", taskType="RETRIEVAL_QUERY")]},
                "`requests[1].taskType`",
            ),
        ],
    )
    async def test_errors_have_google_s_shape(
        self, door: Door, verb: str, body: dict[str, Any], said: str
    ) -> None:
        told = await door.post(f"/v1beta/models/{MODEL}:{verb}", body)
        error = told.json["error"]
        assert (told.status, error["code"], error["status"]) == (400, 400, "INVALID_ARGUMENT")
        assert said in error["message"]

    async def test_other_verbs_and_models_are_not_found(self, door: Door) -> None:
        for version in ("v1", "v1beta"):
            path = f"/{version}/models/{MODEL}:generateContent"
            told = await door.post(path, {})
            assert (told.status, told.json["error"]["status"]) == (404, "NOT_FOUND")
            assert "embedContent" in told.json["error"]["message"]
            told = await door.ask("POST", f"/{version}/models/{MODEL}")
            assert (told.status, told.headers["allow"]) == (405, "GET, HEAD")
        told = await door.post("/v1beta/models/other:embedContent", contents("one")[0])
        assert (told.status, told.json["error"]["status"]) == (404, "NOT_FOUND")

    @pytest.mark.parametrize(
        ("path", "headers"),
        [
            ("/v1beta/models", {}),
            ("/v1/models", {"x_goog_api_client": "google-genai-sdk/3.6.1 gl-python/3.11"}),
            ("/models", {"x_goog_api_key": "KEY"}),
        ],
    )
    async def test_models_are_described_to_google_s_clients_as_google_does(
        self, door: Door, path: str, headers: dict[str, str]
    ) -> None:
        (listed,) = (await door.ask("GET", path, None, **headers)).json["models"]
        assert listed["name"] == f"models/{MODEL}"
        assert "embedContent" in listed["supportedGenerationMethods"]
        path = path.removesuffix("models").removesuffix("/") or "/v1"
        shown = await door.ask("GET", f"{path}/{listed['name']}", None, **headers)
        assert shown.json == listed
        told = await door.ask("GET", f"{path}/models/other", None, **headers)
        assert (told.status, told.json["error"]["status"]) == (404, "NOT_FOUND")

    def test_a_body_is_no_longer_than_a_mebibyte(self) -> None:
        body = msgspec.json.encode({"requests": contents("one " * 300_000)})
        asked = Asked(f"/v1beta/models/{MODEL}:batchEmbedContents", RequestLimits())
        with pytest.raises(CallerError, match="send fewer texts at once"):
            GOOGLE.read_large(body, asked, lambda: None)

    async def test_an_invalid_text_has_null_in_its_place_if_requested(self, door: Door) -> None:
        body = {"requests": contents("one", "")}
        path = f"/v1beta/models/{MODEL}:batchEmbedContents"
        told = await door.post(path, body, x_embedfleet_on_error="item")
        assert told.json["embeddings"][1] is None


class TestCards:
    async def test_a_card_tells_all_that_an_index_must_know(self, door: Door) -> None:
        (card,) = (await door.ask("GET", "/v1/models")).json["data"]
        assert card == (await door.ask("GET", f"/v1/models/{MODEL}")).json
        assert (card["dimensions"], card["least_dimensions"]) == (WIDTH, 32)
        assert {"float32", "int8", "ubinary"} <= set(card["output_dtypes"])
        assert card["encoding_formats"] == ["float", "base64", "bytes", "bytes_only"]
        assert card["scales"] == {"32": scale("int8", 32), "64": scale("int8", WIDTH)}
        assert card["prompts"] == {"query": QUERY}
        assert card["precision"] == "f32"
        answer = await door.post("/v1/embeddings", {"model": MODEL, "input": "one"})
        assert answer.headers["x-embedfleet-space"] == card["space"]
