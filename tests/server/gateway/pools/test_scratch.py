"""The directory for what replicas hand over."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from embedfleet.server.gateway.pools.scratch import Scratch
from embedfleet.vocabulary import SettingError


def test_nothing_is_made_before_it_is_needed_and_nothing_is_left(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    scratch.touch()
    scratch.close()
    assert list(tmp_path.iterdir()) == []

    scratch = Scratch(tmp_path)
    (scratch.directory("model-") / "config.json").write_text("{}")
    assert len(list(tmp_path.glob("embedfleet-*/model-*/config.json"))) == 1
    scratch.close()
    assert list(tmp_path.iterdir()) == []


def test_it_is_made_again_where_a_cleaner_has_taken_it(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    first = scratch.directory("model-")
    first.rmdir()
    first.parent.rmdir()
    assert scratch.directory("model-").is_dir()


def test_its_files_never_look_old_to_a_cleaner(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    kept = scratch.directory("model-")
    (kept / "config.json").write_text("{}")
    everything = [kept.parent, kept, kept / "config.json"]
    for path in everything:
        os.utime(path, (0, 0))
    scratch.touch()
    assert all(path.stat().st_mtime > 1e9 for path in everything)


def test_an_unwritable_directory_is_reported_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"TMPDIR, or the tokenizer's own with --model DIR"):
        Scratch(tmp_path / "nowhere").directory("model-")
    assert tempfile.gettempdir()
