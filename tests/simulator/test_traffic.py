"""Reading traces, and what is refused in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embedfleet.simulator import traffic
from embedfleet.simulator.traffic import Trace, TraceError
from tests.real_texts import DATA

HEADING = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def written(directory: Path, text: str) -> Path:
    path = directory / "trace.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_azure_rows_become_seconds_since_the_first(tmp_path: Path) -> None:
    """Prompt tokens count; what was generated does not."""
    rows = "2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:05.0319600,3180,8\n"
    trace = traffic.read(written(tmp_path, HEADING + rows))
    assert trace.tokens.tolist() == [4808, 3180]
    assert trace.arrival_s == pytest.approx([0.0, 1.052])


def test_our_own_format_is_seconds_and_tokens(tmp_path: Path) -> None:
    """A time may be shared."""
    trace = traffic.read(written(tmp_path, "arrival_s,tokens\n0.5,12\n0.5,7\n2,900\n"))
    assert trace.arrival_s.tolist() == [0.5, 0.5, 2.0]
    assert trace.tokens.tolist() == [12, 7, 900]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("when,what\n", "line 1: the heading is 'when,what'"),
        ("", "line 1: the heading is ''"),
        (HEADING, "has no texts"),
        (
            HEADING + "2023-11-16 18:17:03.9,4808\n",
            "line 2: '2023-11-16 18:17:03.9,4808' is not a row",
        ),
        (HEADING + "yesterday,4808,10\n", "line 2: 'yesterday,4808,10' is not a row"),
        ("arrival_s,tokens\n1,5\n2,five\n", "line 3: '2,five' is not a row"),
        ("arrival_s,tokens\n1,5\nnan,5\n", "line 3: nan is not a time"),
        ("arrival_s,tokens\n-1,5\n", "line 2: -1 is not a time"),
        ("arrival_s,tokens\n1,5\n0.5,5\n", "line 3: it is 0.5 s before the last line"),
        ("arrival_s,tokens\n1,0\n", "line 2: 0 is not a number of tokens"),
        ("arrival_s,tokens\n1,-7\n", "line 2: -7 is not a number of tokens"),
    ],
)
def test_what_can_not_be_read_is_refused_with_its_line(
    tmp_path: Path, text: str, complaint: str
) -> None:
    """So that it can be found in a million lines."""
    with pytest.raises(TraceError) as raised:
        traffic.read(written(tmp_path, text))
    assert complaint in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """In one line."""
    with pytest.raises(TraceError, match=r"nowhere\.csv can't be read"):
        traffic.read(tmp_path / "nowhere.csv")


def test_copies_come_up_to_a_second_apart_and_in_order() -> None:
    """Every text as often as asked for, at about its time."""
    trace = Trace("t", np.array([0.0, 10.0]), np.array([5, 7]))
    copied = trace.copies(4, np.random.default_rng(0))
    assert sorted(copied.tokens.tolist()) == [5] * 4 + [7] * 4
    assert np.all(np.diff(copied.arrival_s) >= 0)
    assert copied.arrival_s[:4].max() <= 1.0


@pytest.mark.parametrize(("name", "texts"), [("conv", 19_366), ("code", 8_819)])
def test_azures_traces_are_whole(name: str, texts: int) -> None:
    """As many rows as were published, over nearly an hour."""
    path = DATA / "traces" / "azure_llm_2023" / f"AzureLLMInferenceTrace_{name}.csv"
    if not path.exists():
        pytest.skip(f"no {path}: set EMBEDFLEET_DATA to the folder of data")
    trace = traffic.read(path)
    assert len(trace.tokens) == texts
    assert 3400 < trace.seconds < 3600
