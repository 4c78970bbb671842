"""HTTPS: a certificate, its key, and newer ones while the process runs.

Decides the least that is spoken: TLS 1.2, with OpenSSL's own choice of ciphers. Refuses to know who
listens.
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
        """What a listener answers with. Raises SettingError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        self.load(context)
        return context

    def load(self, context: ssl.SSLContext) -> None:
        """Let new connections meet the files as they are now. Raises SettingError.

        Try them with a context of their own first: half of a pair would leave this one without a
        usable key.
        """
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
