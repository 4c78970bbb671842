"""A gateway whose model has a tokenizer made to hold it."""

from __future__ import annotations

import random
import threading
import urllib.request
from pathlib import Path
from typing import Any, Self

import orjson
import pytest

from tests.chaos.fleet import chaos_fleet

BENIGN = ("The sea", "How are you today?", "河流从山上流到大海。", "a" * 30, "river " * 900)
HANGING = ("a" * 3_900, "a" * 60_000, "sea " + "x" * 2_000)
"""As a normalizer with three nested loops has it: minutes or years."""
GROWING = ("the @ sea", "@" * 3_000, "@" * 20_000)
"""Each sign becomes a hundred thousand."""


def hostile(directory: Path) -> None:
    path = directory / "tokenizer.json"
    definition = orjson.loads(path.read_bytes())
    slow, large = (
        {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}
        for pattern, content in (("[ax].*?.*?(?!.)(?<=b)", "z"), ("@", "z" * 100_000))
    )
    parts = [slow, large, definition["normalizer"]]
    definition["normalizer"] = {"type": "Sequence", "normalizers": parts}
    path.write_bytes(orjson.dumps(definition))


class Watch:
    """Asks whether the process lives, all the time."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.answered = 0
        self.errors: list[OSError] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._over.wait(0.05):
            try:
                with urllib.request.urlopen(self._url, timeout=20) as answer:  # noqa: S310
                    self.answered += answer.status == 200
            except OSError as error:
                self.errors.append(error)


@pytest.mark.slow
def test_no_text_that_a_tokenizer_hangs_on_holds_the_gateway(tmp_path: Path) -> None:
    """Such a text is an error, others have their vectors, and the process lives meanwhile."""
    dice = random.Random(7)
    with chaos_fleet(tmp_path, replicas=1, change=hostile) as fleet:

        def ask(text: str) -> tuple[int, Any]:
            body = {"model": "chaos", "input": text, "truncate": True}
            return fleet.service.post("/v1/embeddings", body)

        texts = [*BENIGN, *HANGING, *GROWING]
        dice.shuffle(texts)
        with Watch(f"{fleet.service.root}/health/live") as watch:
            for text in texts:
                status, answer = ask(text)
                if text in BENIGN:
                    assert status == 200, answer
                else:
                    assert status == 500, (text[:20], answer)
                    assert "the model's tokenizer" in answer["error"]["message"]
                    assert str(tmp_path) not in answer["error"]["message"]
        assert watch.answered
        assert not watch.errors
        assert ask(BENIGN[0])[0] == 200
