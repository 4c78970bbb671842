"""Settings of a gateway towards its clients: addresses, limits and timeouts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from embedfleet.runtime.settings.rules import DISTANT_S, count, duration, setting


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """The client address, and limits on requests."""

    host: str = setting("127.0.0.1", flag="--host")
    """Addresses to listen on, separated by commas: `127.0.0.1,10.0.0.7`; they share the port.
    Loopback by default, so that a service started for a trial is not exposed; `0.0.0.0` opens it to
    the network, `::` over IPv6 as well. `unix:/run/embedfleet.sock` is a Unix socket, for its user
    and group (mode 0660)."""
    port: int = setting(8080, at_least=0, at_most=65_535, flag="--port")
    """TCP port; 0 takes any free one."""
    workers: int | None = setting(None, none="auto", at_least=1, at_most=64)
    """Processes that serve this address, over one fleet. `auto`: a third of the processors that
    this process may use, at most 8; 1 if local replicas compute on the CPU. The bounds on
    connections, bytes, tokens and memory are divided among them."""
    max_body_bytes: int = count(64 * 2**20)
    """Largest request body, in bytes. Holds 2,048 texts of 32 kB; a larger one is answered 413
    before it is read."""
    max_texts: int = count(2048)
    """Most texts in one request; OpenAI's own limit."""
    blank_texts: Literal["embed", "refuse"] = "embed"
    """Whether texts of only white space are embedded, as by OpenAI, or refused. Empty texts are
    always refused."""
    unknown_fields: Literal["ignore", "refuse"] = "ignore"
    """Whether unknown fields of a request are ignored and listed in the header
    `x-embedfleet-ignored`, or the request is refused. Fields that would change vectors are always
    honoured or refused."""
    input_ids: Literal["check", "accept", "refuse"] = "check"
    """Whether token ids are accepted in place of texts. `check` refuses those of another tokenizer,
    which LangChain sends by default: they are within the vocabulary, but their vectors are
    meaningless. `accept` takes any, `refuse` none."""
    on_error: Literal["request", "item"] = "request"
    """What happens if a text of a request is invalid: `request` refuses the request, `item` answers
    the valid texts, with an error in place of each invalid one. A request may override it
    (`on_error`, `x-embedfleet-on-error`)."""
    request_timeout_s: float = duration(600.0)
    """Seconds that a request may take unless it sets a deadline; the timeout of OpenAI's client."""
    max_queued_tokens: int = count(2**24)
    """Most tokens queued or running at once; beyond it requests are answered 429. 16.8 million
    tokens are one largest body at four bytes per token, and 64 MiB as token ids."""
    max_queued_bytes: int = count(256 * 2**20)
    """Most bytes of request bodies held at once, counted as they arrive; beyond it requests are
    answered 429. Four largest bodies by default. One key (or address, without keys) may hold at
    most three times what it leaves free: three quarters if alone."""
    trusted_proxies: tuple[str, ...] = ()
    """Networks of trusted proxies, for instance `10.0.0.0/8`: their X-Forwarded-For and X-Real-IP
    headers determine a client's address. None by default. `unix` stands for clients of a Unix
    socket."""
    drain_delay_s: float = setting(0.0, at_least=0.0, at_most=DISTANT_S)
    """Seconds at a stop during which the gateway serves on but is not ready (`/health/ready`
    answers 503), so that a load balancer can take it out: the interval times the failures of its
    health check. The Kubernetes manifests have their own pause. A second signal skips it."""
    drain_timeout_s: float = duration(30.0)
    """Seconds to wait for requests in flight at a stop; Kubernetes' default grace period."""
    max_connections: int = count(8192)
    """Most client connections at once; a further one is answered 503. Each takes a file descriptor
    (see `ulimit -n`) and, when idle, about 10 kB."""
    max_header_bytes: int = count(64 * 2**10)
    """Largest request line with headers, in bytes; more, or over 100 headers, is answered 431.
    Headers of single sign-on need some kB; nginx accepts at most 32 kB."""
    header_timeout_s: float = duration(10.0)
    """Seconds from the first byte of a request until its headers must be complete; later it is
    answered 408. Also bounds a TLS handshake."""
    body_timeout_s: float = duration(30.0)
    """Seconds until a request's body must be complete, plus one for every 1,000 bytes received;
    also the longest pause within it. Later it is answered 408. Slow lines are served, slow-loris
    clients are not."""
    idle_timeout_s: float = duration(75.0)
    """Seconds that a connection may be idle between two requests. Longer than the 60 s after which
    nginx and common clients close theirs; behind a load balancer that keeps connections for longer
    (Google's and Envoy's: 600 s, Go's client: 90 s) it must exceed that, or some requests meet a
    connection that is being closed."""
    send_timeout_s: float = duration(30.0)
    """Seconds over which `gateway.min_answer_rate` is measured; a client that reads its answer more
    slowly is disconnected."""
    min_answer_rate: int = count(1000)
    """Bytes per second at which a client must read its answer, over `gateway.send_timeout_s`, so
    that a slow reader does not hold an answer in memory."""
    max_answer_bytes: int = count(256 * 2**20)
    """Most bytes of answers above 256 KiB that wait for their clients at once. Beyond it the
    slowest readers are disconnected, and if none is slow, the answer becomes a 503. One address may
    have half of it. As much as request bodies by default."""
    compress_from_bytes: int | None = count(32 * 2**10, none="off")
    """Smallest answer to compress (gzip), in bytes, for clients that accept it (`accept-encoding`).
    JSON numbers shrink to a bit less than half; base64 vectors, which would keep three quarters,
    are not compressed. Pays on links below a gigabit per second; `off` disables it."""
    tokenizer_threads: int = count(2, at_most=256)
    """Tokenizer threads. Two, so that one very long text does not hold up the short ones."""
    tls_certificate: Path | None = setting(None, none="none", guards=True)
    """File of the certificate chain (PEM) for HTTPS, TLS 1.2 or newer; none means plain HTTP.
    Reloaded when it changes."""
    tls_key: Path | None = setting(None, none="none", guards=True)
    """File of its private key (PEM, without a passphrase)."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may send requests from a browser (CORS), as the browser writes them:
    `https://example.org`, `app://obsidian.md`, `null`; `https://*.example.org` is every subdomain,
    `*` every origin. None by default: a key in a web page is public."""
    playground: bool = True
    """Serve a playground at `/` and the API reference at `/docs` to browsers. These pages use the
    API like any client, with a key if keys are required."""
