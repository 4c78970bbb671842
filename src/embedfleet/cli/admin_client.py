"""HTTP client of the command line for a gateway's admin address.

The API key is sent only to the address that the operator named: proxies are not used and redirects
are not followed, as either would hand the key to another host.
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

from embedfleet.cli import flags
from embedfleet.runtime.settings import AdminSettings
from embedfleet.runtime.settings.addresses import Place
from embedfleet.runtime.text_files import read_key, reason
from embedfleet.vocabulary import SetupError

DEFAULT = AdminSettings()

NOTHING_SCALED = (
    "no pool is autoscaled there; enable it with `serve --min-replicas N --max-replicas M`"
)

TIMEOUT_S = 10.0
"""Enough for anything that is not computed first."""

Admin = Annotated[
    str | None,
    typer.Option(
        "--admin",
        metavar="URL",
        help="The gateway's admin address, or its port on this machine; by default where a gateway "
        "that is started here, with these settings, has it.",
    ),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key-file", metavar="FILE", help="File that holds the API key for that address."
    ),
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
    url = admin.rstrip("/") + path
    if not url.startswith(("http://", "https://")):
        raise SetupError(f'--admin: "{admin}" is not an address such as {of_settings(DEFAULT)}')
    sent_headers = {"content-type": "application/json"} | dict(headers or {})
    if key_file is not None:
        sent_headers["authorization"] = f"Bearer {read_key(key_file, 'the key file')}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects())
    try:
        request = urllib.request.Request(url, body, sent_headers)  # noqa: S310  checked above
        with opener.open(request, timeout=timeout_s) as answer:
            return Answer(json.load(answer), answer.headers)
    except urllib.error.HTTPError as error:
        raise SetupError(f"{url}: {_refusal(error)}") from error
    except (OSError, ValueError, OverflowError, HTTPException) as error:
        raise SetupError(
            f"no gateway answers at {url}: {_trouble(error)}; --admin says where it is"
        ) from error


def reached(
    admin: str | None, key_file: Path | None, config: Path | None
) -> tuple[str, Path | None]:
    """The address and the key file for a command: as they were given, else by the settings.

    The settings' own key goes to the settings' own address alone. Raises SettingError.
    """
    if admin is not None:
        return address(admin), key_file
    chosen = flags.around(config).admin
    return of_settings(chosen), key_file or chosen.key_file


def address(admin: str) -> str:
    """An admin address as people give it: a URL, or a port of this machine."""
    return f"http://127.0.0.1:{admin}" if admin.isdigit() else admin


def of_settings(admin: AdminSettings) -> str:
    """Where a gateway with these settings is asked from its own machine."""
    scheme = "http" if admin.tls_certificate is None else "https"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(admin.host, admin.host)  # noqa: S104
    # An automatic port is unknown here: the gateway that runs chose it.
    return f"{scheme}://{Place(host, admin.port or DEFAULT.port or 0)}"


def _trouble(error: Exception) -> str:
    """What kept an answer from coming, in the system's words where it has some."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return reason(cause) if isinstance(cause, OSError) else str(cause)


def _refusal(error: urllib.error.HTTPError) -> str:
    """The gateway's own words, where it has some."""
    with error:
        if 300 <= error.code < 400:
            return f"status {error.code}, and no redirect is followed; --admin says where it is"
        try:
            told = json.load(error)["error"]
            if told.get("code") == "unknown_url":
                return (
                    "there is no such path: it is the address for clients, or a gateway of another "
                    "release; --admin says where the admin address is"
                )
            return str(told["message"])
        except (OSError, ValueError, LookupError, TypeError, AttributeError, HTTPException):
            return f"status {error.code}"
