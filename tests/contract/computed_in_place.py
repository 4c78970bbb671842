"""An endpoint without a fleet: the API of a gateway over vectors that are made on the spot.

Everything that callers see is the real thing; only the vectors come from a bag of random numbers
per token, so that texts with words in common are near each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from embedfleet.api.endpoint import Endpoint
from embedfleet.api.formats.openai import RequestLimits
from embedfleet.api.routes import contract_routes, meant
from embedfleet.api.served_model import ServedModel
from embedfleet.models.description import describe
from embedfleet.models.encoding.encoder import Encoder
from embedfleet.models.reranker import TEMPLATE_FILE
from embedfleet.models.scores import rows_of_logits
from embedfleet.scheduling.texts import Caller, Text
from embedfleet.transport.access import Access
from embedfleet.transport.asgi import App, Router
from embedfleet.transport.serving import Listener, bind, serving
from tests.small_tokenizer import write_model

WIDTH = 64
RERANKER = "pairs-in-place"
TEMPLATE = {
    "before": "<|im_start|>",
    "pair": "{instruction} {query} | ",
    "after": "<|im_end|>",
    "instruction": "Rank",
}


class BagOfTokens:
    """A backend whose vectors are weighted sums of a random vector per token."""

    def __init__(self, vocabulary: int) -> None:
        rows = np.random.default_rng(0).standard_normal((vocabulary, WIDTH))
        self._table = rows.astype(np.float32)

    def admit(self, texts: int, tokens: int, caller: Caller) -> None: ...

    def submit(self, texts: Sequence[Text], caller: Caller) -> None:
        for text in texts:
            ids = text.encoding
            # Weights that differ by position let the order of tokens count.
            vector = self._table[ids].T @ (1 + np.arange(len(ids), dtype=np.float32) % 7)
            text.answer(vector / np.linalg.norm(vector), 0.0, 0.0, "")

    def join(self, text: Text, caller: Caller) -> bool:
        return False

    def withdraw(self, texts: Sequence[Text]) -> None: ...

    def shortage(self) -> str:
        return ""


class ScoresOfTokens(BagOfTokens):
    """A backend whose scores are of the vectors that it would have."""

    def submit(self, texts: Sequence[Text], caller: Caller) -> None:
        for text in texts:
            logit = float(self._table[text.encoding].mean() * 20)
            text.answer(rows_of_logits(np.array([logit]))[0], 0.0, 0.0, "")


def reranker_in(directory: Path) -> ServedModel:
    """A reranker whose scores reveal the pair."""
    write_model(directory)
    (directory / TEMPLATE_FILE).write_text(json.dumps(TEMPLATE))
    description = describe(directory, name=RERANKER)
    backend = ScoresOfTokens(description.identity.vocabulary)
    return ServedModel(description.identity, (RERANKER,), Encoder(description), backend, created=0)


def unchanged(app: App) -> App:
    return app


@contextlib.contextmanager
def answering(
    directory: Path,
    *,
    around: Callable[[App], App] = unchanged,
    access: Access | None = None,
    reranker: bool = False,
    limits: RequestLimits | None = None,
) -> Iterator[str]:
    """Answer on a free port while the block runs; gives the base URL.

    `around` may put something between the app and its callers; `access` says who these may be. A
    `reranker` is served beside the model where that is asked for.
    """
    description = describe(write_model(directory), name="bag-of-tokens")
    identity = description.identity
    model = ServedModel(
        identity,
        (identity.name,),
        Encoder(description),
        BagOfTokens(identity.vocabulary),
        created=0,
    )
    models = {identity.name: model}
    if reranker:
        models[RERANKER] = reranker_in(directory / RERANKER)
    endpoint = Endpoint(
        lambda: models,
        limits=limits or RequestLimits(),
        max_body_bytes=2**26,
        max_held_bytes=2**28,
        timeout_s=30,
        tokenizer_threads=1,
        answered=lambda _: None,
        access=access,
    )
    exact, prefixes = contract_routes(endpoint, lambda route: route, lambda route, _: route)
    app = Router(exact, prefixes, meant=meant)
    listener = Listener(around(app), bind("127.0.0.1", 0))
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with serving([listener], stop_timeout_s=1):
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        yield f"http://{listener.address}/v1"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
        endpoint.close()
