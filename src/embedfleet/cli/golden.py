"""Creates golden vectors with the reference engine: float32, one text at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from embedfleet.engines.loading import EngineOptions, load_engine
from embedfleet.models.description import describe
from embedfleet.models.encoding.encoder import Encoder
from embedfleet.models.encoding.prompts import prompt_for
from embedfleet.models.golden.vectors import GoldenVectors, write
from embedfleet.runtime.settings import EngineSettings
from embedfleet.runtime.text_files import expect_writable
from embedfleet.vocabulary import ModelIdentity, Role, Task, Truncation

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

PAIRS: tuple[tuple[str, str, str], ...] = (
    ("a right answer", "What is the capital of France?", "The capital of France is Paris."),
    ("a wrong answer", "What is the capital of France?", "Great work 👍🏽 — naïve café, ñandú"),
    ("Chinese", "中国的首都是哪里？", "中国的首都是北京，它是一座有三千多年历史的城市。"),
    ("Chinese over English", "法国的首都是哪里？", "The capital of France is Paris."),
    ("code", "add two numbers", "def add(a: int, b: int) -> int:\n    return a + b\n"),
    ("a paragraph", "How should work be balanced?", _PARAGRAPH),
    ("a long document", "How should work be balanced?", _PARAGRAPH * 6),
)
"""Queries and documents, for rerankers."""

MOST_TOKENS = 512


def make(directory: Path, output: Path, options: EngineSettings, name: str | None = None) -> None:
    """Embed the golden texts, or score the golden pairs, with the model in `directory` in float32
    and write the file. `name` is the model's, by default the directory's. Raises SetupError where
    the file can't be written, before anything is computed.
    """
    expect_writable(output)
    description = describe(directory, name=name)
    encoder = Encoder(description)
    golden = _golden(description.identity)
    task = description.identity.task
    engine = load_engine(directory, EngineOptions(device=options.device, dtype="f32", task=task))
    encodings = []
    for _, text, prompt in golden:
        (encoded,) = encoder.encode([text], prompt=prompt, truncate=Truncation.END)
        # Of a long one the end, with what the model wants at the beginning.
        first = encoded.ids[: len(description.template.before)]
        last = encoded.ids[len(first) :][len(first) - MOST_TOKENS :]
        encodings.append(np.concatenate((first, last)))
    vectors = np.concatenate([engine.prepare([encoding])() for encoding in encodings])
    engine.close()
    names = tuple(called for called, _, _ in golden)
    write(
        output,
        GoldenVectors(description.identity.revision, names, tuple(encodings), vectors),
    )


def _golden(identity: ModelIdentity) -> list[tuple[str, str, str]]:
    """Names, texts, and what stands before each."""
    if identity.task is Task.RERANK:
        return [
            (name, document, prompt_for(identity, None, None, query))
            for name, query, document in PAIRS
        ]
    return [(name, text, prompt_for(identity, role, None)) for name, text, role in TEXTS]
