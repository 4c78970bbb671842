"""The file between preparation and training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from training.pools import Ragged, Store


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    sequences = [[1, 2, 3], [], [65_535]]
    store = Store({"a.b/c": Ragged.of(sequences)}, {"plain": np.arange(3)})
    store.save(tmp_path / "pools.npz.xz")
    loaded = Store.load(tmp_path / "pools.npz.xz")
    pool = loaded.pools["a.b/c"]
    cut = [pool.flat[a:b].tolist() for a, b in zip(pool.starts, pool.starts[1:], strict=False)]
    assert cut == sequences
    assert loaded.arrays["plain"].tolist() == [0, 1, 2]
