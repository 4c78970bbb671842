"""Which waiting texts run together."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from embedfleet.scheduling.batching.packing import LOOKAHEAD, pack
from embedfleet.vocabulary import Lane


@dataclass(frozen=True)
class Waiting:
    tokens: int
    lane: Lane = Lane.INTERACTIVE
    urgency: float = 0.0
    alone: bool = False


def of(*tokens: int) -> list[Waiting]:
    return [Waiting(count) for count in tokens]


def test_texts_are_taken_in_order_until_the_budget_is_used_up() -> None:
    """Four of 30 fit into 120, the fifth waits."""
    assert pack(of(30, 30, 30, 30, 30), 120) == of(30, 30, 30, 30)


def test_a_batch_is_sorted_by_length() -> None:
    """Engines compute neighbours of like length best."""
    assert pack(of(40, 10, 30), 100) == of(10, 30, 40)


def test_a_text_over_the_budget_runs_alone() -> None:
    """Otherwise it would wait for ever."""
    assert pack(of(500, 10), 100) == of(500)


def test_shorter_texts_fill_the_gap_that_a_long_one_leaves() -> None:
    """The long one comes first in the next batch."""
    assert pack(of(60, 90, 40), 100) == of(40, 60)


def test_the_search_for_fillers_ends() -> None:
    """However many texts wait, forming a batch looks past few."""
    waiting = of(60, *[90] * LOOKAHEAD, 40)

    assert pack(waiting, 100) == of(60)


def test_interactive_texts_go_before_bulk_ones() -> None:
    """Bulk fills what is left."""
    bulk, short = Waiting(50, Lane.BULK), Waiting(60)

    assert pack([bulk, short], 100) == [short]
    assert pack([bulk, short], 110) == [bulk, short]


def test_the_more_urgent_text_goes_first() -> None:
    """Of two that do not fit together."""
    patient, urgent = Waiting(60, urgency=2.0), Waiting(70, urgency=1.0)

    assert pack([patient, urgent], 100) == [urgent]


def test_a_text_that_must_run_alone_does() -> None:
    """Neither does it join others, nor do they join it."""
    lonely = Waiting(10, alone=True)

    assert pack([lonely, *of(10, 20)], 100) == [lonely]
    assert pack([*of(10, 20), lonely], 100) == of(10, 20)


@given(
    st.lists(
        st.builds(
            Waiting,
            st.integers(1, 300),
            st.sampled_from(Lane),
            st.floats(0, 10),
            st.booleans(),
        ),
        min_size=1,
        max_size=200,
    ),
    st.integers(1, 500),
)
def test_a_batch_is_never_empty_nor_over_budget_without_need(
    waiting: list[Waiting], budget: int
) -> None:
    """At least one text; more only within the budget; none twice."""
    batch = pack(waiting, budget)

    assert batch
    assert len(batch) == 1 or sum(text.tokens for text in batch) <= budget
    assert len({id(text) for text in batch}) == len(batch)
