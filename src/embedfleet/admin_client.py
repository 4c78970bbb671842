"""How commands ask a running gateway at its admin address.

Decides what goes there, above all where a key goes: to the address that the operator named, through
no proxy, and not to where that address sends on. Refuses to know what is asked.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Annotated, Any

import typer

from embedfleet.vocabulary import SetupError

ADMIN = "http://127.0.0.1:8081"
"""Where a gateway's admin address is unless the settings say otherwise."""

TIMEOUT_S = 10.0
"""Enough for anything that is not computed first."""

Admin = Annotated[
    str,
    typer.Option(
        "--admin",
        metavar="URL",
        envvar="EMBEDFLEET_ADMIN_PORT",
        show_envvar=False,
        help="The gateway's admin address, or its port on this machine; by default that of "
        "EMBEDFLEET_ADMIN_PORT, as a gateway started here would take it.",
    ),
]
KeyFile = Annotated[
    Path | None,
    typer.Option("--key-file", metavar="FILE", help="File with the key that the address asks for."),
]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a gateway answered."""

    body: Any
    headers: Mapping[str, str]


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Redirects are errors like others: the library would take the key along."""

    def redirect_request(self, *_: Any, **__: Any) -> None: ...


def ask(
    admin: str,
    path: str,
    key_file: Path | None = None,
    body: bytes | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Answer:
    """Ask for JSON: GET, or POST with a body of JSON. Raises SetupError that says what is wrong."""
    url = address(admin).rstrip("/") + path
    if not url.startswith(("http://", "https://")):
        raise SetupError(f'--admin: "{admin}" is no address such as {ADMIN}')
    told = {"content-type": "application/json"} | dict(headers or {})
    if key_file is not None:
        told["authorization"] = f"Bearer {_key(key_file)}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects())
    try:
        request = urllib.request.Request(url, body, told)  # noqa: S310  checked above
        with opener.open(request, timeout=timeout_s) as answer:
            return Answer(json.load(answer), answer.headers)
    except urllib.error.HTTPError as error:
        raise SetupError(f"{url}: {_refusal(error)}") from error
    except (OSError, ValueError, HTTPException) as error:
        raise SetupError(
            f"no gateway answers at {url}: {error}; --admin says where it is"
        ) from error


def address(admin: str) -> str:
    """An admin address as people give it: a URL, or a port of this machine."""
    if admin in {"0", "off"}:
        return ADMIN  # what a gateway that is started would do; the one that runs may be another
    return f"http://127.0.0.1:{admin}" if admin.isdigit() else admin


def _refusal(error: urllib.error.HTTPError) -> str:
    """The gateway's own words, where it has some."""
    with error:
        if 300 <= error.code < 400:
            return f"status {error.code}, and no redirect is followed; --admin says where it is"
        try:
            return str(json.load(error)["error"]["message"])
        except (OSError, ValueError, LookupError, TypeError, HTTPException):
            return f"status {error.code}"


def _key(file: Path) -> str:
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"the key file {file} can't be read: {error}") from error
    if not key or not key.isascii() or not key.isprintable():
        raise SetupError(f"the key file {file} holds no key of one line")
    return key
