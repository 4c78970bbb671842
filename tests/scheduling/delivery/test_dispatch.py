"""Late binding: which texts go to which replica, and when."""

from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfleet.fleet.balancing import POLICIES, Load
from embedfleet.fleet.balancing.least_work import LeastWork
from embedfleet.scheduling.delivery.decisions import ABANDONED_S, SHUT_S, Event, Step, error_of
from embedfleet.scheduling.delivery.dispatch import Call, Dispatcher
from embedfleet.scheduling.texts import Text
from embedfleet.vocabulary import CallerError, Lane, ReplicaError


class Numbered(Text):
    """A text that a test knows by its number."""

    order: int


def queued(tokens: int, order: int = 0, arrived: float = 0.0, client: str = "") -> Any:
    text = Numbered(np.zeros(tokens, np.int32))
    text.order = order
    text.submitted(Lane.INTERACTIVE, 1e9, arrived, client)
    return text


def number_of(text: Text) -> int:
    assert isinstance(text, Numbered)
    return text.order


def load(name: str, window: int = 100, batch: int = 50, **fields: Any) -> Load:
    return Load(name, window, batch, **fields)


def dispatcher(*loads: Load, texts: list[int] = [], attempts: int = 4) -> Dispatcher:  # noqa: B006
    made = Dispatcher(LeastWork(), attempts=attempts)
    for load in loads:
        made.join(load)
    for index, tokens in enumerate(texts):
        made.queue.put(queued(tokens, index))
    return made


def shown(calls: list[Call]) -> list[tuple[str, list[int]]]:
    return [(each.replica, [text.tokens for text in each.texts.values()]) for each in calls]


def test_texts_wait_in_the_queue_until_a_replica_has_room() -> None:
    """The window of outstanding work binds late."""
    made = dispatcher(Load("a", 100, 50), texts=[40, 40, 40, 40])

    assert shown(made.assign(0.0)) == [("a", [40]), ("a", [40])]
    assert len(made.queue) == 2
    assert made.assign(0.0) == []


def test_few_texts_are_spread_over_idle_replicas() -> None:
    """Two replicas compute eight texts faster than one does."""
    made = dispatcher(Load("a", 1000, 500), Load("b", 1000, 500), texts=[10] * 8)

    assert shown(made.assign(0.0)) == [("a", [10] * 4), ("b", [10] * 4)]


def test_many_texts_are_cut_into_batches() -> None:
    """One call fills one batch of its replica's engine."""
    made = dispatcher(Load("a", 100, 50), texts=[10] * 20)

    assert [len(texts) for _, texts in shown(made.assign(0.0))] == [5, 5]


def test_a_long_text_does_not_hold_up_the_other_replica() -> None:
    """Short ones behind it go where there is room."""
    made = dispatcher(Load("a", 100, 50), Load("b", 100, 50), texts=[900])
    (first,) = made.assign(0.0)
    for _ in range(3):
        made.queue.put(queued(10))

    assert shown([first, *made.assign(0.0)]) == [("a", [900]), ("b", [10, 10, 10])]


def test_an_answered_text_makes_room() -> None:
    """And the next one goes out."""
    made = dispatcher(Load("a", 20, 10), texts=[10, 10, 10])
    first, _ = made.assign(0.0)
    made.settle(first, 0)

    assert shown(made.assign(0.0)) == [("a", [10])]


def test_what_a_lost_replica_left_goes_to_another() -> None:
    """In its old order, before what came later."""
    made = dispatcher(Load("a", 100, 50), texts=[11, 11, 11])
    (call,) = made.assign(0.0)
    made.settle(call, 1)
    made.queue.put(queued(14, 3, arrived=1.0))
    made.leave("a")
    made.end(call, Event.LOST, 0.0)
    made.join(Load("b", 100, 50))

    assert shown(made.assign(0.0)) == [("b", [11, 11, 14])]


def test_a_text_avoids_the_replica_that_failed_it_while_there_is_another() -> None:
    """And goes back to it when there is none."""
    made = dispatcher(Load("a", 100, 50), texts=[10])
    (call,) = made.assign(0.0)
    made.join(Load("b", 100, 50, outstanding_tokens=40))
    made.end(call, Event.FAILED, 0.0)
    (second,) = made.assign(0.0)
    assert second.replica == "b"

    made.end(second, Event.FAILED, 0.0)
    made.leave("b")
    assert shown(made.assign(0.0)) == [("a", [10])]


def ended(made: Dispatcher, call: Call, event: Event, now: float = 0.0) -> list[Step]:
    return [step for _, step in made.end(call, event, now)]


def test_an_answer_that_was_never_asked_for_is_refused_and_a_second_one_is_ignored() -> None:
    made = dispatcher(load("a"), texts=[10])
    (call,) = made.assign(0.0)
    assert made.settle(call, 0) is not None

    assert made.settle(call, 0) is None
    for stranger in (1, -1):
        with pytest.raises(ReplicaError, match="was not in the call"):
            made.settle(call, stranger)


def test_a_text_that_was_tried_too_often_is_given_up() -> None:
    """Leases that ended by the fault of a replica count."""
    made = dispatcher(load("a"), texts=[10], attempts=2)
    for step in (Step.REQUEUE, Step.FAIL):
        (call,) = made.assign(0.0)
        assert ended(made, call, Event.FAILED) == [step]


def test_refusals_are_no_attempts() -> None:
    """However many there are, until the deadline: nobody tried the text."""
    made = dispatcher(load("a"), texts=[10], attempts=1)
    for now in range(50):
        (call,) = made.assign(float(now))
        event = Event.REFUSED if now % 2 else Event.UNREACHED
        assert ended(made, call, event, now) == [Step.REQUEUE]
    (call,) = made.assign(60.0)
    assert ended(made, call, Event.REFUSED, 2e9) == [Step.FAIL]


def test_retries_are_granted_as_far_as_the_budget_goes() -> None:
    """The most urgent texts first; the others fail, instead of all of them."""
    made = dispatcher(load("a", 10**6, 10**6), texts=[1] * 100)
    (call,) = made.assign(0.0)
    made.retries.saved = 30.5
    assert ended(made, call, Event.FAILED) == [Step.REQUEUE] * 30 + [Step.FAIL] * 70


@pytest.mark.parametrize("texts", [256, 300, 1000, 5000])
def test_a_failed_call_is_retried_whole_however_many_texts_it_holds(texts: int) -> None:
    """After a quiet time: one bad call fails nobody."""
    made = dispatcher(load("a", 10**6, 10**6), texts=[1] * texts)
    (call,) = made.assign(0.0)
    assert set(ended(made, call, Event.FAILED)) == {Step.REQUEUE}


def test_a_text_that_may_not_use_the_idle_replica_blocks_no_other() -> None:
    """Its own replica is full; texts behind it, in either lane, take the idle one."""
    made = dispatcher(load("a"), texts=[10])
    (call,) = made.assign(0.0)
    made.join(load("b", 100, 50, outstanding_tokens=95))
    made.end(call, Event.FAILED, 0.0)
    for order in range(3):
        made.queue.put(queued(2, order, arrived=1.0))
    bulk = queued(2, 3, arrived=1.0)
    bulk.lane = Lane.BULK
    made.queue.put(bulk)

    assert shown(made.assign(0.0)) == [("a", [2, 2, 2, 2])]
    assert len(made.queue) == 1


def test_a_text_that_finds_no_room_keeps_its_claim_on_the_replica_that_it_waits_for() -> None:
    """Or a stream of short texts would keep it full for ever."""
    made = dispatcher(load("a"), texts=[60])
    (call,) = made.assign(0.0)
    made.join(load("b", 100, 50, outstanding_tokens=70))
    made.end(call, Event.FAILED, 0.0)
    for _ in range(30):
        made.queue.put(queued(10, arrived=1.0))

    assert {call.replica for call in made.assign(0.0)} == {"a"}


def test_a_late_text_is_hedged_once_and_to_a_replica_that_does_not_have_it() -> None:
    made = dispatcher(load("slow"), texts=[10])
    (first,) = made.assign(0.0)
    assert made.late(0.9) == []
    assert made.late(1.1) == [first]
    assert made.hedge(first, 1.1) == 0, "there is no other replica"
    made.join(load("quick"))
    assert made.late(1.5) == []
    assert made.late(2.2) == [first]
    assert made.hedge(first, 2.2) == 1
    (second,) = made.assign(2.2)
    assert second.replica == "quick"
    for now in range(4, 30):
        assert set(made.late(float(now))) <= {first, second}
        assert made.hedge(first, now) == made.hedge(second, now) == 0
        assert made.assign(now) == []


def test_a_hedge_never_goes_to_the_same_cores() -> None:
    """It would only take time from the first."""
    made = dispatcher(load("a", cores="localhost"), load("b", cores="localhost"), texts=[10])
    (first,) = made.assign(0.0)
    assert made.late(2.0) == [first]
    assert made.hedge(first, 2.0) == 0
    made.join(load("c", cores="elsewhere"))
    assert made.hedge(first, 2.0) == 1
    assert [call.replica for call in made.assign(2.0)] == ["c"]


def test_of_two_leases_the_first_answer_settles_and_the_other_is_cancelled() -> None:
    made = dispatcher(load("slow"), texts=[5, 6])
    (first,) = made.assign(0.0)
    made.join(load("quick"))
    made.hedge(first, 2.0)
    (second,) = made.assign(2.0)

    assert made.settle(second, 0) is not None
    assert first.outrun
    assert not second.outrun
    assert made.unwanted() == {first: [0]}
    assert made.unwanted() == {}, "each is told once"
    assert made.settle(first, 0) is None
    assert made.settle(first, 1) is not None
    assert not second.outrun, "a hedge that comes second has failed nobody"
    assert made.end(first, Event.FAILED, 3.0) == []
    assert made.end(second, Event.FAILED, 3.0) == []
    assert made.outstanding_tokens == 0
    assert [load.calls for load in made.loads] == [0, 0]


def test_a_late_answer_takes_the_hedge_out_of_the_queue() -> None:
    """It need not be computed again."""
    made = dispatcher(load("slow"), texts=[10])
    (first,) = made.assign(0.0)
    made.join(load("full", outstanding_tokens=200))
    made.hedge(first, 2.0)
    assert len(made.queue) == 1
    assert made.settle(first, 0) is not None
    assert len(made.queue) == 0


def test_a_hedge_is_no_attempt_and_outlives_the_failure_of_the_first() -> None:
    made = dispatcher(load("slow"), texts=[10], attempts=1)
    (first,) = made.assign(0.0)
    made.join(load("quick"))
    made.hedge(first, 2.0)
    (second,) = made.assign(2.0)
    assert ended(made, first, Event.FAILED, 3.0) == [Step.WAIT]
    assert made.settle(second, 0) is not None


def test_a_hedge_that_still_waits_takes_the_place_of_a_lease_that_failed() -> None:
    made = dispatcher(load("slow"), texts=[10], attempts=2)
    (first,) = made.assign(0.0)
    made.join(load("full", outstanding_tokens=200))
    made.hedge(first, 2.0)
    assert ended(made, first, Event.FAILED, 3.0) == [Step.WAIT]
    assert len(made.queue) == 1
    made.leave("full")
    assert [call.replica for call in made.assign(3.0)] == ["slow"], "there is no other one"


def test_a_call_is_late_again_only_after_as_long_again() -> None:
    made = dispatcher(load("a"), texts=[10])
    (call,) = made.assign(0.0)
    told = [now / 10 for now in range(100) if made.late(now / 10)]
    assert len(told) == pytest.approx(9, abs=1)
    call.progressed_s = call.load.progressed_s = 10.0
    assert made.late(10.9) == []


def test_bulk_that_others_overtake_is_not_late() -> None:
    """A replica computes interactive texts first."""
    made = dispatcher(load("a"))
    bulk = queued(10)
    bulk.lane = Lane.BULK
    made.queue.put(bulk)
    (call,) = made.assign(0.0)
    call.load.progressed_s = 4.5
    assert made.late(5.0) == []
    assert made.late(5.6) == [call], "now it brings nothing at all"


def test_a_long_text_may_be_overtaken_for_its_slack() -> None:
    made = dispatcher(load("a", 20_000, 20_000), texts=[4000])
    (call,) = made.assign(0.0)
    call.load.outstanding_s = 0.1
    call.load.progressed_s = 2.9
    assert made.late(2.9) == []
    assert made.late(3.1) == [call]


def test_an_unfit_vector_is_final_when_a_second_replica_says_so() -> None:
    made = dispatcher(load("a"), load("b"), texts=[10])
    (first,) = made.assign(0.0)
    text, step = made.fail(first, 0, Event.INVALID, 0.0)
    assert step is Step.REQUEUE
    (second,) = made.assign(0.0)
    assert second.replica != first.replica
    text, step = made.fail(second, 0, Event.INVALID, 0.0)
    assert step is Step.FAIL
    assert text.invalid == {"a", "b"}


def test_an_unfit_vector_is_not_final_while_a_second_replica_may_come_back() -> None:
    """Until then the one that is there is asked again, as often as a text may be tried."""
    made = dispatcher(load("a"), texts=[10])
    made.members = frozenset({"a", "b"})
    steps = []
    for _ in range(4):
        (call,) = made.assign(0.0)
        steps.append(made.fail(call, 0, Event.INVALID, 0.0)[1])
    assert steps == [Step.REQUEUE, Step.REQUEUE, Step.REQUEUE, Step.FAIL]


def test_an_unfit_vector_is_final_where_there_is_no_second_replica() -> None:
    made = dispatcher(load("a"), texts=[10])
    (call,) = made.assign(0.0)
    assert made.fail(call, 0, Event.INVALID, 0.0)[1] is Step.FAIL


def test_a_text_that_one_replica_can_not_be_given_goes_to_each_other_one() -> None:
    """They may be of another kind; none of these tries counts as an attempt."""
    made = dispatcher(load("a"), load("b"), load("c"), texts=[10], attempts=1)
    steps = []
    for _ in range(3):
        (call,) = made.assign(0.0)
        text, step = made.fail(call, 0, Event.UNSENDABLE, 0.0)
        steps.append(step)
    assert steps == [Step.REQUEUE, Step.REQUEUE, Step.FAIL]
    assert text.invalid == {"a", "b", "c"}
    assert isinstance(error_of(text, Event.UNSENDABLE, "texts only", 0.0), CallerError)


def test_a_replica_that_says_again_that_it_can_not_be_given_a_text_ends_it() -> None:
    """While the others are out of traffic nobody is asked without end."""
    made = dispatcher(load("a"), texts=[10], attempts=2)
    made.members = frozenset({"a", "b"})
    steps = []
    for _ in range(3):
        (call,) = made.assign(0.0)
        steps.append(made.fail(call, 0, Event.UNSENDABLE, 0.0)[1])
    assert steps == [Step.REQUEUE, Step.REQUEUE, Step.FAIL]


def test_a_deadline_that_was_extended_meanwhile_is_no_fault_of_the_replica() -> None:
    made = dispatcher(load("a"), texts=[10], attempts=1)
    (call,) = made.assign(0.0)
    call.texts[0].extended = True
    assert made.fail(call, 0, Event.EXPIRED, 0.0)[1] is Step.REQUEUE
    (call,) = made.assign(0.0)
    assert made.fail(call, 0, Event.EXPIRED, 0.0)[1] is Step.FAIL


def test_texts_lost_with_two_replicas_are_halved_and_not_tried_one_by_one() -> None:
    """Of three replicas two die for reasons of their own: three hundred texts need two calls."""
    made = dispatcher(load("a", 10**5, 10**5), texts=[10] * 300)
    for _ in range(2):
        (call,) = made.assign(0.0)
        made.end(call, Event.LOST, 0.0)
    sizes = []
    while calls := made.assign(0.0):
        for call in calls:
            sizes.append(len(call.texts))
            for number in list(call.texts):
                made.settle(call, number)
            made.end(call, Event.FAILED, 0.0)
    assert sizes == [150, 150]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 400), st.data())
def test_the_one_text_that_kills_replicas_is_found_and_the_others_are_answered(
    texts: int, data: st.DataObject
) -> None:
    """After about log2(n) losses, and it alone has failed."""
    poison = data.draw(st.integers(0, texts - 1))
    made = dispatcher(load("a", 10**5, 10**5), load("b", 10**5, 10**5), texts=[10] * texts)
    condemned: list[int] = []
    answered: list[int] = []
    losses = 0
    while len(answered) + len(condemned) < texts:
        for call in made.assign(0.0):
            if poison in {number_of(text) for text in call.texts.values()}:
                losses += 1
                steps = made.end(call, Event.LOST, 0.0)
                condemned += [number_of(text) for text, step in steps if step is Step.FAIL]
            else:
                for number in list(call.texts):
                    text = made.settle(call, number)
                    assert text is not None
                    answered.append(number_of(text))
                made.end(call, Event.FAILED, 0.0)

    assert condemned == [poison]
    assert sorted(answered) == [index for index in range(texts) if index != poison]
    assert losses <= 4 + texts.bit_length()


def test_a_call_that_the_gateway_aborted_is_no_crash() -> None:
    """It ejected the replica: its texts go elsewhere together."""
    made = dispatcher(load("a"), texts=[10] * 4)
    for _ in range(3):
        (call,) = made.assign(0.0)
        assert set(ended(made, call, Event.EJECTED)) == {Step.REQUEUE}
    (call,) = made.assign(0.0)
    assert not call.isolated
    assert set(ended(made, call, Event.EJECTED)) == {Step.FAIL}, "four replicas had them"


def test_a_group_waits_for_a_replica_that_has_nothing_else() -> None:
    """Which meanwhile gets nothing new; the others go on."""
    made = dispatcher(load("a"), texts=[30])
    for _ in range(2):
        (call,) = made.assign(0.0)
        made.end(call, Event.LOST, 0.0)
    a = made.load_of("a")
    assert a is not None
    a.take(10, 100)
    made.join(load("b", outstanding_tokens=20))
    made.queue.put(queued(40))

    assert shown(made.assign(0.0)) == [("b", [40])]
    a.release(10, 100)
    (alone,) = made.assign(0.0)
    assert (alone.replica, alone.isolated) == ("a", True)
    made.queue.put(queued(5))
    assert shown(made.assign(0.0)) == [("b", [5])]


def test_a_group_goes_to_a_replica_that_can_be_reached() -> None:
    """One that is gone would keep it for ever."""
    made = dispatcher(load("gone"), texts=[30], attempts=9)
    for _ in range(2):
        (call,) = made.assign(0.0)
        made.end(call, Event.LOST, 0.0)
    (call,) = made.assign(0.0)
    made.end(call, Event.UNREACHED, 0.0)
    made.join(load("here"))
    assert [call.replica for call in made.assign(SHUT_S / 2)] == ["here"]


def test_a_replica_that_was_not_reached_is_left_alone_for_a_moment_after_it() -> None:
    """Counted from the failure: a connection may take five seconds to fail."""
    made = dispatcher(load("blackhole"), texts=[10])
    (call,) = made.assign(0.0)
    made.join(load("well"))
    made.end(call, Event.UNREACHED, 5.0)
    assert [call.replica for call in made.assign(5.0)] == ["well"]
    made.queue.put(queued(10))
    made.leave("well")
    assert made.assign(5.0 + SHUT_S / 2) == []
    assert [call.replica for call in made.assign(5.0 + SHUT_S)] == ["blackhole"]


def test_withdrawn_texts_are_cancelled_where_they_are() -> None:
    made = dispatcher(load("a", 100, 30), texts=[30, 30, 60])
    calls = made.assign(0.0)
    texts = [text for call in calls for text in call.texts.values()]
    waiting = made.queue.peek()
    assert waiting is not None
    assert made.withdraw([*texts, waiting]) == 3
    assert made.withdraw(texts) == 0
    assert len(made.queue) == 0
    assert made.unwanted() == {calls[0]: [0], calls[1]: [0]}
    assert made.settle(calls[0], 0) is texts[0], "its batch had begun: the cache can have it"
    assert made.end(calls[1], Event.FAILED, 0.0) == []
    assert len(made.queue) == 0


def test_a_call_without_waiters_and_progress_is_aborted() -> None:
    made = dispatcher(load("a"), texts=[10, 10])
    (call,) = made.assign(0.0)
    first, second = call.texts.values()
    made.withdraw([first])
    assert made.abandoned(ABANDONED_S) == []
    made.withdraw([second])
    assert made.abandoned(ABANDONED_S - 1) == []
    assert made.abandoned(ABANDONED_S) == [call]


@pytest.mark.parametrize("replicas", [4, 8, 9, 16, 40])
def test_a_client_meets_its_own_replica_in_a_pool_of_any_size(replicas: int) -> None:
    made = Dispatcher(POLICIES["client-hash"](Random(1)), attempts=4)
    for number in range(replicas):
        made.join(Load(f"r{number}", 16_384, 8_192))
    met: dict[str, set[str]] = {}
    for step in range(400):
        made.queue.put(queued(20, client=f"10.0.0.{step % 20}"))
        for call in made.assign(0.0):
            met.setdefault(call.texts[0].client, set()).add(call.replica)
            made.settle(call, 0)
            made.end(call, Event.FAILED, 0.0)
    assert {len(names) for names in met.values()} == {1}


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 120))
def test_every_text_is_settled_exactly_once_whatever_replicas_do(
    seed: int, replicas: int, texts: int
) -> None:
    """Replicas answer in any order, late, twice or not at all, leave and come back; callers leave.
    Nothing is lost or doubled, no text is leased twice on the same cores or hedged twice, and what
    is outstanding adds up.
    """
    chaos = Chaos(Random(seed), replicas, texts)
    for _ in range(100_000):
        if not chaos.step():
            break
    chaos.check_at_rest()


class Chaos:
    """Random events, and what must hold after each."""

    def __init__(self, rng: Random, replicas: int, texts: int) -> None:
        self.rng = rng
        policy = POLICIES[rng.choice(sorted(POLICIES))](rng)
        self.made = Dispatcher(policy, attempts=rng.choice([1, 2, 4, 10]))
        self.unborn = list(range(texts))
        self.texts: list[Any] = []
        self.outcomes: dict[int, list[str]] = {number: [] for number in self.unborn}
        self.given: dict[int, list[float]] = {}
        self.now = 0.0
        for number in range(replicas):
            self.join(f"r{number}")

    def join(self, name: str) -> None:
        cores = self.rng.choice(["", "", "machine"])
        window, batch = self.rng.randint(1, 300), self.rng.randint(1, 100)
        self.made.join(Load(name, window, batch, cores=cores))

    def step(self) -> bool:
        """One event; False when nothing is left to happen."""
        rng, made = self.rng, self.made
        self.now += rng.random() * rng.choice([0.01, 0.5])
        if self.unborn and rng.random() < 0.5:
            text = queued(rng.randint(1, 150), self.unborn.pop(), self.now)
            text.lane = rng.choice(list(Lane))
            self.texts.append(text)
            made.queue.put(text)
        for call in made.assign(self.now):
            for text in call.texts.values():
                cores = [lease.cores for lease in text.leases]
                assert len(cores) == len(set(cores)) <= 2
                assert text.open
                assert text.place is None
        for call in made.late(self.now):
            before = [text.hedged for text in call.texts.values()]
            assert made.hedge(call, self.now) <= before.count(False)
        if rng.random() < 0.05 and (waiting := [each for each in self.texts if each.open]):
            text = rng.choice(waiting)
            made.withdraw([text])
            self.outcomes[text.order].append("withdrawn")
        made.unwanted()
        if made.calls:
            self.touch(rng.choice(list(made.calls)))
        self.check()
        return bool(self.unborn or made.calls or any(text.open for text in self.texts))

    def touch(self, call: Call) -> None:
        """Some of a call's texts are answered or fail, or the call ends."""
        rng, made = self.rng, self.made
        answered = rng.sample(range(call.asked), rng.randint(0, call.asked))
        for text_id in answered:
            if text_id in call.texts and rng.random() < 0.1:
                event = rng.choice([Event.INVALID, Event.EXPIRED, Event.FAILED])
                self.note([made.fail(call, text_id, event, self.now)])
                continue
            text = made.settle(call, text_id)
            if text is not None and not text.withdrawn:
                self.outcomes[number_of(text)].append("answered")
        if answered:
            call.progressed_s = call.load.progressed_s = self.now
        if call.texts and rng.random() < 0.7:
            return
        event = rng.choice([each for each in Event if each is not Event.LATE])
        if call.texts and rng.random() < 0.3:
            made.leave(call.replica)
            self.join(call.replica)
        self.note(made.end(call, event, self.now))

    def note(self, steps: list[tuple[Any, Step]]) -> None:
        for text, step in steps:
            if step is Step.FAIL:
                self.outcomes[text.order].append("failed")

    def check(self) -> None:
        made = self.made
        leased = [text for call in made.calls for text in call.texts.values()]
        assert made.outstanding_tokens == sum(text.tokens for text in leased)
        for load in made.loads:
            held = [
                text for call in made.calls if call.load is load for text in call.texts.values()
            ]
            assert load.outstanding_tokens == sum(text.tokens for text in held)
            assert load.calls == sum(call.load is load for call in made.calls)
        somewhere = set(made)
        for text in self.texts:
            assert not text.open or text in somewhere, "a text is lost"
            assert len(text.leases) == leased.count(text)
        assert made.queue.tokens == sum(text.tokens for text in made.queue)
        assert len(made.queue) == len(list(made.queue))

    def check_at_rest(self) -> None:
        assert {len(each) for each in self.outcomes.values()} == {1}
        assert self.made.outstanding_tokens == len(self.made.queue) == 0
