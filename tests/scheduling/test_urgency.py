"""In which order waiting texts should run."""

from hypothesis import given
from hypothesis import strategies as st

from embedfleet.scheduling.urgency import urgency


def test_short_texts_pass_long_ones_that_came_a_little_before() -> None:
    """A question does not wait for a document."""
    assert urgency(arrived=1.0, tokens=20) < urgency(arrived=0.0, tokens=8000)


def test_a_long_text_is_not_passed_for_ever() -> None:
    """After its slack, whatever comes later is less urgent."""
    assert urgency(arrived=0.0, tokens=8000) < urgency(arrived=5.0, tokens=1)


def test_an_early_deadline_counts() -> None:
    """A later one does not delay anything."""
    assert urgency(0.0, 8000, deadline=1.0) == 1.0
    assert urgency(0.0, 8000, deadline=1e9) == urgency(0.0, 8000)


@given(st.floats(0, 1e6), st.integers(1, 40_000), st.floats(0.1, 100))
def test_age_always_wins_in_the_end(arrived: float, tokens: int, later: float) -> None:
    """Of equal texts the older one is more urgent."""
    assert urgency(arrived, tokens) < urgency(arrived + later, tokens)
