"""A client over stand-ins, as a gateway's pool has it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

import numpy as np

from embedfleet.models.description import ModelDescription
from embedfleet.server.gateway.replicas.attached import Attached
from embedfleet.server.gateway.replicas.third_party.client import ThirdPartyClient
from embedfleet.server.gateway.replicas.third_party.http import EngineHttp
from embedfleet.server.gateway.replicas.upstream import Upstream
from embedfleet.transport.frames import CallText, Frame, encoding_bytes
from embedfleet.vocabulary import Encoding, Precision
from tests.fakes.taking import frames_of

WINDOW = 4096


@contextlib.asynccontextmanager
async def attached(
    model: ModelDescription | None,
    *,
    key: str = "",
    precision: Precision | None = None,
    metrics_required: bool = False,
) -> AsyncIterator[Attached]:
    """What a pool of this model talks to its replicas through."""
    own = Upstream.open(connect_timeout_s=5, probe_timeout_s=5)
    http = EngineHttp(own.connections, 5, key)
    third_party = None
    if model is not None:
        third_party = ThirdPartyClient(
            http,
            model,
            precision=precision,
            window_tokens=WINDOW,
            metrics_required=metrics_required,
        )
    try:
        yield Attached(own, third_party, http)
    finally:
        own.close()


def call(encodings: Sequence[Encoding]) -> list[CallText]:
    return [
        CallText(number, encoding_bytes(encoding), bulk=False, deadline_ms=0)
        for number, encoding in enumerate(encodings)
    ]


async def compute(
    client: Attached, url: str, encodings: Sequence[Encoding], width: int
) -> tuple[np.ndarray, dict[int, str], list[Frame]]:
    """Vectors in order (NaN where there is none), failures by text, and the frames."""
    vectors = np.full((len(encodings), width), np.nan, np.float32)
    failures: dict[int, str] = {}
    seen = await frames_of(client, url, "call", call(encodings))
    for frame in seen:
        vectors[frame.ids] = frame.matrix(width)
        failures |= {failure.id: failure.code for failure in frame.failures}
    return vectors, failures, seen
