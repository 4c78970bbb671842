"""The blocking client: runs the asynchronous one on an event loop in a thread."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import uvloop
from numpy.typing import DTypeLike, NDArray

from embedfleet.client.asynchronous import AsyncClient
from embedfleet.client.calling import Arrived, Embedded, Progress, Ranking
from embedfleet.client.wire import EmbedOptions, OutputDtype, ServedModel, Texts

Result = TypeVar("Result")


class Client:
    """AsyncClient for blocking code, with the same arguments; safe to use from several threads.

    with Client("http://127.0.0.1:8080") as client:
        vectors = client.embed(["one text", "another"], dimensions=256)

    One that is not closed ends with its last reference, or with the interpreter.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self._client = AsyncClient(url, **options)
        self._loop = uvloop.new_event_loop()
        thread = threading.Thread(
            target=self._loop.run_forever, name="embedfleet-client", daemon=True
        )
        thread.start()
        self._end = weakref.finalize(self, _end, self._client, self._loop, thread)

    @property
    def space(self) -> str | None:
        """As `AsyncClient.space`."""
        return self._client.space

    @property
    def url(self) -> str:
        return self._client.url

    def embed(
        self,
        texts: str | Texts,
        *,
        dimensions: int | None = None,
        input_type: str | None = None,
        instruction: str | None = None,
        truncate: bool = False,
        output_dtype: OutputDtype = "float32",
        dtype: DTypeLike | None = None,
        model: str | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> NDArray[Any]:
        """As `AsyncClient.embed`; `progress` runs in another thread."""
        return self._wait(
            self._client.embed(
                texts,
                dimensions=dimensions,
                input_type=input_type,
                instruction=instruction,
                truncate=truncate,
                output_dtype=output_dtype,
                dtype=dtype,
                model=model,
                progress=progress,
            )
        )

    def embed_each(
        self,
        texts: Texts,
        options: EmbedOptions | None = None,
        *,
        model: str | None = None,
        progress: Callable[[Progress], None] | None = None,
        arrived: Arrived | None = None,
    ) -> Embedded:
        """As `AsyncClient.embed_each`; callbacks run in another thread."""
        return self._wait(
            self._client.embed_each(texts, options, model=model, progress=progress, arrived=arrived)
        )

    def rerank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        top_n: int | None = None,
        instruction: str | None = None,
        truncate: bool | None = None,
        raw_scores: bool = False,
        model: str | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> Ranking:
        """As `AsyncClient.rerank`; `progress` runs in another thread."""
        return self._wait(
            self._client.rerank(
                query,
                documents,
                top_n=top_n,
                instruction=instruction,
                truncate=truncate,
                raw_scores=raw_scores,
                model=model,
                progress=progress,
            )
        )

    def count_tokens(self, texts: Sequence[str]) -> int:
        """As `AsyncClient.count_tokens`."""
        return self._wait(self._client.count_tokens(texts))

    def models(self) -> list[ServedModel]:
        """As `AsyncClient.models`."""
        return self._wait(self._client.models())

    def served_model(
        self, name: str | None = None, *, task: Literal["embed", "rerank"] = "embed"
    ) -> ServedModel:
        """As `AsyncClient.served_model`."""
        return self._wait(self._client.served_model(name, task=task))

    def close(self) -> None:
        """Close connections and end the thread."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _wait(self, work: Coroutine[Any, Any, Result]) -> Result:
        if self._loop.is_closed():
            work.close()
            raise RuntimeError("the client is closed")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()  # on Ctrl-C the requests end too


def _end(client: AsyncClient, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    """Close connections and end the thread. Nothing in a forked child, which has no such thread."""
    if not thread.is_alive():
        return
    asyncio.run_coroutine_threadsafe(_closing(client, loop), loop)
    if thread is not threading.current_thread():  # the garbage collector may run anywhere
        thread.join()
        loop.close()


async def _closing(client: AsyncClient, loop: asyncio.AbstractEventLoop) -> None:
    try:
        await client.close()
    finally:
        loop.stop()
