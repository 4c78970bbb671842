"""Vector i belongs to text i, whatever the service does."""

from __future__ import annotations

import asyncio
import gc
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedfleet import AsyncClient, Client
from embedfleet.client import AnswerError, Progress, RefusedError, UnavailableError
from embedfleet.conformance.exchange import Ask, NoAnswerError
from embedfleet.conformance.transport import connected
from tests.fakes.revealing_service import (
    MODEL,
    WIDTH,
    RevealingService,
    error,
    running,
    vector_of,
    vectors_of,
)
from tests.transport.access.test_tls import make_certificate


@pytest.fixture(scope="module")
def shared() -> Iterator[RevealingService]:
    with running() as service:
        yield service


@pytest.fixture
def service(shared: RevealingService) -> RevealingService:
    shared.fault, shared.floats = None, False
    shared.requests.clear()
    shared.headers.clear()
    shared.computed.clear()
    return shared


class Quick(Random):
    """Jitter that makes pauses as short as they get; the pauses themselves are tested apart."""

    def random(self) -> float:
        return -0.999


def quick(service: RevealingService, **options: Any) -> AsyncClient:
    return AsyncClient(service.url, rng=Quick(), **options)


async def test_row_i_is_the_vector_of_text_i(service: RevealingService) -> None:
    texts = [f"text number {n}" * (n % 7 + 1) for n in range(500)]
    async with AsyncClient(service.url, tokens_per_request=200) as client:
        found = await client.embed(texts)
    assert found.dtype == np.float32
    assert np.array_equal(found, vectors_of(texts))
    assert len(service.requests) > 5


def test_code_without_an_event_loop_gets_the_same(service: RevealingService) -> None:
    with Client(service.url, lane="bulk", api_key="secret") as client:
        assert np.array_equal(client.embed("one"), vector_of("one"))
        half = client.embed(np.array(["a", "b"]), dimensions=8, dtype=np.float16)
        assert client.served_model().name == MODEL
        assert client.embed([[1, 2], [3]]).shape == (2, WIDTH)
    assert np.array_equal(half, np.stack([vector_of("a", 8), vector_of("b", 8)]).astype("f2"))
    assert service.headers[-1]["x-embedfleet-lane"] == "bulk"
    assert service.headers[-1]["authorization"] == "Bearer secret"
    with pytest.raises(RuntimeError, match="closed"):
        client.embed("more")


def test_a_client_that_is_not_closed_ends_with_its_last_reference(
    service: RevealingService,
) -> None:
    before = set(threading.enumerate())
    client = Client(service.url)
    (thread,) = set(threading.enumerate()) - before
    assert np.array_equal(client.embed("one"), vector_of("one"))
    del client
    gc.collect()
    thread.join(60)
    assert not thread.is_alive()


async def test_no_texts_are_no_request(service: RevealingService) -> None:
    async with AsyncClient(service.url, model=MODEL) as client:
        assert (await client.embed([], dimensions=8)).shape == (0, 8)
    assert service.requests == []


async def test_services_without_base64_are_understood(service: RevealingService) -> None:
    service.floats = True
    async with AsyncClient(service.url) as client:
        assert np.array_equal(await client.embed(["a", "b"]), vectors_of(["a", "b"]))


async def test_progress_counts_every_text_once(service: RevealingService) -> None:
    seen: list[Progress] = []
    async with AsyncClient(service.url, texts_per_request=10) as client:
        await client.embed([f"{n}" for n in range(95)], progress=seen.append)
    assert [each.done for each in seen] == sorted({each.done for each in seen})
    assert (seen[-1].done, seen[-1].texts) == (95, 95)
    assert seen[-1].tokens == 95


async def test_a_refused_text_costs_no_other_its_vector(service: RevealingService) -> None:
    texts = [f"text {n}" for n in range(40)]
    texts[7] = texts[31] = "  "
    texts[12] = "half a \ud800 pair"
    async with AsyncClient(service.url) as client:
        found = await client.embed_each(texts)
    assert set(found.errors) == {7, 12, 31}
    assert {found.errors[at].code for at in (7, 31)} == {"blank_string"}
    assert found.errors[12].code == "invalid_unicode"
    good = [at for at in range(40) if at not in found.errors]
    assert np.array_equal(found.vectors[good], vectors_of([texts[at] for at in good]))
    assert np.isnan(found.vectors[[7, 12, 31]]).all()


async def test_a_service_that_names_no_text_has_it_found_by_halving(
    service: RevealingService,
) -> None:
    def unnamed(_number: int, body: dict[str, Any]) -> web.Response | None:
        return error(422, "bad") if any("bad" in text for text in body["input"]) else None

    service.fault = unnamed
    texts = [f"text {n}" for n in range(64)]
    texts[3], texts[44] = "bad 1", "bad 2"
    async with AsyncClient(service.url) as client:
        found = await client.embed_each(texts)
    assert set(found.errors) == {3, 44}
    good = [at for at in range(64) if at not in found.errors]
    assert np.array_equal(found.vectors[good], vectors_of([texts[at] for at in good]))


async def test_a_service_that_names_the_wrong_text_is_not_believed(
    service: RevealingService,
) -> None:
    def lying(_number: int, body: dict[str, Any]) -> web.Response | None:
        return error(400, "bad", "input[0]") if "bad" in body["input"] else None

    service.fault = lying
    async with AsyncClient(service.url) as client:
        found = await client.embed_each(["a", "b", "bad", "c"])
    assert set(found.errors) == {2}


async def test_requests_that_are_too_large_are_halved_and_stay_smaller(
    service: RevealingService,
) -> None:
    def small(_number: int, body: dict[str, Any]) -> web.Response | None:
        return error(413, "too_large") if len(body["input"]) > 8 else None

    service.fault = small
    texts = [f"{n}" for n in range(100)]
    async with AsyncClient(service.url, texts_per_request=64) as client:
        assert np.array_equal(await client.embed(texts), vectors_of(texts))
        service.requests.clear()
        await client.embed(texts)
    assert max(len(body["input"]) for body in service.requests) <= 8


async def test_a_refusal_of_the_whole_request_is_raised_at_once(service: RevealingService) -> None:
    service.fault = lambda _number, _body: error(400, "invalid_value", "dimensions")
    async with AsyncClient(service.url) as client:
        with pytest.raises(RefusedError, match="dimensions"):
            await client.embed_each(["a", "b"])
    assert len(service.requests) == 1


async def test_embed_says_which_text_is_refused(service: RevealingService) -> None:
    async with AsyncClient(service.url) as client:
        with pytest.raises(RefusedError, match="blank_string") as caught:
            await client.embed(["a", "b", " "])
    assert caught.value.index == 2


async def test_no_room_slows_the_client_down_and_nothing_is_lost(service: RevealingService) -> None:
    def busy(number: int, _body: dict[str, Any]) -> web.Response | None:
        return error(429, "overloaded", **{"retry-after-ms": "1"}) if number % 3 == 0 else None

    service.fault = busy
    texts = [f"{n}" for n in range(200)]
    async with quick(service, texts_per_request=5) as client:
        assert np.array_equal(await client.embed(texts), vectors_of(texts))
    assert set(service.computed.values()) == {1}


async def test_the_retry_timeout_ends_with_the_service_s_last_message(
    service: RevealingService,
) -> None:
    service.fault = lambda _number, _body: error(503, "no_replica")
    async with quick(service, model=MODEL, retry_timeout_s=0.001) as client:
        with pytest.raises(UnavailableError, match=r"status 503: no_replica.*tried \d+ time"):
            await client.embed(["a"])


async def test_an_unreachable_address_is_one_line_of_output() -> None:
    async with AsyncClient("http://127.0.0.1:1", retry_timeout_s=0.0) as client:
        with pytest.raises(UnavailableError, match=r"http://127\.0\.0\.1:1: .*tried 1 time"):
            await client.embed(["a"])


async def test_malformed_answers_are_retried_and_then_an_error(
    service: RevealingService,
) -> None:
    service.fault = lambda number, _body: web.json_response({"data": []}) if number < 2 else None
    async with quick(service) as client:
        assert np.array_equal(await client.embed(["a"]), vectors_of(["a"]))
        service.fault = lambda _number, _body: web.json_response({"data": []})
        with pytest.raises(AnswerError, match="0 vectors came back for 1 texts"):
            await client.embed(["a"])


async def test_a_text_that_engines_fail_is_found_among_others(service: RevealingService) -> None:
    def poisonous(_number: int, body: dict[str, Any]) -> web.Response | None:
        return error(500, "invalid_vector") if "poison" in body["input"] else None

    service.fault = poisonous
    async with quick(service) as client:
        found = await client.embed_each(["a", "poison", "b"])
    assert set(found.errors) == {1}


async def test_an_unknown_model_is_said_with_those_that_are_served(
    service: RevealingService,
) -> None:
    async with AsyncClient(service.url, model="other") as client:
        with pytest.raises(RefusedError, match=f"serves no model other; it serves: {MODEL}"):
            await client.served_model()


async def test_redirects_do_not_get_the_key(service: RevealingService) -> None:
    moved = web.Response(status=302, headers={"location": "http://127.0.0.1:1/"})
    service.fault = lambda _number, _body: moved
    async with AsyncClient(service.url, model=MODEL, api_key="k") as client:
        with pytest.raises(RefusedError, match="status 302"):
            await client.embed(["a"])


@given(
    texts=st.lists(st.sampled_from(["a", "b", "long " * 50, " ", "bad", "\ud800"]), max_size=30),
    faults=st.lists(st.sampled_from([None, 429, 500, 503, 413, "nonsense"]), max_size=12),
    most=st.integers(1, 9),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_under_any_faults_each_text_has_its_vector_or_its_error(
    service: RevealingService, texts: list[str], faults: list[Any], most: int
) -> None:
    first = len(service.requests)

    def faulty(number: int, body: dict[str, Any]) -> web.Response | None:
        fault = faults[number - first] if number - first < len(faults) else None
        if fault == 413 and len(body["input"]) == 1:
            fault = None
        if fault == "nonsense":
            return web.json_response({"data": [{"embedding": "AAAA"}]})
        if fault is not None:
            return error(fault, "fault")
        return error(400, "bad") if "bad" in body["input"] else None

    service.fault = faulty
    async with quick(service, model=MODEL, texts_per_request=most) as client:
        try:
            found = await client.embed_each(texts)
        except AnswerError:
            assert faults.count("nonsense") >= 4
            return
    wrong = {at for at, text in enumerate(texts) if text in {" ", "bad", "\ud800"}}
    assert set(found.errors) == wrong
    for at, text in enumerate(texts):
        if at not in wrong:
            assert np.array_equal(found.vectors[at], vector_of(text))


def test_importing_the_package_loads_no_client_and_a_client_no_engine() -> None:
    code = (
        "import sys, embedfleet\n"
        "assert 'numpy' not in sys.modules\n"
        "embedfleet.Client\n"
        "heavy = {'embedfleet.engines', 'embedfleet.runtime.settings'}\n"
        "heavy |= {'openvino', 'torch', 'typer'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


async def test_a_service_that_knows_no_other_form_is_not_taken_for_one_that_does(
    service: RevealingService,
) -> None:
    async with AsyncClient(service.url, model=MODEL) as client:
        with pytest.raises(RefusedError, match="answers in float32, not in int8"):
            await client.embed(["a"], output_dtype="int8")
    async with AsyncClient(service.url, model=MODEL, encoding_format="bytes") as client:
        with pytest.raises(RefusedError, match="does not answer in bytes"):
            await client.embed(["a"])
    assert len(service.requests) == 2


async def test_vectors_of_another_space_are_not_mixed_in(service: RevealingService) -> None:
    spaces = iter(["a", "a", "b"])

    def spaced(_number: int, body: dict[str, Any]) -> web.Response:
        answer = service.answer(body)
        answer.headers["x-embedfleet-space"] = next(spaces)
        return answer

    service.fault = spaced
    async with AsyncClient(service.url, model=MODEL) as client:
        await client.embed(["one"])
        await client.embed(["two"])
        assert client.space == "a"
        with pytest.raises(AnswerError, match="another space than before"):
            await client.embed(["three"])


async def test_an_untrusted_certificate_is_reported_at_once(tmp_path: Path) -> None:
    """Asking again would not help, and an unattended run would wait for nothing."""
    chain, key = make_certificate(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(chain, key)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=tls)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, AsyncClient(url, model=MODEL, retry_timeout_s=3600) as client:
        with pytest.raises(UnavailableError, match="certificate is not accepted"):
            await client.embed(["one"])
        async with connected(url, key=None, timeout_s=60) as transport:
            with pytest.raises(NoAnswerError, match="certificate is not accepted"):
                await transport.send(Ask("GET", "/models"))
