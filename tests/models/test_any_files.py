"""Whatever a model's files hold: an error that names the file, or a tokenizer that can be used."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models.mutations import bases, changed

CASES = 80


@pytest.mark.slow
def test_changed_files_are_refused_by_name_or_can_be_used(tmp_path: Path) -> None:
    """The process that loads them and tokenises with them lives."""
    originals = bases(tmp_path)
    directories = [
        changed(dice.choice(originals), tmp_path / f"seed-{seed}", dice)
        for seed in range(CASES)
        for dice in [random.Random(seed)]
    ]
    every = [str(each) for each in (*originals, *directories)]
    used = subprocess.run(
        [sys.executable, "-m", "tests.models.use_of_files", *every],
        check=False,
        capture_output=True,
        text=True,
    )
    told = dict(line.split("\t", 1) for line in used.stdout.splitlines())
    assert used.returncode == 0, (every[len(told)], used.returncode, used.stderr[-2000:])
    assert list(told) == every

    assert not any(told[str(original)] for original in originals)
    for directory, message in told.items():
        assert not message or message.startswith(directory), message
        assert message.isprintable(), message
        assert len(message) < 1_500
    passed = [directory for directory, message in told.items() if not message]
    assert len(originals) < len(passed) < len(every)
