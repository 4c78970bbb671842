"""An embedder and a reranker in one command, and what becomes of requests when replicas die."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest

from embedfleet.conformance.checks import reranking
from embedfleet.engines.loading import EngineOptions, load_engine
from embedfleet.models.description import describe
from embedfleet.models.encoding.encoder import Encoder
from embedfleet.models.encoding.prompts import prompt_for
from embedfleet.vocabulary import Truncation
from tests.processes import replicas_of
from tests.reranker_checkpoints import write_served_reranker
from tests.service import Service, started

pytestmark = pytest.mark.slow

DOCUMENTS = [f"the river number {place} flows to the sea" for place in range(40)]


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_served_reranker(tmp_path_factory.mktemp("models") / "small-reranker")


@pytest.fixture(scope="module")
def service(reranker: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log = tmp_path_factory.mktemp("log") / "service.log"
    words = ["serve", "builtin", str(reranker), "--replicas", "2", "--dtype", "f32"]
    with started("", log=log, command=words) as running:
        yield running


def expected(directory: Path, query: str, documents: list[str]) -> list[float]:
    """What NumPy computes, one pair after the other."""
    model = describe(directory)
    prompt = prompt_for(model.identity, None, None, query)
    encoder = Encoder(model)
    encoded = encoder.encode(documents, prompt=prompt, truncate=Truncation.NONE)
    engine = load_engine(directory, EngineOptions(device="cpu", kernels="numpy"))
    rows = np.concatenate([engine.prepare([each.ids])() for each in encoded])
    return [float(score) ** 2 for score in rows[:, 1]]


def scores(answer: Any) -> list[float]:
    found = {each["index"]: each["relevance_score"] for each in answer["results"]}
    return [found[place] for place in range(len(found))]


def test_one_gateway_embeds_and_reranks(service: Service, reranker: Path) -> None:
    status, vectors = service.post("/v1/embeddings", {"model": "builtin", "input": DOCUMENTS[:2]})
    assert status == 200
    assert len(vectors["data"]) == 2
    status, answer = service.post("/v1/rerank", {"query": "which river?", "documents": DOCUMENTS})
    assert status == 200
    found = scores(answer)
    np.testing.assert_allclose(found, expected(reranker, "which river?", DOCUMENTS), atol=1e-4)
    with urllib.request.urlopen(f"{service.admin}/metrics", timeout=60) as metrics:  # noqa: S310
        assert '"small-reranker"' in metrics.read().decode()


def test_every_pair_has_its_own_score_while_replicas_are_killed(
    service: Service, reranker: Path
) -> None:
    queries = [f"query {number}" for number in range(12)]

    def rerank(query: str) -> tuple[int, Any]:
        return service.post("/v1/rerank", {"query": query, "documents": DOCUMENTS})

    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(rerank, query) for query in queries]
        replica_of(service, reranker.name).kill()
        answers = [each.result() for each in asked]
    assert [status for status, _ in answers] == [200] * len(queries)
    for query, (_, answer) in zip(queries, answers, strict=True):
        np.testing.assert_allclose(scores(answer), expected(reranker, query, DOCUMENTS), atol=1e-4)


def replica_of(service: Service, pool: str) -> psutil.Process:
    """One that listens where the gateway has a replica of the pool."""
    with urllib.request.urlopen(f"{service.admin}/fleet", timeout=60) as answer:  # noqa: S310
        pools = {each["name"]: each["replicas"] for each in json.load(answer)["pools"]}
    ports = {urlsplit(each["url"]).port for each in pools[pool]}
    for child in replicas_of(service.process.pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            if any(each.laddr.port in ports for each in child.net_connections()):
                return child
    raise LookupError(f"no process listens at any of {ports}")


def test_the_service_keeps_the_contract_of_reranking(service: Service) -> None:
    command = [sys.executable, "-m", "embedfleet", "conformance", service.base_url]
    done = subprocess.run(
        [*command, "--model", "small-reranker"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("\n" + done.stdout).count("\npassed  ") == len(reranking.suite.checks)


def test_golden_pairs_guard_a_reranker(reranker: Path, tmp_path: Path) -> None:
    """Scores of other weights are no scores of the pool."""
    golden = tmp_path / "golden.safetensors"
    command = [sys.executable, "-m", "embedfleet", "golden", "make", str(reranker), "-o"]
    done = subprocess.run(
        [*command, str(golden)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    settings = f'[[pools]]\nmodel = "{reranker}"\nreplicas = 1\ngolden = "{golden}"\n'
    with started("", log=tmp_path / "log", command=["serve"], settings=settings) as running:
        status, _ = running.post(
            "/v1/rerank", {"query": "which river?", "documents": DOCUMENTS[:2]}
        )
        assert status == 200
        (replica,) = running.fleet()
        assert replica["state"] == "ready"
