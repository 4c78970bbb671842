"""Loading a model whose files somebody writes to meanwhile."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from embedfleet.models.source import BUILTIN_DIRECTORY
from embedfleet.runtime.settings import Pool, Settings
from embedfleet.server.replica.process import load
from embedfleet.vocabulary import ModelError


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUILTIN_DIRECTORY, tmp_path / "model"))


def settings(directory: Path) -> Settings:
    return Settings(pools=(Pool(model=str(directory), replicas=1),))


@contextmanager
def being_copied(path: Path, until: threading.Event) -> Iterator[None]:
    """A file that is cut off and written to all the time, and whole in the end."""
    whole = path.read_bytes()
    os.truncate(path, len(whole) // 2)

    def write() -> None:
        while not until.wait(0.001):
            os.utime(path)
        path.write_bytes(whole)
        os.utime(path, (1, 1))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        until.set()
        writer.join()


class _Noticing(logging.Handler):
    """Sets an event with the first warning."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.noticed = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.noticed.set()


def test_a_model_is_loaded_again_until_its_files_are_stable(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    handler = _Noticing()
    logging.getLogger("embedfleet.server.replica.process").addHandler(handler)
    with being_copied(directory / "model.safetensors", handler.noticed):
        loaded = load(settings(directory))
    assert "model.safetensors changed while the model was being loaded" in caplog.text
    assert loaded.files.first_changed() is None
    loaded.engine.close()


def test_a_file_that_is_cut_off_for_good_is_named(directory: Path) -> None:
    os.truncate(directory / "model.safetensors", 1_000_000)
    with pytest.raises(ModelError, match=r"model\.safetensors.*cut off"):
        load(settings(directory))
