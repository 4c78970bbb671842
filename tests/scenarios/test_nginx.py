"""nginx with the shipped configuration in front of two gateways."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from tests.ports import free_ports
from tests.service import Service, started

SHIPPED = Path(__file__).parents[2] / "deploy" / "nginx" / "embedfleet.conf"
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
CLIENT = "127.0.0.9"
"""Where the client's connections come from; all of 127/8 is this machine."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not NGINX, reason="nginx is not installed (Debian: apt-get install nginx-light)"
    ),
]


@contextlib.contextmanager
def nginx(directory: Path, gateways: list[Service]) -> Iterator[str]:
    """Run nginx before these gateways, on ports of its own; gives its URL.

    Gateways that answer HTTPS are asked so.
    """
    certificate, key = directory / "crt.pem", directory / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    plain, secure = free_ports(2)
    text = SHIPPED.read_text(encoding="utf-8")
    for shipped, gateway in zip(("192.168.1.10:8080", "192.168.1.11:8080"), gateways, strict=True):
        text = text.replace(shipped, gateway.root.partition("://")[2])
    if gateways[0].root.startswith("https:"):
        text = text.replace("proxy_pass http://", "proxy_pass https://")
    text = text.replace("/etc/nginx/tls/embedfleet.crt", str(certificate))
    text = text.replace("/etc/nginx/tls/embedfleet.key", str(key))
    text = text.replace("listen 80;", f"listen 127.0.0.1:{plain};")
    text = text.replace("listen 443 ", f"listen 127.0.0.1:{secure} ")
    config = directory / "nginx.conf"
    paths = "".join(
        f"{name}_temp_path {directory / name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.getuid() == 0 else ""  # its workers write below this directory
    config.write_text(
        f"{user} daemon off; pid {directory / 'pid'}; error_log {directory / 'error.log'} info;\n"
        f"events {{}}\nhttp {{ access_log off;\n{paths}{text}}}\n"
    )
    assert NGINX is not None
    process = subprocess.Popen([NGINX, "-c", str(config), "-p", str(directory)])
    try:
        _wait(secure, directory)
        yield f"https://127.0.0.1:{secure}"
    finally:
        process.terminate()
        process.wait(60)


def _wait(port: int, directory: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert time.monotonic() < deadline, f"nginx does not start, see {directory}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Service]]:
    """Two gateways that believe what stands before them on this machine."""
    model = os.environ.get("EMBEDFLEET_TEST_SERVICE", "builtin")
    directory = tmp_path_factory.mktemp("gateways")
    settings = {
        "EMBEDFLEET_GATEWAY_TRUSTED_PROXIES": "127.0.0.1",
        "EMBEDFLEET_LOG_LEVEL": "debug",
    }
    with pytest.MonkeyPatch.context() as environment, contextlib.ExitStack() as stack:
        for name, value in settings.items():
            environment.setenv(name, value)
        yield [
            stack.enter_context(
                started(model, log=directory / f"log{number}", arguments=["--replicas", "1"])
            )
            for number in range(2)
        ]


async def post(session: aiohttp.ClientSession, url: str, **body: Any) -> tuple[int, Any]:
    data = io.BytesIO(orjson.dumps(body))
    async with session.post(f"{url}/v1/embeddings", data=data) as answer:
        return answer.status, await answer.json(content_type=None)


def client() -> aiohttp.ClientSession:
    """A client at an address of its own; the certificate is made for this test."""
    trusting = ssl.create_default_context()
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    connector = aiohttp.TCPConnector(ssl=trusting, local_addr=(CLIENT, 0), limit=0)
    return aiohttp.ClientSession(connector=connector)


async def model_of(session: aiohttp.ClientSession, url: str) -> str:
    async with session.get(f"{url}/v1/models") as answer:
        name: str = (await answer.json())["data"][0]["id"]
        return name


def addresses(gateway: Service) -> list[str]:
    """Of clients whose requests it has answered, as it logs them."""
    return re.findall(r"200 from (\S+):", gateway.log.read_text())


async def test_long_texts_pass_and_the_clients_address_arrives(
    gateways: list[Service], tmp_path: Path
) -> None:
    """A request of sixteen texts of 32,768 words, more than nginx takes by default."""
    texts = [f"{number} " + "river " * 32_768 for number in range(16)]
    with nginx(tmp_path, gateways) as url:
        async with client() as session:
            name = await model_of(session, url)
            status, answer = await post(session, url, model=name, input=texts, truncate=True)
            assert status == 200, answer
            assert len(answer["data"]) == 16
            # The other gateway gets some, too.
            for _ in range(6):
                assert (await post(session, url, model=name, input="short"))[0] == 200
            async with session.get(f"{url}/fleet") as refused:
                assert refused.status == 404
            async with session.get(f"{url}/health") as healthy:
                assert healthy.status == 200
            asked = {"model": name, "input": ["Ollama's form"]}
            async with session.post(f"{url}/api/embed", json=asked) as other:
                assert len((await other.json())["embeddings"]) == 1

    for gateway in gateways:
        gateway.until("a line of the log", lambda gateway=gateway: bool(addresses(gateway)))  # type: ignore[misc]
        assert set(addresses(gateway)) == {CLIENT}


async def test_a_gateway_that_dies_goes_unnoticed(gateways: list[Service], tmp_path: Path) -> None:
    """Kill -9 under load: its requests are answered by the other one."""
    with nginx(tmp_path, gateways) as url:
        async with client() as session:
            name = await model_of(session, url)
            stop = asyncio.Event()

            async def ask(seed: int) -> int:
                done = 0
                while not stop.is_set():
                    texts = [f"{seed} {done} {n} boats on the river" for n in range(20)]
                    status, answer = await post(session, url, model=name, input=texts)
                    assert status == 200, answer
                    assert len(answer["data"]) == 20
                    done += 1
                return done

            asking = [asyncio.create_task(ask(seed)) for seed in range(8)]
            await asyncio.sleep(1)
            gateways[0].process.send_signal(signal.SIGKILL)
            await asyncio.sleep(3)
            stop.set()
            assert all(await asyncio.gather(*asking))
