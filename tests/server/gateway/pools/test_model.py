"""What a gateway knows of its pool's model, and what no replica can talk it into."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from embedfleet.models.description import ModelDescription, describe
from embedfleet.models.encoding.encoder import Encoder
from embedfleet.models.golden.vectors import GoldenVectors, write
from embedfleet.runtime.settings import Pool
from embedfleet.server.gateway.pools.model import ModelContact
from embedfleet.server.gateway.pools.scratch import Scratch
from embedfleet.transport.description import ReplicaDescription
from embedfleet.transport.frames import CallText, Frame, Take, vector_bytes
from embedfleet.vocabulary import Encoding, Precision, ReplicaError, Vectors
from tests.fakes.revealing_engine import WIDTH, vector_of
from tests.fleet.test_health import DESCRIPTION
from tests.small_tokenizer import write_model

Answer = Callable[[list[Encoding]], Vectors]


def right(encodings: list[Encoding]) -> Vectors:
    return np.stack([vector_of(each) for each in encodings])


def swapped(encodings: list[Encoding]) -> Vectors:
    found = right(encodings).byteswap()
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(found.astype(np.float64), axis=1, keepdims=True)
        unit: Vectors = (found / lengths).astype(np.float32)
        return unit


def scaled_noise(encodings: list[Encoding]) -> Vectors:
    found = right(encodings) + np.float32(1e-3) * np.random.default_rng(1).standard_normal(WIDTH)
    unit: Vectors = (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)
    return unit


OTHERS: dict[str, Answer] = {
    "one vector for all": lambda found: right(found[:1]).repeat(len(found), axis=0),
    "the vectors of others in the request": lambda found: np.roll(right(found), 1, axis=0),
    "two of them exchanged": lambda found: right([found[1], found[0], *found[2:]]),
    "another model": lambda found: right([each + 1 for each in found]),
    "another byte order": swapped,
    "a sign": lambda found: -right(found),
    "no numbers": lambda found: np.full((len(found), WIDTH), np.nan, np.float32),
}
"""Vectors that are not those of the texts."""


class Replicas:
    """Replicas by their address: right, or wrong in every vector."""

    def __init__(self, *wrong: str) -> None:
        self.wrong = wrong
        self.answers: dict[str, Answer] = {}

    async def describe(self, url: str) -> ReplicaDescription:
        raise ReplicaError(url)

    async def fetch_files(self, url: str, directory: Path) -> None:
        raise ReplicaError(url)

    def forget(self, url: str) -> None: ...

    async def cancel(self, url: str, key: str, ids: Sequence[int]) -> None:
        raise ReplicaError(url)

    async def work(self, url: str, key: str, texts: Sequence[CallText], take: Take) -> None:
        sign = -1 if url in self.wrong else 1
        rows = sign * self.answers.get(url, right)([text.encoding for text in texts])
        take(Frame([text.id for text in texts], vector_bytes(rows), [], 0, 0, 1))


@pytest.fixture
def small(tmp_path: Path) -> ModelDescription:
    return describe(write_model(tmp_path / "small", hidden_size=WIDTH))


async def ignored(_model: ModelDescription, _encoder: Encoder) -> None:
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


def unproven(small: ModelDescription, replicas: Replicas) -> ModelContact:
    """A pool's contact without golden vectors."""
    return ModelContact(
        Pool(),
        replicas,
        Scratch(small.directory),
        known=small,
        introduced=ignored,
        refused=lambda: None,
        drifted=lambda _: None,
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


@pytest.mark.parametrize("golden", [True, False])
@pytest.mark.parametrize("other", OTHERS)
async def test_a_glance_finds_what_a_golden_check_finds(
    other: str, small: ModelDescription, *, golden: bool
) -> None:
    """By two texts, and without a word to those who measure golden checks."""
    seen: list[float] = []
    replicas = Replicas()
    pool = contact(small, replicas, seen) if golden else unproven(small, replicas)
    with pytest.raises(ReplicaError, match="not known yet"):
        await pool.glance("a")
    await pool.expected("a", described(Precision.F32))
    assert await pool.verify("a") == ""
    checks = len(seen)
    assert await pool.glance("a") == ""
    replicas.answers["a"] = OTHERS[other]
    numbers = other not in {"no numbers", "another byte order"}
    with contextlib.nullcontext() if numbers else contextlib.suppress(ReplicaError):
        assert await pool.glance("a")
    del replicas.answers["a"]
    assert await pool.glance("a") == ""
    assert len(seen) == checks


@pytest.mark.parametrize("other", OTHERS)
async def test_without_golden_vectors_a_replica_must_give_what_it_gave_when_it_joined(
    other: str, small: ModelDescription
) -> None:
    """Until it does again; who joins anew at its address is met anew."""
    replicas = Replicas()
    pool = unproven(small, replicas)
    for url in ("a", "b"):
        await pool.expected(url, described(Precision.BF16))
        assert await pool.verify(url) == ""
    replicas.answers["a"] = scaled_noise
    assert await pool.verify("a") == "", "of bf16"
    replicas.answers["a"] = OTHERS[other]
    assert await pool.verify("a")
    assert await pool.verify("b") == ""
    del replicas.answers["a"]
    assert await pool.verify("a") == ""
    if other == "another model":
        replicas.answers["a"] = OTHERS[other]
        assert "restart the gateway" in await pool.verify("a")
        pool.forget("a")
        assert await pool.verify("a") == ""


@pytest.mark.parametrize("others", [0, 1, 2, 3])
async def test_without_golden_vectors_a_replica_that_was_wrong_when_it_joined_may_turn_right(
    others: int, small: ModelDescription
) -> None:
    """Where other replicas show what is right: else nobody knows which of two models is meant. The
    first of two is not believed more than the second, and no replica turns wrong so.
    """
    replicas = Replicas()
    pool = unproven(small, replicas)
    replicas.answers["sick"] = OTHERS["another model"]
    urls = [f"well-{number}" for number in range(others)]
    for url in ("sick", *urls):
        await pool.expected(url, described(Precision.F32))
        assert await pool.verify(url) == ""
    del replicas.answers["sick"]
    assert bool(await pool.verify("sick")) == (others == 0)
    if others > 1:
        replicas.answers["sick"] = OTHERS["another model"]
        assert await pool.verify("sick"), "what it gave at first counts no more"


@pytest.mark.parametrize("other", ["one vector for all", "no numbers"])
async def test_without_golden_vectors_what_no_model_gives_does_not_join(
    other: str, small: ModelDescription
) -> None:
    """And counts for nothing once it is well."""
    replicas = Replicas()
    replicas.answers["a"] = OTHERS[other]
    pool = unproven(small, replicas)
    await pool.expected("a", described(Precision.F32))
    assert await pool.verify("a")
    del replicas.answers["a"]
    assert await pool.verify("a") == ""
