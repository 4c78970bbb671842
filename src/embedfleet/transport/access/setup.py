"""Builds access control from settings, with the watchers that reload its files.

Reads the keys and certificate files and returns the key rings and TLS contexts made of them; a
certificate is replaced while the process runs.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from embedfleet.runtime.text_files import read_text
from embedfleet.transport.access.access import Access, OpenAccess
from embedfleet.transport.access.key_file import load
from embedfleet.transport.access.keyring import KeyRing
from embedfleet.transport.access.ledger import Ledger
from embedfleet.transport.access.records import KeyRecord, plain
from embedfleet.transport.access.watching import Watch
from embedfleet.vocabulary import SettingError


@dataclass(frozen=True, slots=True)
class Certificate:
    """Where a certificate chain and its key are (PEM)."""

    chain: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """The pair as the files hold it now. Raises SettingError where they are no pair."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            # An empty passphrase: OpenSSL would ask for one on the terminal and wait.
            context.load_cert_chain(self.chain, self.key, password="")
        except (OSError, ssl.SSLError) as error:
            told = error.reason if isinstance(error, ssl.SSLError) else error.strerror
            told = (told or str(error)).replace("_", " ").lower()
            raise SettingError(
                f"the certificate {self.chain} and the key {self.key} can't be used: "
                f"{told}; both must be PEM, belong together, and need no passphrase"
            ) from error
        return context


class Renewable:
    """A listener's context whose handshakes use the newest pair.

    OpenSSL replaces a certificate and its key in a context one after the other, so a context that
    is in use is never loaded again: each handshake is given a whole one at its start, with or
    without a server name from the client.
    """

    def __init__(self, pair: Certificate) -> None:
        """Raises SettingError."""
        self.listening = pair.context()
        self._current = self.listening
        self.listening.sni_callback = self._choose

    def replace(self, context: ssl.SSLContext) -> None:
        """Let handshakes from now on use this one; those under way keep theirs."""
        self._current = context

    def _choose(
        self, connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _: ssl.SSLContext
    ) -> None:
        connection.context = self._current


def callers(
    keys_file: Path | None,
    given: Sequence[str] | None,
    first_name: Callable[[str], str] = str,
    ledger: Ledger | None = None,
) -> tuple[Access, list[Watch]]:
    """Access to a gateway by the keys of a file and those given; without either for anyone.

    `given` is None where no keys were given; none at all among them is refused, because whoever
    set the variable meant to shut the door. Raises KeyFileError and SettingError.
    """
    if keys_file is None and given is None:
        return OpenAccess(), []
    if given is not None and not given:
        raise SettingError(
            "EMBEDFLEET_API_KEYS is set but holds no key: give keys separated by commas, or "
            "unset it to disable authentication"
        )
    fixed = plain(
        given or (), datetime.now(UTC), "Environment", source="--api-key or EMBEDFLEET_API_KEYS"
    )
    if keys_file is None:
        return KeyRing(fixed, first_name=first_name, ledger=ledger), []
    return _following(keys_file, lambda: (*fixed, *load(keys_file)), first_name, ledger)


def one_key(file: Path | None, setting: str) -> tuple[Access, list[Watch]]:
    """Access by the one key in a file; open access without a file. Raises SettingError."""
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
    text = read_text(file, f"{setting}:", SettingError).strip()
    return plain([text], datetime.now(UTC), setting)
