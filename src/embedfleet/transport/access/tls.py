"""TLS server contexts whose certificate is replaced while the process runs.

TLS 1.2 is the minimum version; ciphers are OpenSSL's default.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

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
