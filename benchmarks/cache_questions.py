"""Traffic for the cache's benchmark: real questions, some of which many people ask.

Decides what is asked, in which order. A share of the questions, the *hit rate*, is drawn from a
known set by Zipf's law (the question of rank r comes in proportion to 1/r); each of the others is
asked once. The known set is in every cache before anything is measured, so that a rate holds from
the first second to the last, for a fast contender as for a slow one.
"""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path

import numpy as np

DATA = Path(os.environ.get("EMBEDFLEET_DATA", Path(__file__).parents[2] / "shared" / "data"))
KNOWN = 5_000
"""Questions that are asked again and again."""

SETS = ("squad_v1.1/train.json.xz", "squad_v1.1/dev.json", "cmrc2018/train.json.xz")


@cache
def questions() -> list[str]:
    """Every question of SQuAD 1.1 and CMRC 2018, each once, in an order that is always the same."""
    found: dict[str, None] = {}
    for name in SETS:
        path = DATA / name
        if not path.exists():
            raise SystemExit(f"no {path}: set EMBEDFLEET_DATA to the folder of real texts")
        raw = path.read_bytes()
        raw = lzma.decompress(raw) if name.endswith(".xz") else raw
        for article in json.loads(raw)["data"]:
            for paragraph in article["paragraphs"]:
                found |= dict.fromkeys(each["question"].strip() for each in paragraph["qas"])
    ordered = [each for each in found if each]
    return [ordered[at] for at in np.random.default_rng(7).permutation(len(ordered))]


def known() -> list[str]:
    return questions()[:KNOWN]


def fresh() -> Iterator[str]:
    """Questions that nobody has asked yet; when all were asked, they come with a number."""
    for again in count():
        for each in questions()[KNOWN:]:
            yield f"{each} ({again})" if again else each


@dataclass(frozen=True)
class Traffic:
    """What is asked at one hit rate."""

    hit_rate: float
    questions: list[str]

    @property
    def characters(self) -> float:
        """Of a question, on average."""
        return sum(map(len, self.questions)) / len(self.questions)


def traffic(hit_rate: float, requests: int, new: Iterator[str], seed: int) -> Traffic:
    """So many questions at one hit rate; `new` gives those that nobody has asked."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, KNOWN + 1)
    ranks = rng.choice(KNOWN, requests, p=weights / weights.sum())
    asked_before = rng.random(requests) < hit_rate
    old = known()
    return Traffic(
        hit_rate,
        [
            old[rank] if again else next(new)
            for rank, again in zip(ranks.tolist(), asked_before.tolist(), strict=True)
        ],
    )


def body(texts: str | list[str]) -> bytes:
    """An embeddings request as a client sends it."""
    asked = {"model": "bench", "input": texts, "encoding_format": "base64"}
    return json.dumps(asked, ensure_ascii=False).encode()
