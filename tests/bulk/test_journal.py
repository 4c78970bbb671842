"""Vectors on disk between two runs."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import numpy as np

from embedfleet.bulk.errors import BulkError
from embedfleet.bulk.journal import Journal


def test_a_file_that_is_closed_under_a_thread_is_an_error_of_that_thread(tmp_path: Path) -> None:
    """And no crash of the process: a run that is cut off leaves threads behind."""
    hashes = [number.to_bytes(16, "big") for number in range(400)]
    for _ in range(30):
        journal = Journal(tmp_path / "journal.sqlite", np.dtype(np.float32), 64)
        journal.put(hashes, np.zeros((400, 64), np.float32))
        begun = threading.Event()

        def use(journal: Journal = journal, begun: threading.Event = begun) -> None:
            begun.set()
            with contextlib.suppress(BulkError):
                while True:
                    journal.get(hashes)
                    journal.put(hashes, np.zeros((400, 64), np.float32))

        threads = [threading.Thread(target=use) for _ in range(2)]
        for thread in threads:
            thread.start()
        begun.wait(20)
        journal.close()
        for thread in threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in threads)
