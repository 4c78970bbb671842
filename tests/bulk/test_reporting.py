"""What a log tells of a run."""

from __future__ import annotations

from embedfleet.bulk.reporting import described, remaining
from embedfleet.bulk.running import Progress


def test_while_the_input_is_read_its_rows_are_counted_and_no_time_is_foretold() -> None:
    progress = Progress(rows=1_000_000)
    assert described(progress) == "reading the input: 1,000,000 rows"
    assert remaining(progress) == ""


def test_the_time_left_is_that_of_this_run_alone() -> None:
    progress = Progress(reading=False, rows=400, done=300, done_before=200)
    progress.began -= 3600.0
    assert remaining(progress).startswith(", 1:00:0")
    progress.done = progress.done_before
    assert remaining(progress) == ""
