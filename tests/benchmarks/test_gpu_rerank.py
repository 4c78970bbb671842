"""What the benchmark of a reranker on a GPU sends."""

from __future__ import annotations

import json
import random

import pytest


def test_both_kinds_of_servers_are_sent_the_same_tokens() -> None:
    pytest.importorskip("torch", reason="torch is not installed; `make reference` adds it")
    from benchmarks.gpu_rerank import (  # noqa: PLC0415  after the skip
        AFTER_DOCUMENT,
        BEFORE_DOCUMENT,
        body,
    )

    plain = json.loads(body("4B", random.Random(1), templated=False))
    joined = json.loads(body("4B", random.Random(1), templated=True))
    assert joined["text_1"] == plain["text_1"] + BEFORE_DOCUMENT
    assert joined["text_2"] == [each + AFTER_DOCUMENT for each in plain["text_2"]]
