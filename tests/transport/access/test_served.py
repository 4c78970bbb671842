"""The whole of it as processes: keys, HTTPS, the access log, and replicas that ask for a key."""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from embedfleet.transport.description import ANNOUNCEMENT
from tests.processes import replicas_of
from tests.service import Service, started
from tests.transport.access.test_tls import make_certificate

pytestmark = pytest.mark.slow
UNMISTAKABLE = "an unmistakable sentence of nobody else"


@contextlib.contextmanager
def client_of(
    service: Service, key: str, trusted: ssl.SSLContext | None = None
) -> Iterator[openai.OpenAI]:
    """OpenAI's own client, with a certificate that it trusts."""
    with (
        httpx2.Client(verify=trusted or True) as http,
        openai.OpenAI(
            base_url=service.base_url, api_key=key, http_client=http, max_retries=0
        ) as made,
    ):
        yield made


def ask(client: openai.OpenAI) -> Any:
    return client.embeddings.create(model="builtin", input=UNMISTAKABLE)


def typed(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "embedfleet", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


def test_a_service_with_keys_https_and_an_access_log(tmp_path: Path) -> None:
    chain, certificate_key = make_certificate(tmp_path)
    keys = tmp_path / "keys.json"
    key = typed("keys", "create", "--file", str(keys), "--name", "test", "--lane", "bulk")
    admin_key = tmp_path / "admin.key"
    admin_key.write_text("a-key-for-operators\n")
    settings = (
        f'tls_certificate = "{chain}"\ntls_key = "{certificate_key}"\nkey_file = "{admin_key}"\n'
        f'[gateway]\ntls_certificate = "{chain}"\ntls_key = "{certificate_key}"\n'
        f'[access]\nkeys_file = "{keys}"\n[log]\naccess = true\nformat = "json"\n'
    )
    log = tmp_path / "log"
    with started("builtin", log=log, arguments=["--replicas", "1"], settings=settings) as service:
        assert service.root.startswith("https://")
        trusted = ssl.create_default_context(cafile=chain)
        with client_of(service, key, trusted) as client:
            assert len(ask(client).data) == 1
        with (
            client_of(service, "sk-wrong", trusted) as client,
            pytest.raises(openai.AuthenticationError),
        ):
            ask(client)
        with client_of(service, key) as client, pytest.raises(openai.APIConnectionError):
            ask(client)  # nobody vouches for this certificate
        assert service.admin.startswith("https://")
        for sent, expected in (("Bearer a-key-for-operators", 200), (f"Bearer {key}", 401)):
            headers = {"authorization": sent}
            answer = httpx2.get(f"{service.admin}/metrics", headers=headers, verify=trusted)
            assert answer.status_code == expected
        typed("keys", "revoke", "--file", str(keys), key)
    text = log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    told = [line for line in lines if line["logger"] == "embedfleet.access"]
    # A scrape that was answered leaves no line; one that was refused does.
    assert [line["status"] for line in told] == [200, 401, 401]
    assert told[0]["key"] == key.split("-")[1]
    assert told[0]["texts"] == 1
    secret_of_key = key.rpartition("-")[2]
    for secret in (key, secret_of_key, "sk-wrong", "a-key-for-operators", UNMISTAKABLE):
        assert secret not in text


def test_keys_of_the_environment_are_not_handed_to_replicas(tmp_path: Path) -> None:
    given = "sk-of-the-environment"
    os.environ["EMBEDFLEET_API_KEYS"] = given
    try:
        with started("builtin", log=tmp_path / "log", arguments=["--replicas", "1"]) as service:
            with client_of(service, given) as client:
                assert len(ask(client).data) == 1
            with (
                client_of(service, "sk-wrong") as client,
                pytest.raises(openai.AuthenticationError),
            ):
                ask(client)
            (replica,) = replicas_of(service.process.pid)
            assert "EMBEDFLEET_API_KEYS" not in replica.environ()
            assert given not in " ".join(replica.cmdline())
    finally:
        del os.environ["EMBEDFLEET_API_KEYS"]


def test_replicas_elsewhere_ask_their_gateway_for_a_key(tmp_path: Path) -> None:
    secret, config = tmp_path / "replica.key", tmp_path / "replica.toml"
    secret.write_text("a-key-between-machines\n")
    config.write_text(f'[replica]\nkey_file = "{secret}"\n')
    words = ["replica", "builtin", "--config", str(config)]
    with (tmp_path / "replica.log").open("w") as sink:
        replica = subprocess.Popen(
            [sys.executable, "-m", "embedfleet", *words],
            stdout=subprocess.PIPE,
            stderr=sink,
            text=True,
        )
    try:
        assert replica.stdout is not None
        url = replica.stdout.readline().strip().removeprefix(ANNOUNCEMENT)
        pools = f'[[pools]]\nreplica_key_file = "{secret}"\n'
        command = ["gateway", "--replica", url, "--served-name", "builtin"]
        with (
            started("", log=tmp_path / "log", command=command, settings=pools) as service,
            client_of(service, "EMPTY") as client,
        ):
            assert len(ask(client).data) == 1
            assert httpx2.get(f"{url}/v1/replica").status_code == 401
            assert httpx2.get(f"{url}/health/ready").status_code == 200
    finally:
        replica.terminate()
        replica.wait(60)
        assert replica.stdout is not None
        replica.stdout.close()
