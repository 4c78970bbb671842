"""Whatever a model's files hold: an error that names the file, or a tokenizer that can be used."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from pathlib import Path

import pytest

from embedfleet.models.trial import try_files
from embedfleet.vocabulary import ModelError
from tests.models.mutations import bases, changed

CASES = 80
AT_ONCE = 2


async def _error(directory: Path, gate: asyncio.Semaphore) -> str:
    """What is said of files; empty where they pass."""
    async with gate:
        try:
            await try_files(directory)
        except ModelError as error:
            return error.message
    return ""


@pytest.mark.slow
async def test_changed_files_are_refused_by_name_or_can_be_used(tmp_path: Path) -> None:
    """The process that tries them may die; one that uses what has passed does not."""
    originals = bases(tmp_path)
    directories = [
        changed(dice.choice(originals), tmp_path / f"seed-{seed}", dice)
        for seed in range(CASES)
        for dice in [random.Random(seed)]
    ]
    gate = asyncio.Semaphore(AT_ONCE)
    each = [*originals, *directories]
    told = dict(zip(each, await asyncio.gather(*(_error(one, gate) for one in each)), strict=True))

    assert not any(told[original] for original in originals)
    for directory, message in told.items():
        assert not message or message.startswith(str(directory)), message
        assert message.isprintable(), message
        assert len(message) < 1_500
    passed = [str(directory) for directory, message in told.items() if not message]
    assert len(originals) < len(passed) < len(each)
    used = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "tests.models.use_of_files", *passed],
        check=False,
        capture_output=True,
        text=True,
    )
    done = used.stdout.split()
    assert used.returncode == 0, (passed[len(done)], used.returncode, used.stderr[-2000:])
