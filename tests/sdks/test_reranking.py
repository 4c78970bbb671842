"""Clients made for Cohere and Voyage rerank here, in an environment of clients (`make sdks`)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.reranker_checkpoints import write_served_reranker
from tests.sdks.test_clients import CLIENTS, PYTHON, ran
from tests.service import Service, started

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="`make sdks` installs the clients"),
]

QUERY = "How do I see how much disk space is used?"
DOCUMENTS = ["Find patterns in files.", "Disk usage.", "Generate keys.", "A video tool.", "Disks."]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    reranker = write_served_reranker(tmp_path_factory.mktemp("models") / "small-reranker")
    log = tmp_path_factory.mktemp("log") / "service.log"
    with started("", log=log, command=["serve", str(reranker), "--replicas", "1"]) as running:
        yield running


@pytest.fixture(scope="module")
def expected(service: Service) -> list[tuple[int, float]]:
    """What the same service answers without a client."""
    body = {"query": QUERY, "documents": DOCUMENTS, "top_n": 3}
    status, answer = service.post("/v1/rerank", body)
    assert status == 200
    return [(each["index"], each["relevance_score"]) for each in answer["results"]]


@pytest.mark.parametrize("client", sorted(path.name for path in CLIENTS.glob("rerank_with_*.py")))
def test_a_client_ranks_as_the_service_does(
    client: str, service: Service, expected: list[tuple[int, float]]
) -> None:
    work = {
        "root": service.root,
        "model": "small-reranker",
        "query": QUERY,
        "documents": DOCUMENTS,
    }
    told = ran(CLIENTS / client, work)
    assert told["rankings"]
    for ranking in told["rankings"]:
        assert [each["index"] for each in ranking] == [place for place, _ in expected]
        scores = [each["score"] for each in ranking]
        assert scores == pytest.approx([score for _, score in expected], abs=1e-6)
    for refusal in told["refused"]:
        assert refusal["status"] == 404
        assert "no-such-model" in refusal["told"]
