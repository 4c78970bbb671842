"""Settings of a gateway towards its clients: addresses, limits and timeouts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from embedfleet.runtime.settings.rules import DISTANT_S, count, duration, setting


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """The address that clients talk to, and what one request may ask for."""

    host: str = setting("127.0.0.1", flag="--host")
    """Address to listen on. Loopback by default: nobody else's machine can reach a service that
    was started to try it out; `0.0.0.0` opens it to the network, `::` over IPv6 as well. Several
    have commas between, all with the one port: `127.0.0.1,10.0.0.7`. `unix:/run/embedfleet.sock`
    is a Unix socket, for its user and group (mode 0660)."""
    port: int = setting(8080, at_least=0, at_most=65_535, flag="--port")
    """TCP port; 0 takes any free one."""
    workers: int | None = setting(None, none="auto", at_least=1, at_most=64)
    """Processes that answer at this address, over one fleet. `auto`: a third of the processors that
    this process may use, at most 8; 1 where replicas of this machine compute on its processors. The
    bounds on connections, bytes, tokens and memory are divided among them."""
    max_body_bytes: int = count(64 * 2**20)
    """Largest request body, in bytes. Holds 2,048 texts of 32 kB; a larger one is answered 413
    before it is read."""
    max_texts: int = count(2048)
    """Most texts in one request; the limit that OpenAI's own service has."""
    blank_texts: Literal["embed", "refuse"] = "embed"
    """What becomes of texts of white space alone: they are embedded, as OpenAI does, or refused.
    Empty texts are refused always."""
    unknown_fields: Literal["ignore", "refuse"] = "ignore"
    """What becomes of fields of a request that mean nothing here: they are ignored and told in the
    header `x-embedfleet-ignored`, or the request is refused. Fields that would change vectors are
    honoured or refused always."""
    input_ids: Literal["check", "accept", "refuse"] = "check"
    """What becomes of token ids in the place of texts. `check` refuses those that another tokenizer
    has made, as LangChain sends them by default: they are numbers of the vocabulary, and their
    vectors mean nothing. `accept` takes any, `refuse` none."""
    on_error: Literal["request", "item"] = "request"
    """What a text that is wrong does to the others of its request: `request` refuses all of them,
    `item` answers those that are right, with an error in the place of each that is not. A request
    may say otherwise (`on_error`, `x-embedfleet-on-error`)."""
    request_timeout_s: float = duration(600.0)
    """Seconds that a request may take when it names no deadline of its own: OpenAI's client waits
    as long."""
    max_queued_tokens: int = count(2**24)
    """Most tokens that wait or run at once; beyond it requests are answered 429. 16.8 million
    tokens are one largest body at four bytes per token, and 64 MiB as token ids."""
    max_queued_bytes: int = count(256 * 2**20)
    """Most bytes of request bodies held at once, counted while they come; beyond it requests are
    answered 429. Four largest bodies, of which one key, or one address without keys, may hold
    three while nobody else holds any: three times what it leaves free."""
    trusted_proxies: tuple[str, ...] = ()
    """Networks of proxies in front, for instance `10.0.0.0/8`. Only what they say of a client's
    address (X-Forwarded-For, X-Real-IP) is believed; by default nobody's word is. `unix` are those
    that ask through a Unix socket."""
    drain_delay_s: float = setting(0.0, at_least=0.0, at_most=DISTANT_S)
    """Seconds that a stop goes on as before but says that it is not ready (`/health/ready` answers
    503), before it closes its addresses: as long as what is in front needs to notice. Kubernetes'
    manifests here pause by themselves; behind other balancers, interval times failures of the
    health check. A second signal skips it."""
    drain_timeout_s: float = duration(30.0)
    """Seconds that a stop waits for requests in flight; Kubernetes' own grace period."""
    max_connections: int = count(8192)
    """Most connections of clients at once; beyond it a new one is answered 503. Each takes a file
    descriptor (see `ulimit -n`) and, at rest, about 10 kB."""
    max_header_bytes: int = count(64 * 2**10)
    """Largest request line with headers, in bytes; more, or over 100 headers, is answered 431. What
    proxies add for single sign-on needs some kB, and 32 kB is the most that nginx takes."""
    header_timeout_s: float = duration(10.0)
    """Seconds until a request's headers must be whole, from their first byte; later it is answered
    408. They fit in a packet or two: whoever needs longer holds a connection for nothing. A
    handshake of TLS has as long."""
    body_timeout_s: float = duration(30.0)
    """Seconds until a request's body must be whole, and one more for every 1,000 bytes of it that
    came; no pause in it may be longer either. Later it is answered 408. So slow lines are served,
    and drips are not."""
    idle_timeout_s: float = duration(75.0)
    """Seconds that a connection may rest between two requests. Longer than the 60 s after which
    nginx and common clients let go of theirs, so that they are the ones who do; behind a balancer
    that keeps connections for longer (Google's and Envoy's: 600 s, Go's client: 90 s) give more
    than it does, or a request now and then meets a connection that closes."""
    send_timeout_s: float = duration(30.0)
    """Seconds over which a client must take its answer at `gateway.min_answer_rate`; one that takes
    less loses its connection."""
    min_answer_rate: int = count(1000)
    """Bytes a second at which an answer must be taken, over `gateway.send_timeout_s`: a byte now
    and then holds no answer in memory."""
    max_answer_bytes: int = count(256 * 2**20)
    """Most bytes of answers above 256 KiB that wait for their clients at once. Where there is no
    room, clients that take theirs slowest are cut off, and where none is slow, an answer becomes a
    503. One address may have half of it. As much as bodies may be."""
    compress_from_bytes: int | None = count(32 * 2**10, none="off")
    """Answers of so many bytes are compressed (gzip) for clients that say that they take it
    (`accept-encoding`), to a bit less than half their size; smaller ones are not, since they travel
    in one piece or two, nor are vectors as base64, of which three quarters would be left. Pays on
    lines of less than a gigabit a second; `off` compresses none."""
    tokenizer_threads: int = count(2, at_most=256)
    """Threads that turn texts into tokens. Two, so that one very long text does not hold up the
    short ones."""
    tls_certificate: Path | None = setting(None, none="none", guards=True)
    """File of the certificate chain (PEM) to answer HTTPS with, TLS 1.2 at least; none answers
    plain HTTP. Read again when it changes."""
    tls_key: Path | None = setting(None, none="none", guards=True)
    """File of its private key (PEM, without a passphrase)."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may ask from a browser, as the browser writes them: `https://example.org`,
    `app://obsidian.md`, `null`; `https://*.example.org` is every host below, `*` every origin.
    None by default: a key in a web page is everybody's key."""
    playground: bool = True
    """Answer browsers at `/` with a page on which texts are tried, and at `/docs` with one that
    shows the API. They ask the API as any client does, with a key where keys are asked for."""
