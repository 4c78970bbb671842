"""What a gateway knows of its pool's model, and what no replica can talk it into."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from embedfleet.models.description import ModelDescription, describe
from embedfleet.models.golden.vectors import GoldenVectors, write
from embedfleet.runtime.settings import Pool
from embedfleet.server.gateway.pools.model import ModelContact
from embedfleet.server.gateway.pools.scratch import Scratch
from embedfleet.transport.description import ReplicaDescription
from embedfleet.transport.frames import CallText, Frame, Take, vector_bytes
from embedfleet.vocabulary import Precision, ReplicaError
from tests.fakes.revealing_engine import WIDTH, vector_of
from tests.fleet.test_health import DESCRIPTION
from tests.small_tokenizer import write_model


class Replicas:
    """Replicas by their address: right, or wrong in every vector."""

    def __init__(self, *wrong: str) -> None:
        self.wrong = wrong

    async def describe(self, url: str) -> ReplicaDescription:
        raise ReplicaError(url)

    async def fetch_files(self, url: str, directory: Path) -> None:
        raise ReplicaError(url)

    async def cancel(self, url: str, key: str, ids: Sequence[int]) -> None:
        raise ReplicaError(url)

    async def work(self, url: str, key: str, texts: Sequence[CallText], take: Take) -> None:
        sign = -1 if url in self.wrong else 1
        rows = np.stack([sign * vector_of(text.encoding) for text in texts])
        take(Frame([text.id for text in texts], vector_bytes(rows), [], 0, 0, 1))


@pytest.fixture
def small(tmp_path: Path) -> ModelDescription:
    return describe(write_model(tmp_path / "small", hidden_size=WIDTH))


async def ignored(_model: ModelDescription) -> None:
    """Nobody serves it."""


def contact(small: ModelDescription, replicas: Replicas, seen: list[float]) -> ModelContact:
    """A pool's contact with golden vectors; drifts are noted in `seen`."""
    encodings = (np.array([1, 2], np.int32), np.array([3], np.int32))
    vectors = np.stack([vector_of(ids) for ids in encodings])
    path = small.directory / "golden"
    write(path, GoldenVectors("r", ("a", "b"), encodings, vectors))
    return ModelContact(
        Pool(golden=path),
        replicas,
        Scratch(small.directory),
        known=small,
        introduced=ignored,
        refused=lambda: None,
        drifted=seen.append,
    )


def described(precision: Precision) -> ReplicaDescription:
    return msgspec.structs.replace(DESCRIPTION, precision=precision, width=WIDTH, revision="r")


async def test_the_class_of_a_pool_is_that_of_the_first_replica_with_right_vectors(
    small: ModelDescription,
) -> None:
    """One that claims a finer class and lies would shut the honest ones out."""
    seen: list[float] = []
    pool = contact(small, Replicas("liar"), seen)
    assert (await pool.expected("liar", described(Precision.F32))).precision is Precision.F32
    assert "unrelated" in await pool.verify("liar")

    assert (await pool.expected("honest", described(Precision.INT8))).precision is Precision.INT8
    assert await pool.verify("honest") == ""

    assert (await pool.expected("liar", described(Precision.F32))).precision is Precision.INT8
    np.testing.assert_allclose(seen, [2, 0], atol=1e-6)


async def test_nothing_is_verified_before_the_model_is_known(small: ModelDescription) -> None:
    with pytest.raises(ReplicaError, match="not known yet"):
        await contact(small, Replicas(), []).verify("a")
