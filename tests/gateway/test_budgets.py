"""How many repeated tries the pool can afford."""

from hypothesis import given
from hypothesis import strategies as st

from embedfleet.gateway.budgets import RESERVE, Budget


def test_a_pool_with_little_traffic_can_retry_too() -> None:
    """There is a reserve at the start."""
    assert Budget(0.1).spend(int(RESERVE))


def test_tries_beyond_the_share_are_refused() -> None:
    """Ten answered texts earn one try at a share of a tenth."""
    budget = Budget(0.1)
    budget.spend(int(RESERVE))
    assert not budget.spend(1)

    budget.earn(9)
    assert not budget.spend(1)
    budget.earn(2)
    assert budget.spend(1)


def test_a_call_that_can_not_be_afforded_whole_costs_nothing() -> None:
    """Half a retry helps nobody."""
    budget = Budget(0.1)

    assert not budget.spend(10**6)
    assert budget.saved == RESERVE


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 1000)), max_size=200))
def test_spent_tries_never_pass_the_share_of_what_was_answered(
    steps: list[tuple[bool, int]],
) -> None:
    """Beyond the reserve."""
    budget, answered, spent = Budget(0.05), 0, 0
    for earns, texts in steps:
        if earns:
            budget.earn(texts)
            answered += texts
        elif budget.spend(texts):
            spent += texts

    assert spent <= RESERVE + 0.05 * answered + 1e-6
