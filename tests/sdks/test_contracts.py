"""Clients made for other services get the same vectors here, through their own words.

Each runs as a process in the environment of clients (`make sdks`), against `embedfleet serve`. The
scripts are what docs/clients.md shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from numpy.typing import NDArray

from tests.sdks.test_clients import TLDR, ran
from tests.service import Service

pytestmark = pytest.mark.slow

SCRIPTS = sorted((Path(__file__).parent / "contracts").glob("with_*.py"))
TEXTS = list(TLDR.values())

Vectors = NDArray[np.float32]


@pytest.fixture(scope="module", params=SCRIPTS, ids=lambda path: path.stem)
def found(request: pytest.FixtureRequest, service: Service) -> dict[str, Any]:
    """What a client did."""
    script: Path = request.param
    with openai.OpenAI(base_url=service.base_url, api_key="none") as client:
        model = client.models.list().data[0].id
    task = {"root": service.root, "model": model, "key": "none", "texts": TEXTS}
    return ran(script, task)


def embedded(service: Service, texts: list[str], **fields: Any) -> Vectors:
    """The same by OpenAI's client."""
    with openai.OpenAI(base_url=service.base_url, api_key="none") as client:
        model = client.models.list().data[0].id
        extra = {"extra_body": {"input_type": "query"}} if fields.pop("query", False) else {}
        answer = client.embeddings.create(model=model, input=texts, **fields, **extra)  # type: ignore[arg-type]
    return np.array([each.embedding for each in answer.data], np.float32)


def near(found: Any, expected: Vectors) -> bool:
    """Batches differ from run to run, and with them the last digits of a vector."""
    vectors = np.array(found, np.float32)
    assert vectors.shape == expected.shape
    lengths = np.linalg.norm(vectors, axis=1)
    return bool(((vectors * expected).sum(axis=1) / lengths).min() > 0.998)


def test_a_client_gets_the_vectors_that_every_client_gets(
    found: dict[str, Any], service: Service
) -> None:
    assert near(found["vectors"], embedded(service, TEXTS))


def test_a_client_s_query_has_the_prompt_of_queries(
    found: dict[str, Any], service: Service
) -> None:
    if "query" in found:
        assert near([found["query"]], embedded(service, TEXTS[:1], query=True))
    if "one" in found:
        assert near([found["one"]], embedded(service, TEXTS[:1]))


def test_a_client_gets_short_vectors_and_integers(found: dict[str, Any], service: Service) -> None:
    expected = embedded(service, TEXTS, dimensions=64)
    for form in ("short", "int8"):
        if form in found:
            assert near(found[form], expected)
    if "int8" in found:
        assert np.array(found["int8"]).dtype.kind == "i"
    assert found.get("bits", 8) == 8


def test_an_error_says_what_is_wrong(found: dict[str, Any]) -> None:
    told = found["error"]
    assert "no-such-model" in told or "400" in told or "`inputs[1]` is empty" in told
    if "refused" in found:  # by a client whose classes of errors depend on the form of the body
        assert found["refused"].startswith("InvalidRequestError: `input[0]` is empty")
