"""Tokens are counted as they would be embedded, and nothing is computed for it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.api.formats.openai import RequestLimits
from embedfleet.api.formats.openai_response import render_tokens
from embedfleet.api.intake import Intake
from embedfleet.api.tokenize import INLINE_TOKENS
from embedfleet.transport.access import KeyRing
from embedfleet.transport.access.records import plain
from embedfleet.vocabulary import (
    CallerError,
    ForbiddenError,
    NoReplicaError,
    RateLimitedError,
    UnauthorizedError,
)
from tests.fakes.asking import MODEL, Asker, Heard, heard, request

KEY = "a-key-for-counting-tokens"


@pytest.fixture
def asker(tmp_path: Path) -> Asker:
    return Asker(tmp_path / "model", None)


async def tokens(asker: Asker, given: object, key: str = "", **fields: Any) -> Heard:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    body = {"model": MODEL, "input": given} | fields
    return heard(await asker.endpoint.tokenize(request(body, headers, None)))


def guarded(directory: Path, **limits: Any) -> Asker:
    """Someone who asks an endpoint that wants the key, which has these limits."""
    (record,) = plain([KEY], datetime.now(UTC), "tests")
    changed = {name: getattr(record, name) for name in record.__struct_fields__} | limits
    return Asker(directory, None, access=KeyRing([type(record)(**changed)]))


@pytest.mark.parametrize(
    "fields",
    [{}, {"input_type": "query"}, {"instruction": "Find the river."}, {"truncate": True}],
)
async def test_counts_are_what_usage_says_of_the_same_request(
    asker: Asker, fields: dict[str, Any]
) -> None:
    texts = ["one", "two and three", "the river rises"]
    found = await tokens(asker, texts, **fields)
    assert found.tokens == (await asker.ask(texts, **fields)).tokens
    assert found.tokens == sum(one["count"] for one in found.body["data"])
    assert found.body["max_tokens"] == asker.model.identity.max_tokens


async def test_the_ids_are_what_the_engine_gets(asker: Asker) -> None:
    found = await tokens(asker, ["the river", "the sea"], input_type="query")
    await asker.ask(["the river", "the sea"], input_type="query")
    given_to_engine = [np.frombuffer(ids, np.int32).tolist() for ids in asker.backend.computed]
    assert [one["tokens"] for one in found.body["data"]] == given_to_engine


async def test_nothing_is_computed_and_no_text_counts_as_answered(asker: Asker) -> None:
    await tokens(asker, ["one", "two"])
    assert asker.backend.computed == []
    assert asker.told == []
    assert asker.endpoint.active == 0


async def test_many_tokens_are_counted_too(asker: Asker) -> None:
    texts = ["the river rises in the mountains " * 60] * 50
    found = await tokens(asker, texts)
    assert found.tokens > INLINE_TOKENS
    assert len(found.body["data"]) == 50


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ("", "empty_string"),
        ([[10**6]], "invalid_token_id"),
        ("a " * 5000, "context_length_exceeded"),
    ],
)
async def test_what_can_t_be_embedded_is_refused_and_holds_nothing(
    asker: Asker, given: object, code: str
) -> None:
    with pytest.raises(CallerError) as refused:
        await tokens(asker, given)
    assert refused.value.code == code
    assert asker.endpoint._intake._held_bytes == 0
    assert asker.endpoint.active == 0


async def test_a_length_that_no_vector_has_is_refused_as_for_vectors(asker: Asker) -> None:
    with pytest.raises(CallerError, match="`dimensions` must be from 32 to 64") as refused:
        await tokens(asker, "one", dimensions=65)
    assert (refused.value.param, refused.value.code) == ("dimensions", "integer_above_max_value")


async def test_a_key_is_required_and_its_limits_hold(tmp_path: Path) -> None:
    asker = guarded(tmp_path / "model", requests_per_minute=2, models=("other",))
    with pytest.raises(UnauthorizedError):
        await tokens(asker, "one")
    for _ in range(2):
        with pytest.raises(ForbiddenError):
            await tokens(asker, "one", KEY)
    with pytest.raises(RateLimitedError):
        await tokens(asker, "one", KEY)


async def test_counting_costs_a_key_no_tokens(tmp_path: Path) -> None:
    asker = guarded(tmp_path / "model", tokens_per_minute=1)
    assert (await tokens(asker, "several tokens here", KEY)).tokens > 1


def test_without_a_replica_no_model_is_known_yet() -> None:
    intake = Intake(dict, limits=RequestLimits(), max_body_bytes=100, max_held_bytes=100)
    with pytest.raises(NoReplicaError, match="no model is known"):
        intake.find("m")


encodings = st.lists(
    st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5), min_size=1, max_size=4
)


@given(encodings, st.booleans(), st.text(st.characters(codec="utf-8"), max_size=5))
def test_the_answer_holds_every_id_and_their_sums(
    lists: list[list[int]], cut: bool, model: str
) -> None:
    arrays = [np.array(ids, np.int32) for ids in lists]
    body = render_tokens(arrays, [cut] * len(lists), model=model, max_tokens=7)
    assert orjson.loads(body) == {
        "object": "list",
        "data": [
            {
                "object": "tokens",
                "index": index,
                "tokens": ids,
                "count": len(ids),
                "truncated": cut,
            }
            for index, ids in enumerate(lists)
        ],
        "model": model,
        "max_tokens": 7,
        "usage": {
            "prompt_tokens": sum(map(len, lists)),
            "total_tokens": sum(map(len, lists)),
        },
    }
