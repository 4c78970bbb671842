"""Which replica gets texts next: every policy against the same rules, then each for itself."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.fleet.balancing import POLICIES, Candidate, Load
from embedfleet.fleet.balancing.load import RAMP_S
from embedfleet.work import CostModel

FAST = CostModel(0.0, 1e-5, 0.0)
SLOW = CostModel(0.0, 1e-3, 0.0)


def load(name: str, outstanding: int = 0, *, window: int = 100, cost: CostModel = FAST) -> Load:
    made = Load(name, window, 50, cost=cost)
    for _ in range(outstanding):
        made.take(1, 1)
    return made


def picked(
    policy: str, *loads: Load, tokens: int = 10, drain_s: float = 0.0, client: str = ""
) -> str | None:
    text = Candidate(tokens, now=0.0, drain_s=drain_s, client=client)
    chosen = POLICIES[policy](Random(0)).pick(loads, text)
    return chosen.replica if chosen else None


@pytest.mark.parametrize("policy", POLICIES)
def test_a_full_replica_gets_nothing(policy: str) -> None:
    """The text stays in the queue, from where any replica can still take it."""
    assert picked(policy, load("a", 95), load("b", 100)) is None
    assert picked(policy) is None


@pytest.mark.parametrize("policy", POLICIES)
def test_a_text_longer_than_the_window_waits_for_half_of_it(policy: str) -> None:
    """Then its turn is next, and the engine need not run dry before it comes."""
    assert picked(policy, load("a", 51), tokens=1000) is None
    assert picked(policy, load("a", 50), tokens=1000) == "a"


@pytest.mark.parametrize("policy", POLICIES)
@given(st.lists(st.integers(0, 120), min_size=1, max_size=20), st.integers(1, 300))
def test_a_policy_never_passes_a_window(policy: str, outstanding: list[int], tokens: int) -> None:
    """Whatever it likes best."""
    loads = [load(str(number), tokens) for number, tokens in enumerate(outstanding)]
    chosen = POLICIES[policy](Random(1)).pick(loads, Candidate(tokens, 0.0, drain_s=1e9))

    assert chosen is None or chosen.fits(tokens, 0.0)


def test_least_work_counts_seconds_by_each_replicas_own_cost() -> None:
    """A fast replica with more tokens may be done sooner."""
    assert picked("least-work", load("fast", 60), load("slow", 5, cost=SLOW)) == "fast"
    assert picked("least-work", load("a", 60), load("b", 20), load("c", 40)) == "b"


def test_a_slow_replica_takes_only_the_overflow() -> None:
    """When the fast one is full, a text waits for it, unless the queue is so long that the slow
    one is done before."""
    full, slow = load("gpu", 100), load("cpu", 0, cost=SLOW)

    assert picked("least-work", full, slow, drain_s=0.0) is None
    assert picked("least-work", full, slow, drain_s=0.1) == "cpu"


def test_power_of_two_spreads_over_all_and_prefers_the_idle() -> None:
    """No herd runs to the one that looks best."""
    balancer = POLICIES["power-of-two"](Random(0))
    loads = [load(str(number)) for number in range(8)] + [load("busy", 80)]
    chosen = Counter(balancer.pick(loads, Candidate(1, 0.0)).replica for _ in range(1000))  # type: ignore[union-attr]

    assert set(chosen) == {str(number) for number in range(8)}


def test_least_connections_counts_calls() -> None:
    """As nginx does."""
    a, b = load("a"), load("b", 40)
    a.calls, b.calls = 3, 2

    assert picked("least-connections", a, b) == "b"


def test_round_robin_goes_round_and_skips_the_full() -> None:
    """One after the other."""
    balancer = POLICIES["round-robin"](Random(0))
    loads = [load("a"), load("full", 100), load("c")]

    assert [balancer.pick(loads, Candidate(1, 0.0)).replica for _ in range(4)] == [  # type: ignore[union-attr]
        *("a", "c", "a", "c")
    ]


def test_weights_divide_the_work() -> None:
    """A replica of weight 3 gets three times as much; weight 0 gets nothing."""
    loads = [load("three", window=10**6), load("one", window=10**6), load("none", window=10**6)]
    for each, weight in zip(loads, (3.0, 1.0, 0.0), strict=True):
        each.weight = weight
    balancer = POLICIES["weighted"](Random(0))
    for _ in range(400):
        balancer.pick(loads, Candidate(10, 0.0)).take(10, 100)  # type: ignore[union-attr]

    assert [each.outstanding_tokens for each in loads] == [3000, 1000, 0]


def test_a_client_keeps_its_replica_while_others_come_and_go() -> None:
    """Only clients whose replica left move."""
    names = [f"r{number}" for number in range(10)]
    clients = [f"10.0.0.{number}" for number in range(200)]

    def homes(present: list[str]) -> dict[str, str | None]:
        loads = [load(name) for name in present]
        return {client: picked("client-hash", *loads, client=client) for client in clients}

    before, after = homes(names), homes(names[:-1])
    assert len(set(before.values())) == 10
    assert all(after[client] == home for client, home in before.items() if home != names[-1])


def test_a_replica_with_too_much_work_is_passed_over_by_the_hash() -> None:
    """Bounded load: a busy client does not drown its home."""
    loads = [load("a", 0, window=1000), load("b", 0, window=1000)]
    home = picked("client-hash", *loads, client="x")
    next(each for each in loads if each.replica == home).take(500, 250_000)

    assert picked("client-hash", *loads, client="x") != home


def test_a_new_replica_starts_slowly() -> None:
    """A quarter of its window at first, all of it after ten seconds."""
    new = Load("new", 100, 50, joined=1000.0)

    assert new.window(1000.0) == 25.0
    assert new.window(1000.0 + RAMP_S / 2) == 62.5
    assert new.window(1000.0 + RAMP_S) == 100.0


@given(st.lists(st.integers(1, 500), max_size=30))
def test_what_was_taken_and_released_leaves_nothing(tokens: list[int]) -> None:
    """Also when the cost model moved meanwhile."""
    made = load("a")
    for count in tokens:
        made.take(count, count * count)
    made.cost = SLOW
    for count in tokens:
        made.release(count, count * count)

    assert made.outstanding_tokens == 0
    assert made.outstanding_s == 0.0


def test_texts_are_not_spread_thinner_than_a_batch_is_worth() -> None:
    """A GPU takes 28 ms for any batch; 20 tokens more add a third of a millisecond to them."""
    gpu = Load("gpu", 16_384, 8192, cost=CostModel(0.028, 14e-6, 0.0))
    processor = Load("cpu", 2048, 1024, cost=CostModel(2e-3, 1e-4, 0.0))

    assert gpu.least_share == pytest.approx(2000)
    assert processor.least_share == pytest.approx(20)
