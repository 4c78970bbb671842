"""Texts that were computed before are not computed again, and nobody gets another one's vector."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedfleet.api.served_model import ModelVersion
from embedfleet.cache.memory import MemoryTier
from embedfleet.cache.tiers import VectorCache
from embedfleet.models.description import Template, describe
from embedfleet.models.encoding.encoder import Encoder
from embedfleet.scheduling.texts import Caller
from embedfleet.transport.access.access import UnlimitedQuota
from embedfleet.transport.asgi import ClientGoneError
from embedfleet.vocabulary import (
    Encoding,
    OverloadedError,
    Pooling,
    Precision,
    RateLimitedError,
    ReplicaError,
    Truncation,
)
from tests.fakes.asking import MODEL, Asker, RevealingBackend, failing, heard, request

ROOM = 2**20
SOON = {"x-request-deadline-ms": "500"}
"""Later than a busy machine begins to compute."""


@pytest.fixture
def asker(tmp_path: Path) -> Asker:
    return Asker(tmp_path / "model", VectorCache(MemoryTier(ROOM)))


class Held(RevealingBackend):
    """Computes when it is told to."""

    def __init__(self) -> None:
        super().__init__(self._wait)
        self.go_on = asyncio.Event()
        self.begun = 0

    async def _wait(self, _encodings: Sequence[Encoding]) -> None:
        self.begun += 1
        await self.go_on.wait()


async def begun(backend: Held, works: int) -> None:
    async with asyncio.timeout(60):
        while backend.begun < works:
            await asyncio.sleep(0)


async def share(asker: Asker, requests: int) -> None:
    """Return once so many have come and wait for a text that is being computed."""
    async with asyncio.timeout(60):
        while asker.endpoint.active < requests:
            await asyncio.sleep(0)
    await settled()


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


class TestHits:
    async def test_a_hit_is_the_same_as_its_miss(self, asker: Asker) -> None:
        miss = await asker.ask(["one", "two"])
        hit = await asker.ask(["one", "two"])
        assert hit.body == miss.body
        assert (miss.cache, hit.cache) == ("hit=0; miss=2", "hit=2; miss=0")
        assert len(asker.backend.computed) == 2

    @pytest.mark.parametrize("dimensions", [None, 32, 33, 64])
    @pytest.mark.parametrize("encoding_format", ["float", "base64"])
    async def test_every_length_and_form_comes_from_the_one_vector(
        self, asker: Asker, tmp_path: Path, dimensions: int | None, encoding_format: str
    ) -> None:
        """Bit for bit what an endpoint without a cache answers."""
        await asker.ask(["one", "two"])
        asked: dict[str, Any] = {"dimensions": dimensions, "encoding_format": encoding_format}
        hit = await asker.ask(["two", "one"], **asked)
        without = await Asker(tmp_path / "other", None).ask(["two", "one"], **asked)
        assert hit.body == without.body
        assert hit.cache == "hit=2; miss=0"
        assert b"x-embedfleet-cache" not in without.headers

    @pytest.mark.parametrize(
        ("before", "after"), [((), ()), ((), (9,)), ((7,), (8,)), ((7, 8), ())]
    )
    async def test_a_model_with_other_tokens_around_its_texts_is_another(
        self, asker: Asker, tmp_path: Path, before: tuple[int, ...], after: tuple[int, ...]
    ) -> None:
        """Weights and tokenizer are the same: what is beside them differs, or the version here."""
        await asker.ask("one")
        described = describe(tmp_path / "model", name=MODEL)
        asker.encoder = Encoder(replace(described, template=Template(before, after)))
        asker.model = replace(asker.model, encoder=asker.encoder)
        answer = await asker.ask("one")
        assert answer.cache == "hit=0; miss=1"
        assert answer.vectors == [asker.right("one")]
        assert (await asker.ask("one")).cache == "hit=1; miss=0"

    async def test_a_model_with_another_pooling_is_another(self, asker: Asker) -> None:
        await asker.ask("one")
        asker.model = replace(asker.model, pooling=Pooling.MEAN)
        assert (await asker.ask("one")).cache == "hit=0; miss=1"

    async def test_usage_is_exact_on_a_hit(self, asker: Asker) -> None:
        miss = await asker.ask(["a longer text than one", "two"])
        mixed = await asker.ask(["two", "three and more"])
        assert (await asker.ask("a longer text than one")).tokens + (
            await asker.ask("two")
        ).tokens == miss.tokens
        assert mixed.cache == "hit=1; miss=1"

    async def test_equal_texts_of_one_request_are_computed_once(self, asker: Asker) -> None:
        answer = await asker.ask(["same", "other", "same"])
        assert len(asker.backend.computed) == 2
        assert answer.vectors == [asker.right(text) for text in ("same", "other", "same")]
        assert answer.cache == "hit=0; miss=3"

    async def test_a_text_and_its_ids_are_two_texts(self, asker: Asker) -> None:
        ids = [
            int(one)
            for one in asker.encoder.encode(["one"], prompt="", truncate=Truncation.NONE)[0].ids
        ]
        await asker.ask("one")
        assert (await asker.ask(ids)).cache == "hit=0; miss=1"
        assert (await asker.ask([ids])).cache == "hit=1; miss=0"

    async def test_prompts_are_part_of_a_text(self, asker: Asker) -> None:
        await asker.ask("one")
        asked = await asker.ask("one", instruction="Find it")
        assert asked.cache == "hit=0; miss=1"
        assert asked.vectors == [asker.right("one", prompt="Instruct: Find it\nQuery:")]
        assert (await asker.ask("one", input_type="document")).cache == "hit=1; miss=0"

    async def test_another_class_or_revision_knows_nothing(self, asker: Asker) -> None:
        """The pool's class, whatever its replicas are."""
        await asker.ask("one")
        for other in (
            ModelVersion("revision", Precision.BF16),
            ModelVersion("other", Precision.F32),
        ):
            asker.version = other
            assert (await asker.ask("one")).cache == "hit=0; miss=1"

    async def test_without_a_version_nothing_is_cached(self, asker: Asker) -> None:
        """It is not known yet what would be kept."""
        asker.version = None
        answer = await asker.ask("one")
        assert b"x-embedfleet-cache" not in answer.headers
        assert asker.cache is not None
        assert len(asker.cache.memory) == 0

    async def test_float16_is_within_a_thousandth_of_its_miss(self, tmp_path: Path) -> None:
        asker = Asker(tmp_path / "model", VectorCache(MemoryTier(ROOM), numbers="float16"))
        miss, hit = await asker.ask("one"), await asker.ask("one")
        assert miss.vectors == [asker.right("one")]
        assert hit.cache == "hit=1; miss=0"
        apart = np.frombuffer(hit.vectors[0], "<f4") - np.frombuffer(miss.vectors[0], "<f4")
        assert 0 < np.abs(apart).max() < 1e-3

    async def test_an_operator_s_warming_gives_no_vectors_back(self, asker: Asker) -> None:
        body = {"model": MODEL, "input": ["one", "two"]}
        warmed = heard(await asker.endpoint.warm(request(body, {}, None)))
        assert (warmed.body, warmed.cache) == ({}, "hit=0; miss=2")
        assert (await asker.ask(["two", "one"])).cache == "hit=2; miss=0"


class TestCacheDirectives:
    async def test_no_store_keeps_nothing_and_may_be_answered_from_the_cache(
        self, asker: Asker
    ) -> None:
        """RFC 9111, 5.2.1.5: it does not apply to what is stored already."""
        private = {"cache-control": "no-store"}
        assert (await asker.ask("one", headers=private)).cache == "hit=0; miss=1"
        assert (await asker.ask("one")).cache == "hit=0; miss=1"
        assert (await asker.ask("one", headers=private)).cache == "hit=1; miss=0"

    async def test_no_cache_computes_anew_and_keeps(self, asker: Asker) -> None:
        fresh = {"cache-control": "max-age=0, No-Cache"}
        await asker.ask("one")
        assert (await asker.ask("one", headers=fresh)).cache == "hit=0; miss=1"
        assert len(asker.backend.computed) == 2
        await asker.ask("two", headers=fresh)
        assert (await asker.ask("two")).cache == "hit=1; miss=0"

    async def test_a_no_store_text_is_not_shared(self, tmp_path: Path) -> None:
        """Others would learn from their wait, and from what they pay, that it was sent."""
        private = {"cache-control": "no-store"}
        for first, second in ((private, {}), ({}, private), (private, private)):
            backend = Held()
            asker = Asker(tmp_path / "model", VectorCache(MemoryTier(ROOM)), backend=backend)
            asked = [asyncio.create_task(asker.ask("one", headers=first))]
            await begun(backend, 1)
            asked.append(asyncio.create_task(asker.ask("one", headers=second)))
            await begun(backend, 2)
            backend.go_on.set()
            await asyncio.gather(*asked)
            assert len(backend.computed) == 2
            assert asker.cache is not None
            assert asker.cache.counts.shared == 0


class TestRefusals:
    async def test_a_refusal_names_the_place_in_the_whole_request(
        self, asker: Asker, tmp_path: Path
    ) -> None:
        """As without a cache, though only the missing texts are encoded."""
        await asker.ask(["one", "two"])
        texts = ["one", "two", "long " * 2000]
        with_cache = await asker.ask(texts)
        without = await Asker(tmp_path / "other", None).ask(texts)
        assert with_cache.status == 400
        assert "`input[2]`" in with_cache.body["error"]["message"]
        assert with_cache.body == without.body

    async def test_an_id_outside_the_vocabulary_is_refused_each_time(self, asker: Asker) -> None:
        for _ in range(2):
            answer = await asker.ask([[1, 2], [10**6]])
            assert answer.body["error"]["code"] == "invalid_token_id"
            assert answer.body["error"]["param"] == "input[1]"

    async def test_a_cut_text_and_a_refused_one_are_different(self, asker: Asker) -> None:
        """What was cut for one caller is refused for another."""
        text = "long " * 2000
        assert (await asker.ask(text, truncate=True)).status == 200
        assert (await asker.ask(text, truncate=True)).cache == "hit=1; miss=0"
        assert (await asker.ask(text)).status == 400

    async def test_a_wrong_header_is_refused_also_when_every_text_is_known(
        self, asker: Asker
    ) -> None:
        await asker.ask("one")
        answer = await asker.ask("one", headers={"x-embedfleet-lane": "fast"})
        assert answer.body["error"]["code"] == "invalid_header"

    async def test_errors_are_not_kept(self, tmp_path: Path) -> None:
        backend = RevealingBackend(failing(ReplicaError("broken")))
        asker = Asker(tmp_path / "model", VectorCache(MemoryTier(ROOM)), backend=backend)
        assert (await asker.ask("one")).status == 502
        backend.before = RevealingBackend().before
        answer = await asker.ask("one")
        assert (answer.status, answer.cache) == (200, "hit=0; miss=1")


class Purse(UnlimitedQuota):
    """A pass that notes what is charged, and has so many tokens."""

    def __init__(self, tokens: int = 10**9) -> None:
        self.tokens = tokens
        self.charged: list[int] = []

    def open(self, _authorization: str | None) -> Purse:
        return self

    def open_for(self, _key: str) -> Purse:
        return self

    def charge(self, tokens: int) -> None:
        if tokens > self.tokens:
            raise RateLimitedError("no tokens are left", kind="tokens")
        self.charged.append(tokens)


class TestCharging:
    async def test_only_what_is_computed_is_charged(self, tmp_path: Path) -> None:
        purse = Purse()
        asker = Asker(tmp_path / "model", VectorCache(MemoryTier(ROOM)), access=purse)
        first = await asker.ask(["one", "one"])
        second = await asker.ask(["one", "two"])
        await asker.ask(["two", "one"])
        assert purse.charged == [first.tokens // 2, second.tokens - first.tokens // 2]

    async def test_who_has_nothing_left_is_still_told_what_is_known(self, tmp_path: Path) -> None:
        purse = Purse()
        asker = Asker(tmp_path / "model", VectorCache(MemoryTier(ROOM)), access=purse)
        await asker.ask("one")
        purse.tokens = 0
        assert (await asker.ask("one")).status == 200
        assert (await asker.ask("two")).status == 429
        assert len(asker.backend.computed) == 1


class TestSharing:
    @pytest.fixture
    def backend(self) -> Held:
        return Held()

    @pytest.fixture
    def asker(self, tmp_path: Path, backend: Held) -> Asker:
        return Asker(tmp_path / "model", VectorCache(MemoryTier(ROOM)), backend=backend)

    async def test_equal_texts_in_flight_are_computed_once(
        self, asker: Asker, backend: Held
    ) -> None:
        asked = [asyncio.create_task(asker.ask(["same", f"own {n}"])) for n in range(20)]
        await begun(backend, 20)
        backend.go_on.set()
        for number, answer in enumerate(await asyncio.gather(*asked)):
            assert answer.vectors == [asker.right("same"), asker.right(f"own {number}")]
        assert len(backend.computed) == 21

    async def test_a_leader_that_leaves_does_not_fail_its_followers(
        self, asker: Asker, backend: Held
    ) -> None:
        gone = asyncio.Event()
        leader = asyncio.create_task(asker.ask(["same", "own"], gone=gone))
        await begun(backend, 1)
        follower = asyncio.create_task(asker.ask("same"))
        await settled()
        gone.set()
        with pytest.raises(ClientGoneError):
            await leader
        backend.go_on.set()
        assert (await follower).vectors == [asker.right("same")]
        await settled()
        assert (backend.begun, len(backend.computed)) == (1, 1), "nobody waits for its own text"

    async def test_work_without_waiters_is_cancelled(self, asker: Asker, backend: Held) -> None:
        """Once the last one has left, be it the leader or a follower."""
        leaving = [asyncio.Event(), asyncio.Event()]
        asked = [asyncio.create_task(asker.ask("same", gone=gone)) for gone in leaving]
        await begun(backend, 1)
        for gone, task in zip(leaving, asked, strict=True):
            assert backend.cancelled == 0
            gone.set()
            with pytest.raises(ClientGoneError):
                await task
        await settled()
        assert backend.cancelled == 1
        assert asker.cache is not None
        assert asker.cache.counts.in_flight == 0

    async def test_after_a_cancelled_work_a_text_is_computed_anew(
        self, asker: Asker, backend: Held
    ) -> None:
        gone = asyncio.Event()
        first = asyncio.create_task(asker.ask("same", gone=gone))
        await begun(backend, 1)
        gone.set()
        with pytest.raises(ClientGoneError):
            await first
        backend.go_on.set()
        assert (await asker.ask("same")).vectors == [asker.right("same")]

    async def test_a_deadline_is_each_one_s_own(self, asker: Asker, backend: Held) -> None:
        hurried = asyncio.create_task(asker.ask("same", headers=SOON))
        await begun(backend, 1)
        patient = asyncio.create_task(asker.ask("same"))
        assert (await hurried).status == 504
        backend.go_on.set()
        assert (await patient).vectors == [asker.right("same")]

    async def test_an_interactive_text_does_not_wait_behind_an_equal_bulk_text(
        self, asker: Asker, backend: Held
    ) -> None:
        bulk = asyncio.create_task(asker.ask("same", headers={"x-embedfleet-lane": "bulk"}))
        await begun(backend, 1)
        quick = asyncio.create_task(asker.ask("same"))
        await begun(backend, 2)
        backend.go_on.set()
        answers = await asyncio.gather(bulk, quick)
        assert answers[0].vectors == answers[1].vectors == [asker.right("same")]

    async def test_a_failure_is_reported_to_one_and_the_text_is_computed_once_more_for_all_others(
        self, tmp_path: Path
    ) -> None:
        """However many those are: no stampede follows."""
        works = 0

        async def fail_once(_encodings: Sequence[Encoding]) -> None:
            nonlocal works
            works += 1
            if works == 1:
                await share(sender, 200)
                raise ReplicaError("it broke")

        backend = RevealingBackend(fail_once)
        sender = Asker(tmp_path / "model", VectorCache(MemoryTier(ROOM)), backend=backend)
        answers = await asyncio.gather(*(sender.ask("same") for _ in range(200)))
        assert sorted(answer.status for answer in answers) == [200] * 199 + [502]
        assert works == 2
        assert sender.cache is not None
        assert sender.cache.counts.shared == 198, "199 were answered by one computation"

    async def test_a_text_that_always_fails_is_computed_twice_for_any_number_of_callers(
        self, tmp_path: Path
    ) -> None:
        works = 0

        async def fail(_encodings: Sequence[Encoding]) -> None:
            nonlocal works
            works += 1
            if works == 1:
                await share(sender, 50)
            raise ReplicaError("it broke")

        sender = Asker(
            tmp_path / "model", VectorCache(MemoryTier(ROOM)), backend=RevealingBackend(fail)
        )
        answers = await asyncio.gather(*(sender.ask("same") for _ in range(50)))
        assert {answer.status for answer in answers} == {502}
        assert works == 2

    async def test_a_deadline_is_that_of_one_caller_alone(
        self, asker: Asker, backend: Held
    ) -> None:
        hasty = asyncio.create_task(asker.ask("same", headers=SOON))
        await begun(backend, 1)
        patient = [asyncio.create_task(asker.ask("same")) for _ in range(20)]
        assert (await hasty).status == 504
        backend.go_on.set()
        assert {answer.status for answer in await asyncio.gather(*patient)} == {200}
        assert backend.begun == 1

    async def test_the_refusal_of_one_caller_does_not_reach_others(self, tmp_path: Path) -> None:
        """A full queue is not the text's fault."""

        class Full(RevealingBackend):
            def admit(self, texts: int, tokens: int, caller: Caller) -> None:
                raise OverloadedError("full")

        purse = Purse()
        cache = VectorCache(MemoryTier(ROOM))
        asker = Asker(tmp_path / "model", cache, backend=Full(), access=purse)
        answers = await asyncio.gather(*(asker.ask("same") for _ in range(3)))
        assert [answer.status for answer in answers] == [429] * 3
        assert purse.charged == [], "nothing was computed"
        assert cache.counts.in_flight == 0
