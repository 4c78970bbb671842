"""Every refusal has the form of the API whose route is asked, whoever refuses; and no value of any
field is an error of the service.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfleet.api.contracts.azure import AZURE
from embedfleet.api.contracts.contract import Asked, Contract, TwoApis
from embedfleet.api.contracts.google import GOOGLE
from embedfleet.api.contracts.openai import OPENAI
from embedfleet.api.formats.embedding_request import RequestLimits
from embedfleet.api.formats.fields import KNOWN
from embedfleet.api.routes import BY_PATH
from embedfleet.transport.asgi import Request
from embedfleet.vocabulary import CallerError, ForbiddenError, UnauthorizedError
from tests.api.contracts.door import Door
from tests.fakes.asking import MODEL, Asker

CONTRACTS: Final[Mapping[str, Contract | TwoApis]] = {
    "/v1/embeddings": OPENAI,
    f"/openai/deployments/{MODEL}/embeddings": AZURE,
    f"/v1beta/models/{MODEL}:embedContent": GOOGLE,
    f"/v1/models/{MODEL}:batchEmbedContents": GOOGLE,
    **BY_PATH,
}


def form(value: Any) -> Any:
    """The names in a body, and what kind of value each has."""
    if isinstance(value, dict):
        return {name: form(each) for name, each in value.items()}
    return "text" if isinstance(value, str | None) else type(value)


class TestForms:
    @pytest.fixture
    def door(self, tmp_path: Path) -> Door:
        return Door(Asker(tmp_path / "model", None))

    async def test_a_refusal_before_a_route_looks_like_one_of_the_route(self, door: Door) -> None:
        for path, contract in CONTRACTS.items():
            own = form(json.loads(contract.refuse(CallerError("own"))))
            for spelling in (path, f"/{path}", f"{path}/"):
                coded = await door.post(spelling, {}, content_encoding="br")
                assert (coded.status, form(coded.json)) == (415, own), spelling
                wrong = await door.ask("PUT", spelling)
                assert (wrong.status, form(wrong.json)) == (405, own), spelling
                assert "POST" in wrong.headers["allow"]

    @pytest.mark.parametrize("error", [ForbiddenError, UnauthorizedError, OSError])
    async def test_so_does_what_a_guard_refuses_and_what_is_a_bug(
        self, door: Door, error: type[Exception]
    ) -> None:
        def guard(_request: Request) -> None:
            raise error("no")

        guarded = Door(door.asker, guard)
        for path, contract in CONTRACTS.items():
            own = form(json.loads(contract.refuse(CallerError("own"))))
            told = await guarded.post(path, {})
            assert (told.status, form(told.json)) == (getattr(error, "status", 500), own), path

    async def test_paths_of_an_api_that_are_not_here_are_refused_in_its_form(
        self, door: Door
    ) -> None:
        told = await door.post("/api/generate", {"model": MODEL})
        assert told.status == 404
        assert isinstance(told.json["error"], str)
        for path in ("/v1/chat/completions", "/nothing"):
            assert (await door.post(path, {})).json["error"]["code"] == "unknown_url"


names = st.sampled_from(
    [
        *(*KNOWN, "model", "input", "dimensions", "encoding_format", "user", "input_type"),
        *("instruction", "truncate", "query", "documents", "top_n", "text_1", "text_2", "content"),
        *("requests", "parts", "text", "embedding_types", "taskType", "options", "keep_alive"),
        *("return_documents", "raw_scores", "max_tokens_per_doc", "texts", "x"),
    ]
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "a", "float", "base64", "int8", "NONE", "left", "item", "query"])
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
FINE: Final[Mapping[str, Mapping[str, Any]]] = {
    "/v1/embeddings": {"model": MODEL, "input": ["a"]},
    "/v1/embed": {"model": MODEL, "texts": ["a"]},
    "/v2/embed": {"model": MODEL, "texts": ["a"]},
    "/embed": {"inputs": ["a"]},
    "/": {"inputs": ["a"]},
    "/api/embed": {"model": MODEL, "input": ["a"]},
    "/api/embeddings": {"model": MODEL, "prompt": "a"},
    f"/openai/deployments/{MODEL}/embeddings": {"input": ["a"]},
    f"/v1beta/models/{MODEL}:embedContent": {"content": {"parts": [{"text": "a"}]}},
    f"/v1/models/{MODEL}:batchEmbedContents": {
        "requests": [{"content": {"parts": [{"text": "a"}]}}]
    },
    "rerank": {"query": "q", "documents": ["d"]},
    "score": {"text_1": "a", "text_2": ["b"]},
}


@pytest.mark.parametrize("path", CONTRACTS)
@settings(max_examples=50, deadline=None)
@given(more=st.dictionaries(names, values, max_size=3), right=st.booleans())
def test_no_value_of_any_field_is_an_error_of_the_service(
    path: str, more: dict[str, Any], right: bool
) -> None:
    fine = FINE.get(path) or FINE[path.rpartition("/")[2]]
    contract, asked = CONTRACTS[path], Asked(path, RequestLimits())
    contract = contract.begin() if isinstance(contract, TwoApis) else contract
    body = json.dumps({**fine, **more} if right else more).encode()
    for read in (contract.read, partial(contract.read_large, step=lambda: None)):
        try:
            read(body, asked)
        except CallerError as error:
            json.loads(contract.refuse(error))


@pytest.mark.parametrize("value", [{}, [], [{}], {"a": [1]}, "", 0, 0.5, True, False, "a", 2**70])
def test_no_value_of_a_field_that_all_apis_know_is_one_either(value: Any) -> None:
    for field in KNOWN:
        body = json.dumps({"model": MODEL, "input": ["a"], field: value}).encode()
        told = ""
        try:
            OPENAI.read(body, Asked("/v1/embeddings", RequestLimits()))
        except CallerError as error:
            told = error.param or "nothing"
        assert told in {"", field}
