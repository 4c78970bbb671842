"""Real texts for tests, from outside the repository; tests skip where they are absent.

`EMBEDFLEET_DATA` says where they lie; by default in `../shared/data`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("EMBEDFLEET_DATA", Path(__file__).parents[2] / "shared" / "data"))


def passages(name: str) -> list[str]:
    """Passages of a data set in SQuAD's format, for instance `xquad/xquad.ar.json`."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no {path}: set EMBEDFLEET_DATA to the folder of real texts")
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    return [part["context"] for article in articles for part in article["paragraphs"]]
