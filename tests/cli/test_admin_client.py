"""Where an operator's key goes: to the address that was named, and nowhere else."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from embedfleet.cli.admin_client import address, ask, reached
from embedfleet.vocabulary import SetupError


class Server(ThreadingHTTPServer):
    """Answers everything with one status, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.status = 200
        self.body = b'{"pools": []}'
        self.location = ""
        self.asked: list[tuple[str, str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answering(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.asked.append((self.command, self.path, self.headers["authorization"]))
        self.send_response(self.server.status)
        self.send_header("content-length", str(len(self.server.body)))
        if self.server.location:
            self.send_header("location", self.server.location)
        self.end_headers()
        self.wfile.write(self.server.body)

    do_POST = do_GET  # noqa: N815  the library's names

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    with Server() as one, Server() as other:
        threads = [
            threading.Thread(target=each.serve_forever, kwargs={"poll_interval": 0.01})
            for each in (one, other)
        ]
        for thread in threads:
            thread.start()
        yield one, other
        for server, thread in zip((one, other), threads, strict=True):
            server.shutdown()
            thread.join()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    file.write_text("secret\n")
    return file


@pytest.mark.parametrize("body", [None, b"{}"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_an_operators_key_follows_no_redirect(
    servers: tuple[Server, Server], key_file: Path, status: int, body: bytes | None
) -> None:
    """Who answers there may not be who was meant."""
    gateway, elsewhere = servers
    gateway.status, gateway.location = status, f"{elsewhere.url}/cache"
    with pytest.raises(SetupError, match=f"status {status}, and no redirect is followed"):
        ask(gateway.url, "/cache", key_file, body)
    assert [key for _, _, key in gateway.asked] == ["Bearer secret"]
    assert elsewhere.asked == []


def test_an_operators_key_goes_through_no_proxy(
    servers: tuple[Server, Server], key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment's proxy would be handed the key of an address on this machine."""
    gateway, proxy = servers
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, proxy.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert ask(gateway.url, "/cache", key_file).body == {"pools": []}
    assert gateway.asked == [("GET", "/cache", "Bearer secret")]
    assert proxy.asked == []


@pytest.mark.parametrize("text", ["", "one\ntwo", "schlüssel"])
def test_a_file_that_holds_no_key_is_refused_without_showing_it(
    servers: tuple[Server, Server], key_file: Path, text: str
) -> None:
    key_file.write_text(text, encoding="utf-8")
    with pytest.raises(SetupError, match="must hold a key in one line") as refused:
        ask(servers[0].url, "/cache", key_file)
    assert not text or text not in str(refused.value)
    assert servers[0].asked == []


def test_an_answer_that_is_no_http_is_no_gateway(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def babble() -> None:
            with listening.accept()[0] as connection:
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-something\r\n")

        thread = threading.Thread(target=babble)
        thread.start()
        with pytest.raises(SetupError, match="no gateway answers at"):
            ask(f"http://127.0.0.1:{listening.getsockname()[1]}", "/cache")
        thread.join()


def test_the_address_for_clients_is_distinguished_from_the_admin_address(
    servers: tuple[Server, Server],
) -> None:
    gateway, _ = servers
    gateway.status = 404
    gateway.body = b'{"error":{"code":"unknown_url","message":"it serves a, b, c, d"}}'
    with pytest.raises(SetupError, match="--admin says where the admin address is") as refused:
        ask(gateway.url, "/fleet")
    assert "it serves a" not in str(refused.value)


def test_an_admin_address_may_be_a_port_of_this_machine() -> None:
    assert address("8091") == "http://127.0.0.1:8091"
    assert address("https://a.example:1/") == "https://a.example:1/"


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ("", "http://127.0.0.1:8081"),
        ("port = 9100", "http://127.0.0.1:9100"),
        ("port = 0", "http://127.0.0.1:8081"),
        ('port = "off"', "http://127.0.0.1:8081"),
        ('host = "10.0.0.7"\nopen = true', "http://10.0.0.7:8081"),
        ('host = "0.0.0.0"\nopen = true', "http://127.0.0.1:8081"),
        ('host = "::"\nopen = true', "http://[::1]:8081"),
        ('tls_certificate = "a"\ntls_key = "b"', "https://127.0.0.1:8081"),
    ],
)
def test_commands_ask_where_the_settings_have_the_admin_address(
    tmp_path: Path, settings: str, url: str
) -> None:
    config = tmp_path / "embedfleet.toml"
    config.write_text(f"[admin]\n{settings}\n")
    assert reached(None, None, config) == (url, None)


def test_the_key_of_the_settings_goes_to_their_own_address_alone(tmp_path: Path) -> None:
    config, key, other = (tmp_path / name for name in ("embedfleet.toml", "key", "other"))
    config.write_text(f'[admin]\nkey_file = "{key}"\n')
    assert reached(None, None, config)[1] == key
    assert reached(None, other, config)[1] == other
    assert reached("http://elsewhere.example:8081", None, config)[1] is None


def test_the_environment_names_the_admin_address_for_commands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EMBEDFLEET_ADMIN_PORT", "9101")
    assert reached(None, None, None) == ("http://127.0.0.1:9101", None)
