"""What a pool's traffic has taught, kept across restarts."""

from __future__ import annotations

import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfleet.autoscaling import Experience, Observation, decide, learned
from embedfleet.autoscaling.adapting import outcomes
from embedfleet.autoscaling.cycle import KEPT, Cycle
from embedfleet.runtime.settings import AutoscalingSettings
from tests.autoscaling.test_adapting import SETTINGS, V, after, edges


@pytest.fixture(scope="module")
def taught() -> Experience:
    """After three hours of edges that nobody can foretell, which teach to hold."""
    return after(3.0, edges)


def seen(now: float = 0.0) -> Observation:
    return Observation(now, 2, 0, 0, 2 * V, 2 * V, 0.0, V, 120.0, texts_per_s=40.0)


def first_moment(experience: Experience, chosen: AutoscalingSettings = SETTINGS) -> Experience:
    return decide(seen(), experience, chosen)[1]


def test_a_restart_follows_the_stance_that_was_learned_from_its_first_moment(
    taught: Experience,
) -> None:
    assert taught.stance != first_moment(Experience()).stance
    again = first_moment(learned.restored(learned.kept(taught)))
    assert again.stance == taught.stance
    assert (again.tokens, again.seconds) == (taught.tokens, taught.seconds)
    assert again.sums == taught.sums
    assert {name: each.cells for name, each in again.seasons.items()} == {
        name: each.cells for name, each in taught.seasons.items()
    }


def test_a_restart_goes_on_with_the_rhythm_that_was_followed() -> None:
    """What its stances came to while it told something is kept: nothing is to be shown anew."""
    rhythmic = after(2.0, lambda now: 12.0 if now % 1200.0 < 600.0 else 3.0)
    assert rhythmic.stance is not None
    assert rhythmic.stance.season == "cycle"
    again = learned.restored(learned.kept(rhythmic))
    trial, before = again.trial, rhythmic.trial
    assert trial is not None
    assert before is not None
    assert trial.seconds == before.seconds
    assert trial.replica_s == pytest.approx(before.replica_s, abs=0.1)
    decided = decide(seen(2.0 * 3600.0), again, SETTINGS)[1]
    assert decided.stance == rhythmic.stance


def test_a_restart_shrinks_nothing_at_first_whatever_was_learned(taught: Experience) -> None:
    idle = replace(seen(), ready=20, arriving_fast=V, arriving_slow=V)
    decision, _ = decide(idle, learned.restored(learned.kept(taught)), SETTINGS)
    assert (decision.planned, decision.winner) == (20, "restart")


def test_fleets_on_paper_begin_with_as_many_replicas_as_there_are(taught: Experience) -> None:
    again = first_moment(learned.restored(learned.kept(taught)))
    assert again.fleets is not None
    assert set(again.fleets.planned) == {SETTINGS.min_replicas}
    assert not again.fleets.backlog.any()


def test_what_was_tried_within_other_bounds_is_not_compared_but_seasons_stay(
    taught: Experience,
) -> None:
    """A stance that is new on the grid would win by having cost nothing."""
    other = replace(SETTINGS, down_cooldown_least_s=100.0)
    again = first_moment(learned.restored(learned.kept(taught)), other)
    fresh = first_moment(Experience(), other)
    assert again.sums == fresh.sums
    assert (again.stance, again.tokens, again.seconds) == (fresh.stance, 0.0, 0.0)
    assert again.seasons["hour"].cells == taught.seasons["hour"].cells


def test_the_period_that_was_found_is_found_again_from_what_is_kept() -> None:
    taught = after(2.0, lambda now: 11.0 if now % 1440 < 720 else 2.0)
    again = learned.restored(learned.kept(taught)).cycle
    assert again.rates == pytest.approx(taught.cycle.rates, rel=1e-3)
    assert (again.bucket, again.period) == (taught.cycle.bucket, taught.cycle.period)
    assert again.period > 0


def test_a_pool_without_traffic_is_persisted_too() -> None:
    again = learned.restored(learned.kept(Experience()))
    assert (again.stance, again.sums, again.seasons) == (None, (), Experience().seasons)
    begun = first_moment(Experience())
    assert first_moment(learned.restored(learned.kept(begun))).stance == begun.stance


def test_what_an_older_or_newer_release_kept_is_read_without_what_only_that_one_knows(
    taught: Experience,
) -> None:
    """The first of this version had a trial for each season, and no promise in a stance."""
    told = msgspec.json.decode(learned.kept(taught))
    told |= {"trials": {"cycle": told.pop("trial")}, "of the next release": [1]}
    for each in (told["followed"], *(each["stance"] for each in told["sums"])):
        del each["promise_s"]
    again = learned.restored(msgspec.json.encode(told))
    assert (again.tokens, again.trial) == (taught.tokens, None)
    assert again.seasons["hour"].cells == taught.seasons["hour"].cells
    decision, _ = decide(seen(), again, SETTINGS)
    assert SETTINGS.min_replicas <= decision.planned <= SETTINGS.max_replicas


def test_the_state_file_is_small(taught: Experience) -> None:
    full = {
        name: replace(each, cells=((123456.789,) * 3,) * len(each.cells))
        for name, each in taught.seasons.items()
    }
    lately = Cycle(np.full(KEPT, 123456.789), 1)
    assert len(learned.kept(replace(taught, seasons=full, cycle=lately))) < 100_000


def change(value: object) -> st.SearchStrategy[object]:
    """Any JSON with one of its values put in another's place."""
    values: list[object] = [None, -1, 1e300, "", [], {}, [[1.0] * 9], True, "x" * 99]
    odd = st.sampled_from(values)
    if isinstance(value, dict) and value:
        key = st.sampled_from(sorted(value))
        return odd | key.flatmap(lambda at: change(value[at]).map(lambda new: {**value, at: new}))
    if isinstance(value, list) and value:
        place = st.integers(0, len(value) - 1)
        return odd | place.flatmap(
            lambda at: change(value[at]).map(lambda new: [*value[:at], new, *value[at + 1 :]])
        )
    return odd


@settings(max_examples=60)
@given(data=st.data())
def test_damaged_bytes_are_refused_or_leave_an_experience_that_decides(
    data: st.DataObject, taught: Experience
) -> None:
    whole = learned.kept(taught)
    if data.draw(st.booleans(), "cut"):
        told = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        told = msgspec.json.encode(data.draw(change(msgspec.json.decode(whole))))
    try:
        found = learned.restored(told)
    except learned.LearnedError:
        return
    decision, again = decide(seen(), found, SETTINGS)
    assert SETTINGS.min_replicas <= decision.planned <= SETTINGS.max_replicas
    assert all(math.isfinite(each.replicas) for each in outcomes(again))


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (b"", "truncated"),
        (b'{"format": "embedfleet-learned"}', "missing required field"),
        (b"\xff", "invalid|malformed"),
        (b" " * (learned.MOST_BYTES + 1), "1,048,577 bytes"),
        (
            b'{"format":"x","version":1,"tokens":0,"seconds":0,"followed":null,"sums":[],"seasons":{}}',
            "format 'x'",
        ),
        (b'{"format":"embedfleet-learned","version":3,"all":"new"}', "version 3; this reads"),
    ],
)
def test_errors_of_undecodable_bytes_are_described(told: bytes, said: str) -> None:
    with pytest.raises(learned.LearnedError, match=said):
        learned.restored(told)


@pytest.mark.parametrize(
    "odd",
    [{"memory_s": 0.0}, {"utilisation": 0.0}, {"utilisation": -3.0}, {"season": "x"}],
    ids=str,
)
def test_a_stance_that_nobody_tried_is_not_followed(odd: dict[str, object]) -> None:
    """Whatever a file says: the usual one is, before enough is known to choose."""
    begun = first_moment(Experience())
    told = msgspec.json.decode(learned.kept(begun))
    told["followed"].update(odd)
    again = first_moment(learned.restored(msgspec.json.encode(told)))
    assert again.stance == begun.stance
