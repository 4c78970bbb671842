"""Asks for very many texts and reckons up: each has the right vector or an explicit error.

A text's vector is known beforehand (`tests/fakes/revealing_engine.py`), so that a vector which
belongs to another text, to another request or to nobody is seen.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import numpy as np
import orjson
import pybase64

from tests.fakes.revealing_engine import POISON, UNLUCKY, WIDTH, vector_of
from tests.small_tokenizer import END, id_of

EXPLICIT = {"replica_failed", "no_replica", "deadline_exceeded", "overloaded", "invalid_vector"}
"""Codes of errors that tell a caller what happened to its texts."""
ROOM = 520
"""Ids below are those of the tokenizer, the end-of-text token among them."""


@dataclass
class Reckoning:
    """What became of every text that was asked for."""

    asked: int = 0
    right: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """Texts in requests that got an explicit error, by its code."""
    wrong: list[str] = field(default_factory=list)
    """What must never happen."""

    def check(self) -> None:
        """Nothing was lost, nothing was wrong, nothing came twice."""
        assert not self.wrong, self.wrong[:5]
        assert self.right + self.refused.total() == self.asked
        assert set(self.refused) <= EXPLICIT, self.refused

    @property
    def refused_share(self) -> float:
        return self.refused.total() / max(1, self.asked)


def random_text(dice: random.Random) -> list[int]:
    """Token ids, mostly few, now and then many."""
    length = dice.choice((1, 2, 5, 10, 20, 40)) if dice.random() < 0.99 else 400
    return [dice.randrange(ROOM, 660) for _ in range(length)]


def expected(ids: Sequence[int], end: int) -> np.ndarray:
    """The right vector: the gateway puts the end-of-text token."""
    return vector_of([*ids, end])


class Asker:
    """Clients that ask one gateway."""

    def __init__(self, base_url: str, seed: int = 0, *, key: str = "") -> None:
        self.reckoning = Reckoning()
        self._key = key
        self._url = f"{base_url}/embeddings"
        self._dice = random.Random(seed)
        self._end = id_of(END)
        assert {POISON, UNLUCKY}.isdisjoint(range(ROOM, 660))

    async def ask_many(self, texts: int, *, clients: int, most: int = 60) -> None:
        """Ask for `texts` texts in requests of up to `most`, from several clients at once."""
        left = texts

        async def client(session: aiohttp.ClientSession) -> None:
            nonlocal left
            while left > 0:
                count = min(left, self._dice.randint(1, most))
                left -= count
                await self.ask(session, [random_text(self._dice) for _ in range(count)])

        async with session_without_limits() as session:
            await asyncio.gather(*(client(session) for _ in range(clients)))

    async def ask(
        self,
        session: aiohttp.ClientSession,
        texts: Sequence[list[int]],
        *,
        lane: str | None = None,
    ) -> str:
        """Ask once and reckon; return the error's code, empty when there was none.

        `lane` is what the header says, "" for no header; None leaves it to chance.
        """
        reckoning = self.reckoning
        reckoning.asked += len(texts)
        body = orjson.dumps({"model": "chaos", "input": texts, "encoding_format": "base64"})
        headers = {"content-type": "application/json"}
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        if lane is None:
            lane = "bulk" if self._dice.random() < 0.3 else ""
        if lane:
            headers["x-embedfleet-lane"] = lane
        try:
            async with session.post(self._url, data=body, headers=headers) as answer:
                status, content = answer.status, orjson.loads(await answer.read())
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            reckoning.wrong.append(f"no answer: {error!r}")
            return "lost"
        if status != 200:
            code: str = content["error"]["code"]
            reckoning.refused[code] += len(texts)
            return code
        self._compare(texts, content["data"])
        return ""

    def _compare(self, texts: Sequence[list[int]], data: list[dict[str, Any]]) -> None:
        reckoning = self.reckoning
        if [one["index"] for one in data] != list(range(len(texts))):
            reckoning.wrong.append(f"{len(data)} answers to {len(texts)} texts")
            return
        for ids, one in zip(texts, data, strict=True):
            vector = np.frombuffer(pybase64.b64decode(one["embedding"]), "<f4")
            if vector.shape == (WIDTH,) and np.array_equal(vector, expected(ids, self._end)):
                reckoning.right += 1
            else:
                size = np.linalg.norm(vector)
                reckoning.wrong.append(
                    f"not the vector of {ids[:8]}… ({len(ids)} ids): {vector[:3]}…, length {size}"
                )


def session_without_limits() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=120)
    )
