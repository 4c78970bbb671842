"""Making golden vectors with the reference engine: float32, one text at a time.

Decides which texts they are. Refuses to know who will be checked against them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from embedfleet.encoding.encoder import Encoder
from embedfleet.encoding.prompts import prompt_for
from embedfleet.engine.loading import EngineOptions, load_engine
from embedfleet.golden.vectors import GoldenVectors, write
from embedfleet.model.description import describe
from embedfleet.settings import EngineSettings
from embedfleet.vocabulary import Role, Truncation

_PARAGRAPH = (
    "A load balancer hands each piece of work to the server that can finish it first. When the "
    "pieces differ in size, counting them is not enough: one long document may keep a server busy "
    "for as long as a hundred short questions, so the work itself has to be measured. "
)

TEXTS: tuple[tuple[str, str, Role], ...] = (
    ("one word", "hello", Role.DOCUMENT),
    ("short English", "The capital of France is Paris.", Role.DOCUMENT),
    ("English question", "How are you today?", Role.QUERY),
    ("Chinese", "中国的首都是北京，它是一座有三千多年历史的城市。", Role.DOCUMENT),
    ("Chinese question", "长城有多长？", Role.QUERY),
    ("traditional Chinese", "臺灣的首都是臺北，人口約兩百五十萬。", Role.DOCUMENT),
    ("code", "def add(a: int, b: int) -> int:\n    return a + b\n", Role.DOCUMENT),
    ("numbers", "3.14159 2.71828 1.41421 1,000,000 0xff", Role.DOCUMENT),
    ("emoji", "Great work 👍🏽 — naïve café, ñandú, שלום, 🇫🇷", Role.DOCUMENT),
    ("paragraph", _PARAGRAPH, Role.DOCUMENT),
    ("long", _PARAGRAPH * 6, Role.DOCUMENT),
)
"""Short and long, two scripts, code and an instruction; at most 512 tokens each."""

MOST_TOKENS = 512


def make(directory: Path, output: Path, options: EngineSettings) -> None:
    """Embed the golden texts with the model in `directory` in float32 and write the file."""
    description = describe(directory)
    encoder = Encoder(description)
    engine = load_engine(directory, EngineOptions(device=options.device, dtype="f32"))
    encodings = []
    for _, text, role in TEXTS:
        prompt = prompt_for(description.identity, role=role, instruction=None)
        (encoded,) = encoder.encode([text], prompt=prompt, truncate=Truncation.END)
        # Of a long one the end, with what the model wants at the beginning.
        first = encoded.ids[: len(description.template.before)]
        last = encoded.ids[len(first) :][len(first) - MOST_TOKENS :]
        encodings.append(np.concatenate((first, last)))
    vectors = np.concatenate([engine.prepare([encoding])() for encoding in encodings])
    engine.close()
    names = tuple(name for name, _, _ in TEXTS)
    write(
        output,
        GoldenVectors(description.identity.revision, names, tuple(encodings), vectors),
    )
