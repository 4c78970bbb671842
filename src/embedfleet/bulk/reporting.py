"""Reports the progress of a run: a bar on a terminal, occasional lines in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

from embedfleet.bulk.running import OnProgress, Progress

LINE_EVERY_S = 10.0


@contextlib.contextmanager
def reporting() -> Iterator[OnProgress]:
    """Show progress on standard error while the block runs."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    columns = (
        SpinnerColumn(),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console) as bar:
        task = bar.add_task("reading the input", total=None)

        def on_progress(progress: Progress) -> None:
            bar.update(
                task,
                total=None if progress.reading else progress.rows,
                completed=min(progress.rows, max(progress.done, progress.answered)),
                description=described(progress),
            )

        yield on_progress


def described(progress: Progress) -> str:
    """One line of progress."""
    if progress.reading:
        return f"reading the input: {progress.rows:,} rows"
    seconds = max(progress.seconds, 1e-9)
    known = progress.done - progress.computed - progress.errors
    share = max(0, known) / progress.done if progress.done else 0.0
    return (
        f"{progress.done:,} of {progress.rows:,} rows, {progress.answered / seconds:,.0f} texts/s, "
        f"{progress.tokens / seconds:,.0f} tokens/s, {share:.0%} known, {progress.errors:,} errors"
    )


def remaining(progress: Progress) -> str:
    """The time that the rest takes at the rate of this run; empty where that is not known."""
    here = progress.done - progress.done_before
    if progress.reading or here <= 0:
        return ""
    seconds = progress.seconds / here * (progress.rows - progress.done)
    return f", {timedelta(seconds=round(seconds))} left"


def summary(progress: Progress) -> dict[str, Any]:
    """The document that `--json` prints at the end."""
    seconds = max(progress.seconds, 1e-9)
    return {
        "rows": progress.rows,
        "errors": progress.errors,
        "computed": progress.computed,
        "tokens": progress.tokens,
        "seconds": round(progress.seconds, 3),
        "texts_per_s": round(progress.computed / seconds, 1),
        "tokens_per_s": round(progress.tokens / seconds, 1),
    }


class _Lines:
    def __init__(self) -> None:
        self._next = time.monotonic() + LINE_EVERY_S

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + LINE_EVERY_S
            sys.stderr.write(f"embedfleet bulk: {described(progress)}{remaining(progress)}\n")
            sys.stderr.flush()
