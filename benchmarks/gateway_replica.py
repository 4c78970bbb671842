"""An emulated GPU replica: real sockets, real formats, computing replaced by waiting.

Speaks embedfleet's wire and OpenAI's route, so that any gateway can stand in front of it. Batches
are formed by a token budget, in order of arrival; a batch takes as long as one took on an
NVIDIA H200 (`SECONDS_PER_…` below). Vectors are prepared ahead as bytes, so that a replica costs
little of the processor that it shares with what is measured.

    python benchmarks/gateway_replica.py --model DIR [--port 9001] [--width 1024] [--speed 1]

`--speed 0` computes nothing at all: answers at once. A line on standard output says where it
listens. Killing it is how it fails.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import httptools
import msgspec
import numpy as np
import orjson
import pybase64
import uvloop

from embedfleet.models.description import describe
from embedfleet.transport import frames
from embedfleet.transport.description import ReplicaDescription, encode_description
from embedfleet.vocabulary import EmbedfleetError, Lane, Precision

LEAST_BATCH_S = 0.0276
SECONDS_PER_TOKEN = 1 / 69_000
SECONDS_PER_SQUARED_TOKEN = 8.1e-10
"""Qwen3-Embedding-4B geometry in bf16 on one NVIDIA H200, measured on 2026-11-22 with a plain
packed pass: 32×16 tokens 27.6 ms (bound by launches), 256×32 119 ms, 64×512 480 ms, 16×2,048
518 ms, 2×8,192 346 ms, 1×32,768 1,343 ms. These three numbers give each of them within 5 %."""

DIFFERENT = 1024
"""Vectors that are prepared, one after the other for each text."""

BATCH_TOKENS = 8192
"""Such a batch takes 120 ms: an engine is at its full speed from about 2,000 tokens on, and larger
batches only make the next one wait."""


def batch_seconds(lengths: list[int]) -> float:
    """How long the GPU takes for one batch of texts with these token counts."""
    linear = SECONDS_PER_TOKEN * sum(lengths)
    attention = SECONDS_PER_SQUARED_TOKEN * sum(length * length for length in lengths)
    return max(LEAST_BATCH_S, linear + attention)


@dataclass(slots=True, eq=False)
class Waiting:
    """A text that waits for its batch."""

    tokens: int
    lane: Lane
    answer: Answer
    id: int


@dataclass(slots=True, eq=False)
class Answer:
    """What one HTTP request is still owed."""

    deliver: Callable[[Answer, list[int], float], None]
    """Called with the ids that a batch computed, and its seconds."""
    missing: int
    echoes: dict[int, int] = field(default_factory=dict)
    """By id, on embedfleet's wire."""


def _batch(waiting: list[Waiting], *, lanes: bool) -> tuple[list[Waiting], list[Waiting]]:
    """The texts of the next batch, at least one, and the rest.

    As SGLang, vLLM and TEI do it: in order of arrival, up to the first text that does not fit. With
    lanes as embedfleet does it: interactive texts first, and what does not fit is looked past.
    """
    ordered = sorted(waiting, key=lambda one: one.lane is Lane.BULK) if lanes else waiting
    chosen: list[Waiting] = []
    rest: list[Waiting] = []
    room = BATCH_TOKENS
    for at, text in enumerate(ordered):
        if not chosen or text.tokens <= room:
            chosen.append(text)
            room -= text.tokens
        elif lanes:
            rest.append(text)
        else:
            rest = ordered[at:]
            break
    return chosen, rest


class Emulation:
    """One engine: texts wait, run in batches one after the other, and are delivered."""

    def __init__(self, speed: float, *, lanes: bool) -> None:
        self._speed = speed
        self._lanes = lanes
        self._waiting: list[Waiting] = []
        self._free_at = 0.0
        self._computing = False
        self.tokens = 0

    def submit(self, texts: list[Waiting]) -> None:
        if not self._speed:
            self._deliver(texts, 0.0)
            return
        self._waiting += texts
        if not self._computing:
            self._computing = True
            # One tick later, so that requests which arrived together share the batch.
            asyncio.get_running_loop().call_soon(self._start)

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        batch, self._waiting = _batch(self._waiting, lanes=self._lanes)
        seconds = batch_seconds([text.tokens for text in batch]) / self._speed
        # From the end of the one before: an engine loses no time to the timers of this process.
        now = loop.time()
        self._free_at = (self._free_at if now - self._free_at < 0.02 else now) + seconds
        loop.call_at(self._free_at, self._finish, batch, seconds)

    def _finish(self, batch: list[Waiting], seconds: float) -> None:
        if self._waiting:
            self._start()
        else:
            self._computing = False
        self._deliver(batch, seconds)

    def _deliver(self, batch: list[Waiting], seconds: float) -> None:
        parts: dict[int, tuple[Answer, list[int]]] = {}
        for text in batch:
            self.tokens += text.tokens
            parts.setdefault(id(text.answer), (text.answer, []))[1].append(text.id)
        for answer, ids in parts.values():
            answer.missing -= len(ids)
            answer.deliver(answer, ids, seconds)


class _Body(msgspec.Struct, gc=False):
    input: str | list[str | int | list[int]]
    encoding_format: str | None = None


_body_decoder = msgspec.json.Decoder(_Body)


def _token_counts(given: Any) -> list[int]:
    """Tokens of each text; those of strings are estimated."""
    if isinstance(given, str) or not isinstance(given[0], str | list):
        given = [given]
    return [max(1, len(text) // 4) if isinstance(text, str) else len(text) for text in given]


class Site:
    """What all connections share: the engine and the prepared answers."""

    def __init__(self, model: Path, *, speed: float, width: int, lanes: bool) -> None:
        self.engine = Emulation(speed, lanes=lanes)
        self.model = model
        self.lanes = lanes
        rng = np.random.default_rng(0)
        vector = rng.standard_normal(width, np.float32)
        vector /= np.linalg.norm(vector)
        # Different texts have different vectors, or a gateway takes the engine for a broken one.
        rows = [np.roll(vector, at) for at in range(min(width, DIFFERENT))]
        self._rows = [row.astype("<f4").tobytes() for row in rows]
        self._written = {
            "base64": [b'"' + pybase64.b64encode(row) + b'"' for row in self._rows],
            "float": [orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY) for row in rows],
        }
        self._at = 0
        identity = describe(model).identity
        fast = speed or 1e3
        self.description = encode_description(
            ReplicaDescription(
                name="bench",
                served_names=["bench"],
                revision="e" * 32,
                tokenizer=identity.tokenizer,
                width=width,
                max_tokens=identity.max_tokens,
                vocabulary=identity.vocabulary,
                prompts={},
                precision=Precision.BF16,
                device="emulated H200",
                batch_tokens=BATCH_TOKENS,
                window=2 * BATCH_TOKENS,
                draining=False,
                batches=1000,
                cost=(
                    LEAST_BATCH_S / fast,
                    SECONDS_PER_TOKEN / fast,
                    SECONDS_PER_SQUARED_TOKEN / fast,
                ),
            )
        )

    def _next(self, prepared: list[bytes], texts: int) -> list[bytes]:
        """The next so many of prepared vectors."""
        first, self._at = self._at, (self._at + texts) % len(prepared)
        return [prepared[(first + at) % len(prepared)] for at in range(texts)]

    def vectors(self, texts: int) -> bytes:
        return b"".join(self._next(self._rows, texts))

    def openai_body(self, lengths: list[int], encoding_format: str | None) -> bytes:
        written = self._written["base64" if encoding_format == "base64" else "float"]
        rows = b",".join(
            b'{"object":"embedding","index":%d,"embedding":%b}' % (index, vector)
            for index, vector in enumerate(self._next(written, len(lengths)))
        )
        tokens = sum(lengths)
        return (
            b'{"object":"list","data":[%b],"model":"bench","usage":{"prompt_tokens":%d,'
            b'"total_tokens":%d}}' % (rows, tokens, tokens)
        )


class Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive; one request at a time."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's do not derive from it
        self._transport.set_write_buffer_limits(high=64 << 20)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    # -- what the parser calls -------------------------------------------------------

    def on_message_begin(self) -> None:
        self._url, self._bulk = b"", False
        self._body: list[bytes] = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"x-embedfleet-lane":
            self._bulk = value == b"bulk"
        elif name.lower() == b"expect":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        body, path = b"".join(self._body), self._url.decode()
        if path == "/v1/work":
            self._work(body)
        elif path == "/v1/embeddings":
            self._embeddings(body)
        elif path.startswith("/v1/replica/files/"):
            file = self._site.model / path.removeprefix("/v1/replica/files/")
            self._answer(file.read_bytes() if file.is_file() else b"", found=file.is_file())
        elif path == "/v1/replica":
            self._answer(self._site.description)
        elif path == "/v1/tokens":
            self._answer(str(self._site.engine.tokens).encode())
        elif path == "/v1/models":
            self._answer(b'{"object":"list","data":[{"id":"bench","object":"model"}]}')
        else:  # health and model information, as other gateways ask for them
            self._answer(b'{"status":"ok","model_path":"bench","served_model_name":"bench"}')

    # -- routes ----------------------------------------------------------------------

    def _answer(self, body: bytes, *, found: bool = True) -> None:
        status = b"200 OK" if found else b"404 Not Found"
        head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self._transport.write(head % (status, len(body)) + body)

    def _embeddings(self, body: bytes) -> None:
        asked = _body_decoder.decode(body)
        lengths = _token_counts(asked.input)
        bulk = self._bulk and self._site.lanes
        rendered = partial(self._site.openai_body, lengths, asked.encoding_format)

        def deliver(answer: Answer, _ids: list[int], _seconds: float) -> None:
            if not answer.missing:
                self._answer(rendered())

        answer = Answer(deliver, len(lengths))
        lane = Lane.BULK if bulk else Lane.INTERACTIVE
        texts = [Waiting(tokens, lane, answer, number) for number, tokens in enumerate(lengths)]
        self._site.engine.submit(texts)

    def _work(self, body: bytes) -> None:
        call = frames.decode_call(body)
        answer = Answer(self._frame, len(call.texts))
        self._started = False
        texts = []
        for text in call.texts:
            lane = Lane.BULK if text.bulk and self._site.lanes else Lane.INTERACTIVE
            texts.append(Waiting(len(text.ids) // 4, lane, answer, text.id))
            answer.echoes[text.id] = frames.echo(text.ids)
        self._site.engine.submit(texts)

    def _frame(self, answer: Answer, ids: list[int], seconds: float) -> None:
        frame = frames.encode_frame(
            frames.Frame(
                ids=ids,
                vectors=self._site.vectors(len(ids)),
                failures=[],
                queue_us=0,
                compute_us=round(seconds * 1e6),
                window=2 * BATCH_TOKENS,
                echoes=[answer.echoes[text] for text in ids],
            )
        )
        parts = []
        if not self._started:
            self._started = True
            parts.append(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/x-embedfleet-frames\r\n"
                b"transfer-encoding: chunked\r\n\r\n"
            )
        parts += (b"%x\r\n" % len(frame), frame, b"\r\n" if answer.missing else b"\r\n0\r\n\r\n")
        self._transport.write(b"".join(parts))


async def serve(site: Site, port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(site), "127.0.0.1", port, backlog=4096)
    bound = server.sockets[0].getsockname()[1]
    print(f"emulated replica listening on http://127.0.0.1:{bound}", flush=True)
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="directory with the tokenizer")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--speed", type=float, default=1.0, help="H200s; 0 computes nothing")
    parser.add_argument("--lanes", action="store_true", help="interactive texts before bulk ones")
    chosen = parser.parse_args()
    try:
        site = Site(chosen.model, speed=chosen.speed, width=chosen.width, lanes=chosen.lanes)
    except EmbedfleetError as error:
        raise SystemExit(str(error)) from error
    uvloop.run(serve(site, chosen.port))


if __name__ == "__main__":
    main()
