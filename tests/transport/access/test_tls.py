"""HTTPS with a certificate of its own making, over real sockets."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from pathlib import Path

import aiohttp
import pytest

from embedfleet.transport.access.setup import Certificate, Renewable, certificate
from embedfleet.transport.asgi import Request, Response, Router
from embedfleet.transport.serving import ClientLimits, Listener, bind, serving
from embedfleet.vocabulary import SettingError
from tests.loops import running


def make_certificate(directory: Path, name: str = "localhost") -> tuple[Path, Path]:
    """A self-signed certificate for this machine, and its key."""
    directory.mkdir(exist_ok=True)
    chain, key = directory / "tls.crt", directory / "tls.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", f"/CN={name}", "-keyout", key, "-out", chain),
            *("-addext", f"subjectAltName=DNS:{name},DNS:localhost,IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return chain, key


async def hello(_: Request) -> Response:
    return Response(b'"hello"')


APP = Router({("GET", "/"): hello})


def served_name(told: object) -> str:
    """The common name in a certificate as Python's ssl shows it."""
    assert isinstance(told, dict)
    return str(dict(part[0] for part in told["subject"])["commonName"])


async def connect(port: int, trusted: ssl.SSLContext) -> str:
    """The name in the certificate that is served."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusted)
    name = served_name(writer.get_extra_info("peercert"))
    writer.close()
    await writer.wait_closed()
    return name


async def test_https_is_answered_with_the_certificate_and_http_is_not(tmp_path: Path) -> None:
    chain, key = make_certificate(tmp_path)
    context, _ = certificate(chain, key)
    listener = Listener(APP, bind("127.0.0.1", 0), context)
    assert listener.url.startswith("https://127.0.0.1:")
    async with serving([listener], stop_timeout_s=1), aiohttp.ClientSession() as client:
        trusted = ssl.create_default_context(cafile=chain)
        async with client.get(listener.url, ssl=trusted) as answer:
            assert await answer.json() == "hello"
        with pytest.raises(aiohttp.ClientError):
            await client.get(listener.url)  # nobody vouches for this certificate
        with pytest.raises(aiohttp.ClientError):
            await client.get(listener.url.replace("https", "http"))


async def test_nothing_older_than_tls_1_2_is_spoken(tmp_path: Path) -> None:
    chain, key = make_certificate(tmp_path)
    context, _ = certificate(chain, key)
    assert context is not None
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    listener = Listener(APP, bind("127.0.0.1", 0), context)
    port = listener.socket.getsockname()[1]
    async with serving([listener], stop_timeout_s=1):
        for version, spoken in (("-tls1_1", False), ("-tls1_2", True), ("-tls1_3", True)):
            process = await asyncio.create_subprocess_exec(
                *("openssl", "s_client", "-connect", f"127.0.0.1:{port}", version, "-brief"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            told, _ = await asyncio.wait_for(process.communicate(), 60)
            assert (b"CONNECTION ESTABLISHED" in told) is spoken, told


async def test_a_handshake_that_does_not_arrive_is_disconnected(tmp_path: Path) -> None:
    """Whoever connects and says nothing is in no other limit yet."""
    context, _ = certificate(*make_certificate(tmp_path))
    listener = Listener(APP, bind("127.0.0.1", 0), context)
    port = listener.socket.getsockname()[1]
    async with serving([listener], stop_timeout_s=1, limits=ClientLimits(head_s=0.3)):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(60):
            assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


async def test_a_certificate_that_is_replaced_is_served_without_a_restart(tmp_path: Path) -> None:
    chain, key = make_certificate(tmp_path, "old.example")
    context, watches = certificate(chain, key)
    trusted = ssl.create_default_context(cafile=chain)
    trusted.check_hostname = False
    listener = Listener(APP, bind("127.0.0.1", 0), context)
    port = listener.socket.getsockname()[1]
    async with serving([listener], stop_timeout_s=1), running(*(watch.run() for watch in watches)):
        assert await connect(port, trusted) == "old.example"
        chain.write_text("half of a certificate")  # as while it is being copied
        await asyncio.sleep(1.2)
        assert await connect(port, trusted) == "old.example"
        make_certificate(tmp_path, "new.example")
        trusted.load_verify_locations(chain)
        async with asyncio.timeout(60):
            while await connect(port, trusted) != "new.example":
                await asyncio.sleep(0.1)


def test_files_that_are_no_pair_are_refused_by_name(tmp_path: Path) -> None:
    chain, key = make_certificate(tmp_path / "one")
    _, other = make_certificate(tmp_path / "other")
    with pytest.raises(SettingError, match=r"tls\.crt and the key .* can't be used: .*mismatch"):
        Certificate(chain, other).context()
    with pytest.raises(SettingError, match="no such file"):
        Certificate(tmp_path / "none", key).context()
    with pytest.raises(SettingError, match="both must be PEM"):
        Certificate(key, chain).context()


def test_a_key_with_a_passphrase_is_refused_without_a_prompt(tmp_path: Path) -> None:
    chain, key = make_certificate(tmp_path)
    locked = tmp_path / "locked.key"
    words = [
        "openssl",
        "ec",
        "-in",
        str(key),
        "-out",
        str(locked),
        "-aes256",
        "-passout",
        "pass:secret",
    ]
    subprocess.run(words, check=True, capture_output=True, timeout=60)
    with pytest.raises(SettingError, match="need no passphrase"):
        Certificate(chain, locked).context()


async def test_half_of_a_renewed_pair_leaves_the_old_one_in_use(tmp_path: Path) -> None:
    chain, key = make_certificate(tmp_path, "old.example")
    context, (watch,) = certificate(chain, key)
    trusted = ssl.create_default_context(cafile=chain)
    trusted.check_hostname = False
    newer, _ = make_certificate(tmp_path / "newer", "new.example")
    chain.write_bytes(newer.read_bytes())
    with pytest.raises(SettingError, match="mismatch"):
        watch._read()
    listener = Listener(APP, bind("127.0.0.1", 0), context)
    async with serving([listener], stop_timeout_s=1):
        assert await connect(listener.socket.getsockname()[1], trusted) == "old.example"


async def test_every_handshake_during_renewals_meets_one_whole_pair(tmp_path: Path) -> None:
    names = ("one.example", "two.example")
    pairs = [Certificate(*make_certificate(tmp_path / name, name)) for name in names]
    renewable = Renewable(pairs[0])
    trusted = ssl.create_default_context(cafile=pairs[0].chain)
    trusted.load_verify_locations(pairs[1].chain)
    trusted.check_hostname = False
    listener = Listener(APP, bind("127.0.0.1", 0), renewable.listening)
    port = listener.socket.getsockname()[1]

    async def renew() -> None:
        while True:
            for pair in pairs:
                renewable.replace(await asyncio.to_thread(pair.context))
                await asyncio.sleep(0.001)

    async with serving([listener], stop_timeout_s=1), running(renew()):
        met = [
            name
            for _ in range(30)
            for name in await asyncio.gather(*(connect(port, trusted) for _ in range(8)))
        ]
    assert set(met) == set(names)
