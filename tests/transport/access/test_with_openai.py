"""Keys and limits as OpenAI's own client meets them, over real sockets."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import openai
import pytest
from msgspec.structs import replace as changed

from embedfleet.cli.keys import revoking
from embedfleet.runtime.settings import (
    AccessSettings,
    AdminSettings,
    CacheSettings,
    LogSettings,
    Settings,
)
from embedfleet.runtime.telemetry.logs import JsonFormatter
from embedfleet.transport.access import KeyRing
from embedfleet.transport.access.key_file import change
from embedfleet.transport.access.keyring import NO_KEY
from embedfleet.transport.access.keys import ApiKey, mint
from embedfleet.transport.access.quota import Usage
from embedfleet.transport.access.records import plain, record_of
from tests.transport.access.gateway import MODEL, Running, running

NOW = datetime(2026, 11, 22, tzinfo=UTC)
UNMISTAKABLE = "unmistakable"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def kept(file: Path) -> Settings:
    return Settings(access=AccessSettings(keys_file=file))


def new_key(file: Path, **limits: Any) -> ApiKey:
    """Make a key with limits and put it into the file."""
    key = mint(secrets.token_bytes)
    change(file, lambda before: (*before, changed(record_of(key, "test", NOW), **limits)))
    return key


def usage(service: Running, key: ApiKey | None = None) -> Usage:
    ring = service.gateway.guards.callers
    assert isinstance(ring, KeyRing)
    return ring.usage[NO_KEY if key is None else key.id]


async def embed(client: openai.AsyncOpenAI, text: Any = "a river", model: str = MODEL) -> Any:
    return await client.embeddings.create(model=model, input=text)


async def test_a_good_key_gets_vectors_and_the_models(file: Path, tmp_path: Path) -> None:
    key = new_key(file)
    async with running(tmp_path, kept(file)) as service, service.client(key.text) as client:
        assert len((await embed(client)).data) == 1
        assert [model.id async for model in client.models.list()] == [MODEL, "another-name"]
        assert (await client.models.retrieve(MODEL)).id == MODEL


@pytest.mark.parametrize("text", ["sk-wrong", f"ef-{'a' * 12}-{'a' * 52}"])
async def test_a_wrong_key_is_an_authentication_error_on_every_route_of_callers(
    file: Path, tmp_path: Path, text: str
) -> None:
    new_key(file)
    async with running(tmp_path, kept(file)) as service:
        computed = len(service.engine.batches)
        async with service.client(text, retries=3) as client:
            with pytest.raises(openai.AuthenticationError) as refused:
                await embed(client)
            with pytest.raises(openai.AuthenticationError):
                await client.models.list()
            with pytest.raises(openai.AuthenticationError):
                await client.models.retrieve(MODEL)
        error = refused.value
        assert (error.type, error.code, error.param) == (
            "invalid_request_error",
            "invalid_api_key",
            None,
        )
        assert error.response.headers["www-authenticate"] == "Bearer"
        assert usage(service).refusals == {"key": 3}  # the client does not ask again
        assert len(service.engine.batches) == computed
        assert text not in str(error.body)


async def test_without_a_key_every_route_of_callers_says_so_and_health_is_open(
    file: Path, tmp_path: Path
) -> None:
    async with running(tmp_path, kept_with_a_key(file)) as service:
        for method, path in (
            ("POST", "/v1/embeddings"),
            ("GET", "/v1/models"),
            ("GET", f"/v1/models/{MODEL}"),
        ):
            async with service.http.request(method, service.url + path, data=b"{}") as answer:
                assert answer.status == 401, path
                error = (await answer.json())["error"]
                assert "didn't provide an API key" in error["message"]
                assert (error["type"], error["code"]) == ("invalid_request_error", None)
        for path in ("/health", "/health/live", "/health/ready"):
            async with service.http.get(service.url + path) as answer:
                assert answer.status == 200, path


def kept_with_a_key(file: Path) -> Settings:
    new_key(file)
    return kept(file)


async def test_a_large_body_with_a_wrong_key_gets_its_answer_too(
    file: Path, tmp_path: Path
) -> None:
    """And not a broken connection, while the body is still on its way."""
    settings = kept_with_a_key(file)
    async with running(tmp_path, settings) as service, service.client("sk-wrong") as client:
        with pytest.raises(openai.AuthenticationError):
            await embed(client, "a" * 20_000_000)


async def test_a_model_that_is_not_the_keys_is_a_permission_error(
    file: Path, tmp_path: Path
) -> None:
    key, other = new_key(file, models=("large",)), new_key(file, models=("another-name",))
    async with running(tmp_path, kept(file)) as service:
        async with service.client(key.text, retries=3) as client:
            with pytest.raises(openai.PermissionDeniedError) as refused:
                await embed(client)
        assert refused.value.type == "invalid_request_error"
        assert refused.value.code == "model_not_found"
        assert usage(service, key).refusals == {"model": 1}
        async with service.client(other.text) as client:  # allowed by any of its names
            await embed(client, model=MODEL)


async def test_tokens_beyond_the_limit_are_a_rate_limit_error(file: Path, tmp_path: Path) -> None:
    key = new_key(file, tokens_per_minute=60)
    async with running(tmp_path, kept(file)) as service, service.client(key.text) as client:
        began = time.monotonic()
        answer = await client.embeddings.with_raw_response.create(model=MODEL, input=[[5] * 49])
        assert answer.headers["x-ratelimit-limit-tokens"] == "60"
        assert answer.headers["x-ratelimit-reset-tokens"].endswith("s")
        with pytest.raises(openai.RateLimitError) as refused:
            await embed(client, [[5] * 30])
        filled = time.monotonic() - began  # with a token a second
    error = refused.value
    assert (error.type, error.code, error.param) == ("tokens", "rate_limit_exceeded", None)
    told = re.search(r"Limit 60, Used (\d+), Requested 31\. Please try again in", error.message)
    assert told is not None
    assert 50 - filled - 1 < int(told[1]) <= 50
    before, after = (
        int(each.headers["x-ratelimit-remaining-tokens"]) for each in (answer, error.response)
    )
    assert 10 <= before <= after <= 10 + filled
    assert int(error.response.headers["retry-after"]) >= 20 - filled
    assert int(error.response.headers["retry-after-ms"]) > 20_000 - 1000 * filled


async def test_the_client_honours_retry_after_and_succeeds(file: Path, tmp_path: Path) -> None:
    key = new_key(
        file, tokens_per_minute=600
    )  # three seconds for 31 tokens: the first comes before
    async with running(tmp_path, kept(file)) as service:
        bucket = usage(service, key).tokens_bucket
        assert bucket is not None
        async with service.client(key.text, retries=1) as client:
            bucket.take(bucket.remaining(asyncio.get_running_loop().time()), bucket.at)
            await embed(client, [[5] * 30])
        assert usage(service, key).refusals == {"tokens": 1}
        assert usage(service, key).requests == 2


async def test_a_request_that_never_fits_is_not_sent_again(file: Path, tmp_path: Path) -> None:
    key = new_key(file, tokens_per_minute=10)
    async with running(tmp_path, kept(file)) as service:
        async with service.client(key.text, retries=5) as client:
            with pytest.raises(openai.RateLimitError, match="Request too large"):
                await embed(client, [[5] * 30])
        assert usage(service, key).refusals == {"tokens": 1}


async def test_what_a_cache_knew_costs_nothing(file: Path, tmp_path: Path) -> None:
    key = new_key(file, tokens_per_minute=60)
    async with running(tmp_path, kept(file)) as service, service.client(key.text) as client:
        for _ in range(3):
            answer = await embed(client, [[5] * 39])
            assert answer.usage.prompt_tokens == 40
        assert usage(service, key).tokens == 40


async def test_without_a_cache_no_answer_tells_what_others_asked(tmp_path: Path) -> None:
    """With one, a caller can find out whether somebody had this very text computed before."""
    known = replace(Settings(), cache=CacheSettings(memory_mib=0))
    async with running(tmp_path, known) as service, service.client() as client:
        for _ in range(2):
            create = client.embeddings.with_raw_response.create
            answer = await create(model=MODEL, input=UNMISTAKABLE)
            assert "x-embedfleet-cache" not in answer.headers


async def test_requests_beyond_the_limit_are_refused(file: Path, tmp_path: Path) -> None:
    key = new_key(file, requests_per_minute=2)
    async with running(tmp_path, kept(file)) as service, service.client(key.text) as client:
        await embed(client)
        await client.models.list()
        with pytest.raises(openai.RateLimitError) as refused:
            await embed(client)
    assert refused.value.type == "requests"


async def test_texts_at_once_are_limited_and_given_back_at_the_end(
    file: Path, tmp_path: Path
) -> None:
    key = new_key(file, concurrent_texts=3)
    async with running(tmp_path, kept(file)) as service, service.client(key.text) as client:
        service.engine.go_on.clear()
        first = asyncio.create_task(embed(client, ["a", "b"]))
        async with asyncio.timeout(60):
            while usage(service, key).texts < 2:
                await asyncio.sleep(0.005)
        with pytest.raises(openai.RateLimitError) as refused:
            await embed(client, ["c", "d"])
        assert refused.value.type == "texts"
        service.engine.go_on.set()
        await first
        await embed(client, ["c", "d", "e"])
        assert usage(service, key).texts == 0


async def test_keys_come_and_go_without_a_restart(file: Path, tmp_path: Path) -> None:
    key = new_key(file)
    async with running(tmp_path, kept(file)) as service, service.client(key.text) as client:
        await embed(client)
        later = new_key(file)
        async with service.client(later.text) as other:
            await until(other, "accepted")
        change(file, revoking(key.id, NOW))
        await until(client, f"This API key ({key.id}) is revoked.")
        async with service.client(later.text) as other:
            await embed(other)


async def test_a_file_that_breaks_while_it_serves_changes_nothing(
    file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = new_key(file)
    async with running(tmp_path, kept(file)) as service, service.client(key.text) as client:
        await embed(client)
        file.write_text("{")  # noqa: ASYNC240  somebody's editor
        async with asyncio.timeout(60):
            while "previous content stays in force" not in caplog.text:
                await asyncio.sleep(0.05)
        await embed(client)


async def until(client: openai.AsyncOpenAI, expected: str) -> None:
    """Ask until the answer is this message, or vectors for `accepted`."""
    async with asyncio.timeout(60):
        while await outcome(client) != expected:
            await asyncio.sleep(0.05)


async def outcome(client: openai.AsyncOpenAI) -> str:
    try:
        await embed(client)
    except openai.AuthenticationError as error:
        body: Any = error.body
        return str(body["message"])
    return "accepted"


async def test_keys_of_the_environment_work_alone_and_beside_the_file(
    file: Path, tmp_path: Path
) -> None:
    key = new_key(file)
    given = ["sk-sixteen-letters"]
    async with running(tmp_path / "a", given=given) as service:
        async with service.client(given[0]) as client:
            await embed(client)
        async with service.client(key.text) as client:
            with pytest.raises(openai.AuthenticationError):
                await embed(client)
    async with running(tmp_path / "b", kept(file), given=given) as service:
        for text in (given[0], key.text):
            async with service.client(text) as client:
                await embed(client)


async def test_without_keys_every_request_is_accepted_whatever_key_it_has(tmp_path: Path) -> None:
    async with running(tmp_path) as service, service.client("EMPTY") as client:
        await embed(client)


# -- the admin address and replicas ----------------------------------------------------------


async def test_the_admin_address_asks_for_its_own_key(file: Path, tmp_path: Path) -> None:
    caller = new_key(file)
    secret = tmp_path / "admin.key"
    secret.write_text("an-admin-key-of-ours\n")
    settings = replace(kept(file), admin=AdminSettings(key_file=secret))
    async with running(tmp_path, settings) as service:
        for path in ("/fleet", "/metrics", "/targets", "/nothing-here"):
            url = service.admin + path
            for headers in ({}, {"authorization": f"Bearer {caller.text}"}):
                async with service.http.get(url, headers=headers) as answer:
                    assert answer.status == 401, path
        headers = {"authorization": "Bearer an-admin-key-of-ours"}
        async with service.http.get(f"{service.admin}/fleet", headers=headers) as answer:
            assert answer.status == 200
        async with service.http.get(f"{service.admin}/health/ready") as answer:
            assert answer.status == 200
        async with service.client("an-admin-key-of-ours") as client:
            with pytest.raises(openai.AuthenticationError):
                await embed(client)


async def test_a_replica_that_asks_for_a_key_gets_it_from_its_gateway(tmp_path: Path) -> None:
    secret = tmp_path / "replica.key"
    secret.write_text("a-replica-key-of-ours\n")
    ring = KeyRing(plain(["a-replica-key-of-ours"], NOW, "test"))
    async with (
        running(tmp_path, replica_access=ring, replica_key_file=secret) as service,
        service.client() as client,
    ):
        await embed(client)
        assert ring.usage[NO_KEY].refusals == {}
        (replica,) = service.gateway.pools[0].fleet
        for method, path in (("POST", "/v1/work"), ("POST", "/v1/embeddings"), ("GET", "/metrics")):
            async with service.http.request(method, replica.url + path) as answer:
                assert answer.status == 401, path
        async with service.http.get(f"{replica.url}/health/live") as answer:
            assert answer.status == 200


async def test_a_gateway_with_a_wrong_key_uses_no_replica_and_says_why(tmp_path: Path) -> None:
    ring = KeyRing(plain(["a-replica-key-of-ours"], NOW, "test"))
    with pytest.raises(TimeoutError):
        async with running(tmp_path, replica_access=ring, patience_s=1) as service:
            raise AssertionError(service)
    assert ring.usage[NO_KEY].refusals["key"] > 0


# -- what is told --------------------------------------------------------------------------


async def test_the_name_of_a_request_is_in_its_answer_and_its_errors(tmp_path: Path) -> None:
    async with running(tmp_path) as service, service.client() as client:
        answer = await client.embeddings.with_raw_response.create(
            model=MODEL, input="a", extra_headers={"x-request-id": "mine-1"}
        )
        assert answer.request_id == "mine-1"
        with pytest.raises(openai.BadRequestError) as refused:
            await embed(client, "")
        assert str(refused.value.request_id).startswith("req_")


async def test_what_keys_used_is_in_the_metrics_by_their_ids_alone(
    file: Path, tmp_path: Path
) -> None:
    key = new_key(file, tokens_per_minute=60)
    async with running(tmp_path, kept(file)) as service, service.client(key.text) as client:
        await embed(client, [[5] * 9])
        with pytest.raises(openai.RateLimitError):
            await embed(client, [[5] * 59])
        for number in range(3):
            async with service.client(f"sk-made-up-{number}") as other:
                with pytest.raises(openai.AuthenticationError):
                    await embed(other)
        await service.metrics()
        told = await service.metrics()
    assert f'embedfleet_key_requests_total{{key="{key.id}"}} 2.0' in told
    assert f'embedfleet_key_tokens_total{{key="{key.id}"}} 10.0' in told
    assert f'embedfleet_key_refusals_total{{key="{key.id}",reason="tokens"}} 1.0' in told
    assert 'embedfleet_key_refusals_total{key="none",reason="key"} 3.0' in told
    assert "made-up" not in told
    assert key.secret not in told


async def test_the_access_log_tells_of_every_request_and_never_a_text_or_a_key(
    file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = new_key(file)
    settings = replace(kept(file), log=LogSettings(access=True))
    with caplog.at_level(logging.DEBUG):
        async with running(tmp_path, settings) as service:
            async with service.client(key.text) as client:
                headers = {"x-request-id": "mine-1"}
                await client.embeddings.create(
                    model=MODEL, input=[UNMISTAKABLE, "b"], extra_headers=headers
                )
                await client.models.retrieve(MODEL)
            async with service.client("sk-a-wrong-key-of-mine") as client:
                with pytest.raises(openai.AuthenticationError):
                    await embed(client, UNMISTAKABLE)
            async with service.http.get(f"{service.url}/a%0Aforged%20line") as answer:
                assert answer.status == 404
    records = [record for record in caplog.records if record.name == "embedfleet.access"]
    shown = [json.loads(JsonFormatter().format(record)) for record in records]
    embedding, model, refused, nothing = shown
    assert (
        embedding
        | {
            "method": "POST",
            "route": "/v1/embeddings",
            "status": 200,
            "model": MODEL,
            "texts": 2,
            "client": "127.0.0.1",
            "key": key.id,
            "request": "mine-1",
        }
        == embedding
    )
    assert embedding["tokens"] > 2
    assert embedding["seconds"] > 0
    assert "hits" in embedding
    assert (model["route"], model["key"]) == ("/v1/models/", key.id)
    assert (refused["status"], refused["key"]) == (401, "-")
    assert (nothing["status"], nothing["route"]) == (404, "-")
    assert "status=200" in embedding["message"]
    for secret in (UNMISTAKABLE, key.secret, "a-wrong-key-of-mine", "forged"):
        assert secret not in caplog.text


async def test_without_the_setting_no_request_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        async with running(tmp_path) as service, service.client() as client:
            await embed(client)
    assert not [record for record in caplog.records if record.name == "embedfleet.access"]
