"""Builds access control from settings, with the watchers that reload its files.

Reads the keys and certificate files and returns the key rings and TLS contexts made of them.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from embedfleet.transport.access.access import Access, OpenAccess
from embedfleet.transport.access.key_file import load
from embedfleet.transport.access.keyring import KeyRing
from embedfleet.transport.access.ledger import Ledger
from embedfleet.transport.access.records import KeyRecord, plain
from embedfleet.transport.access.tls import Certificate, Renewable
from embedfleet.transport.access.watching import Watch
from embedfleet.vocabulary import SettingError


def callers(
    keys_file: Path | None,
    given: Sequence[str] | None,
    first_name: Callable[[str], str] = str,
    ledger: Ledger | None = None,
) -> tuple[Access, list[Watch]]:
    """Who may use a gateway: the keys of a file and those given as they are; else everybody.

    `given` is None where no keys were given; none at all among them is refused, because whoever
    set the variable meant to shut the door. Raises KeyFileError and SettingError.
    """
    if keys_file is None and given is None:
        return OpenAccess(), []
    if given is not None and not given:
        raise SettingError(
            "EMBEDFLEET_API_KEYS is set and holds no key: give some, separated by commas, or unset "
            "it to let everybody ask"
        )
    fixed = plain(given or (), datetime.now(UTC), "Environment")
    if keys_file is None:
        return KeyRing(fixed, first_name=first_name, ledger=ledger), []
    return _following(keys_file, lambda: (*fixed, *load(keys_file)), first_name, ledger)


def one_key(file: Path | None, setting: str) -> tuple[Access, list[Watch]]:
    """Whoever brings the key in a file; without a file everybody. Raises SettingError."""
    if file is None:
        return OpenAccess(), []
    return _following(file, lambda: _only(file, setting))


def certificate(chain: Path | None, key: Path | None) -> tuple[ssl.SSLContext | None, list[Watch]]:
    """What a listener answers HTTPS with; None where it answers HTTP. Raises SettingError."""
    if chain is None or key is None:
        return None, []
    pair = Certificate(chain, key)

    def read() -> Callable[[], None]:
        renewed = pair.context()  # a pair that can't be used is found out here
        return lambda: renewable.replace(renewed)

    watch = Watch([chain, key], read)
    renewable = Renewable(pair)
    return renewable.listening, [watch]


def _following(
    file: Path,
    read: Callable[[], Iterable[KeyRecord]],
    first_name: Callable[[str], str] = str,
    ledger: Ledger | None = None,
) -> tuple[Access, list[Watch]]:
    def renew() -> Callable[[], None]:
        records = tuple(read())
        return lambda: ring.replace(records)

    watch = Watch([file], renew)
    ring = KeyRing(read(), first_name=first_name, ledger=ledger)
    return ring, [watch]


def _only(file: Path, setting: str) -> tuple[KeyRecord, ...]:
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"{setting}: {file} can't be read: {error}") from error
    return plain([text], datetime.now(UTC), setting)
