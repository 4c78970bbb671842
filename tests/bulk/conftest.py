from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bulk.making import IN_MEMORY


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory where that is possible: every file of an output is synced to its disk."""
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        yield Path(folder)
