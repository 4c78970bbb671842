"""A pool's names belong to its configuration; what replicas say comes after that."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.models.description import describe
from embedfleet.runtime.settings import Pool
from embedfleet.server.gateway.pools.names import Names, configured, with_short
from embedfleet.vocabulary import SettingError, UnfitReplicaError
from tests.small_tokenizer import write_model


def test_names_that_are_set_are_all_that_a_pool_has(tmp_path: Path) -> None:
    model = describe(write_model(tmp_path / "small"), name="Qwen/small")

    assert configured(Pool(served_names=("a", "b")), model) == ("a", "b")
    assert configured(Pool(), model) == ("Qwen/small", "small")
    assert configured(Pool(), None) == ()


def test_two_pools_with_one_name_do_not_start() -> None:
    pools = [(Pool(served_names=("a", "b")), None), (Pool(model="x/b"), None)]

    with pytest.raises(SettingError, match=r"pools\[0\] and pools\[1\] .* the name b"):
        Names(pools)


def test_a_replica_does_not_get_a_name_that_another_pool_has() -> None:
    """It is refused with the way out; nothing changes for the pool that has the name."""
    names = Names([(Pool(served_names=("builtin",)), None), (Pool(), None)])

    for _ in range(2):
        with pytest.raises(UnfitReplicaError, match=r"pools\[0\] serves: give pools\[1\]"):
            names.offer(1, with_short("builtin"))
    assert names.offer(0, ("builtin",)) == ("builtin",)


def test_the_first_of_two_pools_whose_replicas_name_one_model_has_it() -> None:
    names = Names()

    assert names.offer(1, with_short("Qwen/small")) == ("Qwen/small", "small")
    with pytest.raises(UnfitReplicaError):
        names.offer(0, with_short("Qwen/small"))
    assert names.offer(1, with_short("Qwen/small")) == ("Qwen/small", "small")


def test_a_short_name_that_is_taken_is_left_out() -> None:
    names = Names([(Pool(served_names=("small",)), None)])

    assert names.offer(1, with_short("Qwen/small")) == ("Qwen/small",)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.lists(st.sampled_from("abcd"), min_size=1, max_size=3, unique=True),
        ),
        max_size=12,
    )
)
def test_no_name_ever_has_two_pools(offers: list[tuple[int, list[str]]]) -> None:
    """Whoever offers what, in any order."""
    names = Names([(Pool(served_names=("a",)), None)])
    owners: dict[str, int] = {"a": 0}
    for owner, offered in offers:
        try:
            kept = names.offer(owner, offered)
        except UnfitReplicaError:
            continue
        for name in kept:
            assert owners.setdefault(name, owner) == owner
