"""What every engine behind a replica's address must do for a pool, whatever it is."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedfleet.api.endpoint import Endpoint
from embedfleet.api.formats.openai import RequestLimits
from embedfleet.fleet.replica_client import embed
from embedfleet.models.description import ModelDescription
from embedfleet.models.encoding.encoder import Encoder
from embedfleet.models.files import Snapshot
from embedfleet.server.replica.service import Replica
from embedfleet.transport.serving import Listener, bind, serving
from embedfleet.vocabulary import (
    Encoding,
    ModelIdentity,
    Pooling,
    Precision,
    ReplicaError,
    ReplicaLostError,
    ReplicaUnreachableError,
    Truncation,
    UnfitReplicaError,
)
from tests.fakes.revealing_engine import UNLUCKY, WIDTH, RevealingEngine, vector_of
from tests.fakes.taking import frames_of
from tests.loops import settle
from tests.server.gateway.replicas.third_party.attaching import WINDOW, attached, call, compute
from tests.small_tokenizer import id_of
from tests.stand_ins.openai import VLLM, Gateway, LlamaCpp, OpenAICompatible
from tests.stand_ins.server import MAX_TOKENS, StandIn, model
from tests.stand_ins.sglang import SGLang
from tests.stand_ins.tei import TEI


@dataclass(frozen=True)
class Kind:
    """One engine under test."""

    name: str
    make: Callable[..., StandIn]
    shown: str
    """How the fleet's table calls it."""
    precision: Precision | None
    """What it says its numbers are; None when it says nothing."""
    least_cosine: float = 0.999999


KINDS = [
    Kind("sglang", SGLang, "sglang 0.5.15", Precision.BF16, 0.9999),
    Kind("vllm", VLLM, "vllm 0.11.2", None),
    Kind("tei", TEI, "tei 1.8.3", Precision.BF16),
    Kind("llama.cpp", LlamaCpp, "llama.cpp b9999-abc", Precision.BF16),
    Kind("gateway", Gateway, "embedfleet gateway", None),
    Kind("texts and floats only", OpenAICompatible, "OpenAI-compatible", None),
    Kind(
        "ids and base64",
        lambda **fields: OpenAICompatible(takes_ids=True, knows_base64=True, **fields),
        "OpenAI-compatible",
        None,
    ),
]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
with_key = pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind.name != "ids and base64"], ids=lambda kind: kind.name
)


@pytest.fixture
def small(tmp_path: Path) -> ModelDescription:
    return model(tmp_path)


def stand_in(kind: Kind, small: ModelDescription, **fields: Any) -> StandIn:
    return kind.make(directory=small.directory.parent, **fields)


def texts(small: ModelDescription, count: int) -> list[Encoding]:
    """Encodings of different texts, none with an unlucky token."""
    encoder = Encoder(small)
    sentences = [
        f"The {'sea and the ' * (n % 7)}river {n} flows; 天空 {n}!" for n in range(count * 2)
    ]
    encoded = [one.ids for one in encoder.encode(sentences, prompt="", truncate=Truncation.NONE)]
    return [ids for ids in encoded if UNLUCKY not in ids][:count]


def unlucky(small: ModelDescription) -> Encoding:
    """A text whose vector is not finite."""
    word = "2"  # the unlucky token of the small tokenizer, checked below
    (ids,) = (one.ids for one in Encoder(small).encode([word], prompt="", truncate=Truncation.NONE))
    assert UNLUCKY in ids
    return ids


def assert_right(vectors: np.ndarray, encodings: list[Encoding], least: float) -> None:
    right = np.stack([vector_of(ids) for ids in encodings])
    assert vectors.dtype == np.float32
    assert np.einsum("ij,ij->i", vectors, right).min() > least
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


@each_kind
async def test_it_is_recognised_and_described_as_the_pools_model(
    kind: Kind, small: ModelDescription
) -> None:
    """Width measured, limits and names as the pool promises them, a window to begin with."""
    async with stand_in(kind, small).running() as url, attached(small) as client:
        description = await client.describe(url)

    assert description.device == kind.shown
    assert description.width == WIDTH
    assert description.max_tokens == MAX_TOKENS
    assert description.tokenizer == small.identity.tokenizer
    assert description.precision is (kind.precision or Precision.BF16)
    assert description.window == WINDOW
    assert not description.draining


@each_kind
async def test_vectors_are_those_of_the_texts_in_float32_and_of_unit_length(
    kind: Kind, small: ModelDescription
) -> None:
    """More texts than any engine takes at once, and answers in another order."""
    engine = stand_in(kind, small, nonsense="reversed")
    asked = texts(small, 90)
    async with engine.running() as url, attached(small) as client:
        await client.describe(url)
        vectors, failures, _ = await compute(client, url, asked, WIDTH)

    assert not failures
    assert_right(vectors, asked, kind.least_cosine)


@each_kind
async def test_a_text_as_long_as_the_model_allows_is_computed_whole(
    kind: Kind, small: ModelDescription
) -> None:
    """Nothing is cut off on the way."""
    longest = Encoder(small).encode(["river sea " * 600], prompt="", truncate=Truncation.END)[0].ids
    assert len(longest) == MAX_TOKENS
    async with stand_in(kind, small).running() as url, attached(small) as client:
        description = await client.describe(url)
        vectors = await embed(client, url, [longest], description.width)

    assert_right(vectors, [longest], kind.least_cosine)


class Counting(ThreadPoolExecutor):
    """An event loop's threads, and how much ran in them."""

    def __init__(self) -> None:
        super().__init__(2)
        self.ran = 0

    def submit(self, call: Any, /, *args: Any, **named: Any) -> Any:
        self.ran += 1
        return super().submit(call, *args, **named)


@pytest.mark.parametrize("texts", [1, 300])
async def test_a_large_answer_is_read_beside_the_event_loop(
    small: ModelDescription, tmp_path: Path, texts: int
) -> None:
    """Else it would hold up every caller of the gateway, for a second and more."""
    threads = Counting()
    asyncio.get_running_loop().set_default_executor(threads)
    async with SGLang(tmp_path).running() as url, attached(small) as client:
        await client.describe(url)
        before, ids = threads.ran, np.array([1, 2, 3], np.int32)
        vectors, _, _ = await compute(client, url, [ids] * texts, WIDTH)
    np.testing.assert_allclose(vectors, [vector_of([1, 2, 3])] * texts, atol=1e-2)
    assert (threads.ran > before) == (texts > 1)


@each_kind
async def test_dimensions_are_never_requested(kind: Kind, small: ModelDescription) -> None:
    """Engines differ in what they make of it; shorter vectors are derived from whole ones."""
    engine = stand_in(kind, small)
    async with engine.running() as url, attached(small) as client:
        await client.describe(url)
        await compute(client, url, texts(small, 3), WIDTH)

    assert engine.bodies
    assert {field for body in engine.bodies for field in body} == {
        "model",
        "input",
        "encoding_format",
    }


@each_kind
async def test_a_text_without_a_vector_takes_no_other_text_down(
    kind: Kind, small: ModelDescription
) -> None:
    """Where the engine refuses the whole request for it, it is found."""
    asked = texts(small, 9)
    async with stand_in(kind, small).running() as url, attached(small) as client:
        await client.describe(url)
        mixed = [*asked[:4], unlucky(small), *asked[4:]]
        vectors, failures, _ = await compute(client, url, mixed, WIDTH)

    assert failures == {4: "invalid_vector"}
    assert_right(np.delete(vectors, 4, axis=0), asked, kind.least_cosine)


@each_kind
async def test_an_engine_with_too_much_to_do_is_asked_again_and_gets_less(
    kind: Kind, small: ModelDescription
) -> None:
    """Its window halves with every refusal and grows back slowly."""
    engine = stand_in(kind, small)
    asked = texts(small, 3)
    async with engine.running() as url, attached(small) as client:
        # Without this the least window is one of its batches, which is more than the window here.
        client._third_party._window_tokens = 10**6  # type: ignore[union-attr]
        await client.describe(url)
        engine.busy = 2
        vectors, _, frames = await compute(client, url, asked, WIDTH)

    assert_right(vectors, asked, kind.least_cosine)
    assert 10**6 / 4 <= frames[-1].window < 10**6 / 3


@each_kind
async def test_a_call_without_waiters_is_cancelled_at_the_engine(
    kind: Kind, small: ModelDescription
) -> None:
    """The request is closed, which is how engines are told."""
    engine = stand_in(kind, small)
    async with engine.running() as url, attached(small) as client:
        await client.describe(url)
        engine.go_on.clear()
        asked = texts(small, 5)
        met = len(engine.bodies)

        working = asyncio.create_task(frames_of(client, url, "k", call(asked)))
        while len(engine.bodies) == met:
            await asyncio.sleep(0.01)
        await client.cancel(url, "k", [0, 1])
        await client.cancel(url, "unknown", [2])
        assert not engine.closed
        await client.cancel(url, "k", [2, 3, 4])
        assert await working == []
        while not engine.closed:
            await asyncio.sleep(0.01)


@each_kind
async def test_texts_after_a_failed_probe_are_not_counted_as_attempts(
    kind: Kind, small: ModelDescription
) -> None:
    """Nothing is sent, least of all on our own replicas' wire, before it is looked at anew."""
    engine = stand_in(kind, small)
    asked = texts(small, 3)
    async with engine.running() as url, attached(small) as client:
        await client.describe(url)
        engine.nonsense = "html"
        with pytest.raises(ReplicaError):
            await client.describe(url)
        engine.nonsense = ""
        with pytest.raises(ReplicaUnreachableError):
            await compute(client, url, asked, WIDTH)

        await client.describe(url)
        vectors, failures, _ = await compute(client, url, asked, WIDTH)

    assert not failures
    assert_right(vectors, asked, kind.least_cosine)


@each_kind
async def test_an_engine_that_dies_at_work_is_lost(kind: Kind, small: ModelDescription) -> None:
    """Its texts are unanswered, and the next look finds nobody."""
    engine = stand_in(kind, small)
    async with engine.running() as url, attached(small) as client:
        await client.describe(url)
        engine.go_on.clear()
        working = asyncio.create_task(compute(client, url, texts(small, 2), WIDTH))
        await settle(0.05)
        await engine.die()
        with pytest.raises(ReplicaLostError):
            await working
        with pytest.raises(ReplicaLostError):
            await client.describe(url)


@with_key
async def test_an_engine_that_requires_a_key_is_recognised_and_gets_it(
    kind: Kind, small: ModelDescription, caplog: pytest.LogCaptureFixture
) -> None:
    """Without it, with a wrong one, with the right one; it is in no message."""
    engine = stand_in(kind, small, key="right-key")
    async with engine.running() as url:
        async with attached(small) as client:
            with pytest.raises(UnfitReplicaError, match=r"requires an API key .*replica_key_file"):
                await client.describe(url)
        async with attached(small, key="wrong-key") as client:
            with pytest.raises(UnfitReplicaError, match="rejects the key") as refused:
                await client.describe(url)
            assert "wrong-key" not in f"{refused.value} {client._http!r} {caplog.text}"
        async with attached(small, key="right-key") as client:
            await client.describe(url)
            assert_right(await embed(client, url, texts(small, 2), WIDTH), texts(small, 2), 0.999)


@each_kind
@pytest.mark.parametrize("nonsense", ["html", "zeros", "nan", "narrow", "missing"])
async def test_an_engine_that_answers_nonsense_is_unfit(
    kind: Kind, small: ModelDescription, nonsense: str
) -> None:
    """With what is wrong, before it gets any traffic."""
    engine = stand_in(kind, small, nonsense=nonsense)
    async with engine.running() as url, attached(small) as client:
        with pytest.raises(UnfitReplicaError) as refused:
            await client.describe(url)

    complaints = {
        "html": "no supported engine answers",
        "zeros": "zero length",
        "nan": "not finite",
        "narrow": "8 dimensions",
        "missing": "0 vectors for 1 texts",
    }
    assert complaints[nonsense] in refused.value.message


@each_kind
@pytest.mark.parametrize("nonsense", ["zeros", "nan", "narrow", "missing", "repeated", "html"])
async def test_an_engine_that_begins_to_answer_nonsense_fails_its_texts(
    kind: Kind, small: ModelDescription, nonsense: str
) -> None:
    """As the replica's fault: they go to another one."""
    engine = stand_in(kind, small)
    async with engine.running() as url, attached(small) as client:
        await client.describe(url)
        engine.nonsense = nonsense
        with pytest.raises(ReplicaError):
            await compute(client, url, texts(small, 3), WIDTH)


@each_kind
async def test_a_model_that_changes_unannounced_ends_the_traffic(
    kind: Kind, small: ModelDescription
) -> None:
    """Also when the engine was away in between; and it comes back with the old model."""
    engine = stand_in(kind, small)
    async with engine.running() as url, attached(small) as client:
        await client.describe(url)
        engine.name = "another"
        for _ in range(2):
            with pytest.raises(UnfitReplicaError, match=r"model changed from .*small.*another"):
                await client.describe(url)
        engine.name = "small"
        await client.describe(url)


@each_kind
async def test_an_engine_without_metrics_serves_with_a_note_or_not_at_all(
    kind: Kind, small: ModelDescription
) -> None:
    """As `replica_metrics_required` says."""
    engine = stand_in(kind, small, metrics=False)
    async with engine.running() as url:
        async with attached(small) as client:
            assert "it has no metrics" in (await client.describe(url)).device
        async with attached(small, metrics_required=True) as client:
            with pytest.raises(UnfitReplicaError, match="it has no metrics"):
                await client.describe(url)


async def test_without_the_model_an_engine_is_unfit(small: ModelDescription) -> None:
    """Only embedfleet's own replicas bring their tokenizer along."""
    async with stand_in(KINDS[0], small).running() as url, attached(None) as client:
        with pytest.raises(UnfitReplicaError, match="--model DIR"):
            await client.describe(url)


# -- what is special about one of them --------------------------------------------------


async def test_a_token_id_outside_its_vocabulary_kills_sglang(small: ModelDescription) -> None:
    """Which is why ids are checked before they get here."""
    engine = SGLang(directory=small.directory.parent, vocabulary=small.identity.vocabulary)
    async with engine.running() as url, attached(small) as client:
        await client.describe(url)
        with pytest.raises(ReplicaLostError):
            await embed(client, url, [np.array([10**6], np.int32)], WIDTH)
        with pytest.raises(ReplicaLostError):
            await client.describe(url)


async def test_sglang_that_generates_is_unfit(small: ModelDescription) -> None:
    """It was started without the flag that makes it embed."""
    engine = SGLang(directory=small.directory.parent, embedding=False)
    async with engine.running() as url, attached(small) as client:
        with pytest.raises(UnfitReplicaError, match="--is-embedding"):
            await client.describe(url)


async def test_weights_replaced_in_a_running_sglang_are_noticed(small: ModelDescription) -> None:
    """Its path stays the same then."""
    engine = SGLang(directory=small.directory.parent)
    async with engine.running() as url, attached(small) as client:
        await client.describe(url)
        engine.weights = "v2"
        with pytest.raises(UnfitReplicaError, match=r"weights default.*weights v2"):
            await client.describe(url)


@pytest.mark.parametrize("make", [SGLang, VLLM, TEI, LlamaCpp])
async def test_an_engine_with_a_shorter_context_than_the_pools_is_unfit(
    make: Callable[..., StandIn], small: ModelDescription
) -> None:
    """TEI would cut such texts off without a word."""
    engine = make(directory=small.directory.parent, context=256)
    async with engine.running() as url, attached(small) as client:
        with pytest.raises(
            UnfitReplicaError, match=r"at most 256 tokens.*engine.max_tokens to 256"
        ):
            await client.describe(url)


@pytest.mark.parametrize(
    ("pooling", "word", "flag"),
    [
        (Pooling.LAST, "last_token", "last-token"),
        (Pooling.FIRST, "cls", "cls"),
        (Pooling.MEAN, "mean", "mean"),
    ],
)
async def test_tei_must_pool_as_the_model_does(
    small: ModelDescription, pooling: Pooling, word: str, flag: str
) -> None:
    """Vectors of another kind would be refused later, without a word of how to mend it."""
    model = dataclasses.replace(small, pooling=pooling)
    right = TEI(directory=small.directory.parent, pooling=word)
    async with right.running() as url, attached(model) as client:
        await client.describe(url)
    wrong = TEI(directory=small.directory.parent, pooling="splade")
    async with wrong.running() as url, attached(model) as client:
        with pytest.raises(UnfitReplicaError, match=f"pools by splade: .* --pooling {flag}$"):
            await client.describe(url)


async def test_of_a_pooling_that_is_not_computed_here_nothing_is_said(
    small: ModelDescription,
) -> None:
    """Its golden vectors decide."""
    model = dataclasses.replace(small, pooling="other")
    engine = TEI(directory=small.directory.parent, pooling="splade")
    async with engine.running() as url, attached(model) as client:
        await client.describe(url)


async def test_ids_that_are_no_text_are_the_callers_fault_at_an_engine_of_texts(
    small: ModelDescription,
) -> None:
    """Half of a character, say; the others of the call are computed."""
    asked = texts(small, 2)
    halves = np.array([id_of("å"), small.end_of_text], np.int32)  # the first byte of three
    async with stand_in(KINDS[2], small).running() as url, attached(small) as client:
        await client.describe(url)
        vectors, failures, _ = await compute(client, url, [asked[0], halves, asked[1]], WIDTH)

    assert failures == {1: "ids_not_text"}
    assert_right(vectors[[0, 2]], asked, 0.999999)


async def test_llama_cpp_started_for_short_texts_becomes_unfit(small: ModelDescription) -> None:
    """Its limit is in no page; the first long text meets it."""
    engine = LlamaCpp(directory=small.directory.parent, microbatch=64)
    longest = Encoder(small).encode(["river sea " * 600], prompt="", truncate=Truncation.END)[0].ids
    async with engine.running() as url, attached(small) as client:
        await client.describe(url)
        with pytest.raises(UnfitReplicaError, match="physical batch size"):
            await embed(client, url, [longest], WIDTH)
        with pytest.raises(UnfitReplicaError, match="started for shorter texts"):
            await client.describe(url)


@pytest.mark.parametrize(
    ("ftype", "precision"),
    [("all F32", Precision.F32), ("F16", Precision.BF16), ("Q8_0", Precision.INT8)],
)
async def test_the_class_of_a_gguf_is_that_of_its_quantisation(
    small: ModelDescription, ftype: str, precision: Precision
) -> None:
    """So a quantised file never joins a pool that promises more."""
    engine = LlamaCpp(directory=small.directory.parent, ftype=ftype)
    async with engine.running() as url, attached(small) as client:
        assert (await client.describe(url)).precision is precision


async def test_llama_cpp_that_still_loads_is_waited_for(small: ModelDescription) -> None:
    """It is starting, not unfit."""
    engine = LlamaCpp(directory=small.directory.parent, loading=True)
    async with engine.running() as url, attached(small) as client:
        with pytest.raises(ReplicaError, match="Loading model") as refused:
            await client.describe(url)
        assert not isinstance(refused.value, UnfitReplicaError)
        engine.loading = False
        await client.describe(url)


@pytest.mark.parametrize("make", [VLLM, Gateway])
async def test_the_name_that_requests_give_is_the_engines_own(
    make: Callable[..., StandIn], small: ModelDescription
) -> None:
    """They refuse any other."""
    engine = make(directory=small.directory.parent, name="served/under-this-name")
    async with engine.running() as url, attached(small) as client:
        assert (await client.describe(url)).served_names == ["served/under-this-name"]
        assert_right(await embed(client, url, texts(small, 2), WIDTH), texts(small, 2), 0.999)


# -- embedfleet's own replica ---------------------------------------------------------------


@contextlib.asynccontextmanager
async def own_replica(small: ModelDescription) -> AsyncIterator[str]:
    identity = small.identity
    replica = Replica(
        RevealingEngine(),
        ModelIdentity("small", "0" * 32, identity.tokenizer, WIDTH, MAX_TOKENS, 1000),
        served_names=("small",),
        files=Snapshot.of(small.directory),
        max_body_bytes=2**20,
        max_queued_tokens=10**6,
    )
    endpoint = Endpoint(
        dict,
        limits=RequestLimits(),
        max_body_bytes=2**20,
        max_held_bytes=2**20,
        timeout_s=10,
        tokenizer_threads=1,
        answered=lambda _: None,
    )
    running = asyncio.create_task(replica.batcher.run())
    listener = Listener(replica.app(endpoint), bind("127.0.0.1", 0))
    async with serving([listener], stop_timeout_s=1):
        yield f"http://{listener.address}"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    endpoint.close()


async def test_our_own_replica_is_recognised_and_spoken_to_on_its_own_wire(
    small: ModelDescription,
) -> None:
    """The same four methods, frames as batches finish, and no model needed here."""
    asked = texts(small, 20)
    async with own_replica(small) as url, attached(None) as client:
        description = await client.describe(url)
        vectors, failures, frames = await compute(client, url, asked, WIDTH)

    assert description.device == "fake"
    assert not failures
    assert len(frames) > 1
    assert_right(vectors, asked, 0.999999)


async def test_another_engine_at_the_same_address_is_detected(small: ModelDescription) -> None:
    """An engine of another kind may be started where one died."""
    first, second = VLLM(directory=small.directory.parent), TEI(directory=small.directory.parent)
    async with attached(small) as client:
        async with first.running() as url:
            assert (await client.describe(url)).device.startswith("vllm")
        with pytest.raises(ReplicaLostError):
            await client.describe(url)
        port = int(url.rpartition(":")[2])
        async with second.running(port):
            # The same model under the same name: only the pages that say so are others.
            with pytest.raises(UnfitReplicaError, match="model changed from"):
                await client.describe(url)
