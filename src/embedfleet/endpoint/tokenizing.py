"""A request's texts to encodings, without holding up the others.

Decides what is tokenised on the event loop and what in a thread. Refuses to know how.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from embedfleet.encoding.encoder import EncodedText
from embedfleet.encoding.prompts import prompt_for
from embedfleet.endpoint.seams import ServedModel
from embedfleet.wire.openai import EmbeddingRequest

Done = TypeVar("Done")

INLINE_CHARACTERS = 4096
"""Requests with no more text than this, prompts included, are tokenised on the event loop: they
take well under a millisecond there, and a hop to a thread and back would cost more than that."""


class Tokenizing:
    """Encodings of requests, with a few threads of its own."""

    def __init__(self, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, "tokenize")

    async def encode(
        self, model: ServedModel, parsed: EmbeddingRequest, texts: Sequence[str | Sequence[int]]
    ) -> list[EncodedText]:
        """Encode `texts`, all of a request's or some of them, as it wants them encoded.

        Raises CallerError, whose position is that in `texts`.
        """
        prompt = prompt_for(model.identity, role=parsed.role, instruction=parsed.instruction)
        encode = partial(model.encoder.encode, texts, prompt=prompt, truncate=parsed.truncate)
        # The prompt stands before every text, and is tokenised with each.
        if sum(map(len, texts)) + len(prompt) * len(texts) <= INLINE_CHARACTERS:
            return encode()
        return await self.apart(encode)

    async def apart(self, work: Callable[[], Done]) -> Done:
        """Do other work on texts or tokens in one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
