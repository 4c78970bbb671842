"""What a clairvoyant would pay: a schedule that knows the whole trace, and a bound below all.

Asked for is the least number of replica-seconds at which a share of all texts (99.5 %) is answered
within the SLO, on the flow of `flow.py`: the fleet may change every `SLOT_S`; whoever joins was
ordered a start-up time before and is paid for from then on; whoever leaves goes at once. The fleet
at the start is free to choose, and none can join before one start-up time has passed. Two answers
bracket it, `Plan.bound_s` from below and `Plan.replica_s` from above:

**The bound.** Let x be a schedule, cost(x) its replica-seconds, late(x) the texts that miss the SLO
under it, and L how many may. For every price λ ≥ 0 of a late text, a schedule with late(x) ≤ L has

    cost(x) ≥ cost(x) + λ (late(x) − L) ≥ min over y of [cost(y) + λ late(y)] − λ L,

so the right side is a lower bound (weak duality), and the largest over λ the best of them; it is
concave in λ. The minimum over y is a dynamic programme over slots with the state (replicas, work
left over). Work left over is continuous; rounded *down* to a level of a grid, it makes no text late
who would not have been: both the texts late in a slot and what it leaves grow with what it began
with. A text counts as late only if it would miss the SLO were the largest fleet there from the
slot's end on. Both roundings lower the minimum, so the bound stays one.

**The schedule.** The decisions of the same programme with work left over rounded to the nearest
level, followed from the start with the exact work left over, are a schedule; the cheapest found
whose attainment in the simulator is enough is taken. Between the cheapest λ that attains it and the
next below, the schedule that follows the one up to some slot and the other from there on uses up
what may be late.

The two differ by a per cent or two (`docs/autoscaling.md`); the optimum is between them. A schedule
that changes at other moments than multiples of `SLOT_S` is not covered by the bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedfleet.simulator import flow as flows
from embedfleet.simulator.flow import BIN_S, MOST_USED, Flow
from embedfleet.simulator.profiles import Profile
from embedfleet.vocabulary import SettingError

SHARE = 0.995
"""Of all texts that are to be answered within the SLO."""
SLOT_S = 5.0
"""The fleet changes at multiples of this, as a tick of the policy is."""
LEVELS, FINEST_S, RATIO = 26, 0.1, 1.5
"""Levels of work left over: none, then from `FINEST_S` replica-seconds on by a ratio."""
PRICES, ROUNDS = 9, 2
"""Prices of a late text that are tried at once, and how often around the best."""
AROUND = np.array([0.5, 0.8, 1.0, 1.25, 2.0, 6.0, 1e6])
"""Prices that are followed, over the one with the best bound."""
RESERVES = np.array([1.01, 1.02, 1.05, 1.1, 1.2, 1.5])
"""Of the highest price's fleet, where levels that are rounded hide what is late at any price."""
SWITCHES, SWITCH_ROUNDS = 7, 3
"""Slots tried at once at which a schedule goes on with the next lower price, and how often."""
SLACK_TOKENS = 5.0
"""More than all rounding of the simulator's clock amounts to."""
CHUNK = 64
"""Slots that are looked at together, to bound memory."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Choices = NDArray[np.unsignedinteger[Any]]
"""The place of the fleet to have, by slot, fleet before, price and level of work left over."""


class UnattainableError(SettingError):
    """Not even the largest fleet answers enough texts in time."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer for one trace."""

    replicas: Ints
    """Ready replicas of each slot."""
    replica_s: float
    """What that schedule costs: an upper bound of the least cost."""
    attained: float
    """The share of texts that it answers in time, in the simulator."""
    bound_s: float
    """No schedule attains the share with fewer replica-seconds."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a clairvoyant."""

    flow: Flow
    profile: Profile
    slo_s: float = 0.5
    least: int = 1
    """Fewest replicas at any time."""
    most: int = 32
    share: float = SHARE

    @property
    def texts(self) -> float:
        return float(self.flow.counts.sum())

    def able(self, replicas: int) -> Floats:
        """Tokens per second of so many replicas all the time, by bin."""
        return np.full(len(self.flow.tokens), replicas * self.profile.most_per_s)

    def attained(self, able: Floats) -> float:
        """The share in time where the fleet is `able` to do so many tokens per second, by bin."""
        done = flows.served(self.flow, able)
        late = flows.late(self.flow, self.profile, able, done, self.slo_s)
        return 1.0 - late / max(1.0, self.texts)


def fixed(asked: Question) -> int:
    """The smallest fleet of a fixed size that attains the share. UnattainableError."""
    able = asked.able(1)
    low, high = asked.least, asked.most
    if asked.attained(able * high) < asked.share:
        raise UnattainableError(
            f"the oracle: {high} replicas all the time answer {asked.attained(able * high):.2%} of "
            f"the texts within {asked.slo_s:g} s, not {asked.share:.1%}; allow more replicas "
            "(--max-replicas) or a longer latency (--slo-ms)"
        )
    while low < high:
        middle = (low + high) // 2
        if asked.attained(able * middle) >= asked.share:
            high = middle
        else:
            low = middle + 1
    return low


def plan(asked: Question) -> Plan:
    """The cheapest schedule found, and the bound. UnattainableError."""
    fixed(asked)
    return _Programme(asked).solved()


class _Programme:
    """The dynamic programme of one question."""

    def __init__(self, asked: Question) -> None:
        self.asked = asked
        self.bins = round(SLOT_S / BIN_S)
        self.slots = -(-len(asked.flow.tokens) // self.bins)
        self.fleets = np.arange(asked.least, self._largest() + 1)
        self.levels = np.concatenate([[0.0], FINEST_S * RATIO ** np.arange(LEVELS - 1)])
        self.levels *= asked.profile.most_per_s
        self.late = np.zeros((self.slots, len(self.fleets), LEVELS), np.float32)
        """Texts late in a slot, by fleet and level of work left over before: only those that even
        the largest fleet would not save from the slot's end on."""
        self.usually_late = np.zeros_like(self.late)
        """The same, if the fleet stays as it is."""
        self.left = np.zeros((self.slots, len(self.fleets), LEVELS), np.uint8)
        """The level left over after it, rounded down."""
        self.near = np.zeros_like(self.left)
        """The same, rounded to the nearest."""
        self.between = np.sqrt(self.levels[:-1] * self.levels[1:])
        self.between[0] = self.levels[1] / 2.0
        self._tabulate()
        self.allowed = (1.0 - asked.share) * asked.texts

    def _largest(self) -> int:
        """The fleet beyond which no text more is in time."""
        asked = self.asked
        able = asked.able(1)
        best = asked.attained(able * asked.most)
        low, high = asked.least, asked.most
        while low < high:
            middle = (low + high) // 2
            low, high = (
                (low, middle) if asked.attained(able * middle) >= best else (middle + 1, high)
            )
        return low

    # -- what a slot does --------------------------------------------------------------

    def _tabulate(self) -> None:
        flow, short = self.asked.flow, self.slots * self.bins - len(self.asked.flow.tokens)
        tokens = np.concatenate([flow.tokens, np.zeros(short)]).reshape(self.slots, self.bins)
        for counts, own_s in self._groups():
            padded = np.concatenate([counts, np.zeros(short)]).reshape(self.slots, self.bins)
            for first in range(0, self.slots, CHUNK):
                part = slice(first, first + CHUNK)
                self._slots(part, tokens[part], padded[part], own_s)

    def _groups(self) -> list[tuple[Floats, float]]:
        """Texts by bin and the seconds that computing one takes: those together of which a batch,
        not their own length, decides whether they are late.
        """
        flow, profile = self.asked.flow, self.asked.profile
        own_s = flow.lengths / profile.tokens_per_s
        short = own_s <= (self.asked.slo_s - profile.per_batch_s / (1.0 - MOST_USED)) / 2.0
        groups = [(flow.counts[:, short].sum(axis=1).astype(np.float64), 0.0)]
        groups += [
            (flow.counts[:, place].astype(np.float64), float(own_s[place]))
            for place in np.flatnonzero(~short)
        ]
        return [each for each in groups if each[0].any()]

    def _slots(self, part: slice, tokens: Floats, texts: Floats, own_s: float) -> None:
        """Axes: slots, fleets, bins."""
        profile, bins, fleets = self.asked.profile, self.bins, self.fleets
        able = (fleets * profile.most_per_s * BIN_S)[:, None]
        came = tokens[:, None, :]
        # Work left after each bin is max(level + total, total - lowest total so far).
        total = np.cumsum(came - able, axis=2)
        lowest = np.minimum.accumulate(total, axis=2)
        before = np.concatenate([np.zeros_like(total[:, :, :1]), total[:, :, :-1]], axis=2)
        floor = np.zeros_like(before)
        floor[:, :, 1:] = (total - lowest)[:, :, :-1]
        fixed_s = profile.per_batch_s / (1.0 - np.clip(came / able, 0.0, MOST_USED))
        wait_s = np.minimum(self.asked.slo_s - fixed_s - own_s, (self.asked.slo_s - fixed_s) / 2.0)
        longest_s = flows.longest_batch_s(profile)
        wait_s = np.where(
            wait_s > longest_s, self.asked.slo_s - fixed_s - max(own_s, longest_s), wait_s
        )
        # Who is not done by then is late: this slot's fleet until its end, another from there.
        until = np.arange(bins) + 0.5 + wait_s / BIN_S
        inside = (np.minimum(until, bins) - np.arange(bins)) * able - came / 2.0 + SLACK_TOKENS
        for table, after in ((self.late, able[-1]), (self.usually_late, able)):
            most = inside + np.maximum(0.0, until - bins) * after
            most = np.where(wait_s < 0.0, -1.0, most)
            level = np.where(floor > most, -1.0, most - before)
            table[part] += self._by_level(level, texts)
        end = np.maximum(total[:, :, -1:] + self.levels, (total - lowest)[:, :, -1:])
        self.left[part] = np.searchsorted(self.levels, end, side="right") - 1
        self.near[part] = np.searchsorted(self.between, end, side="right")

    def _by_level(self, level: Floats, texts: Floats) -> Floats:
        """Sum of the texts of each slot and fleet whose level is below each of the grid."""
        place = np.searchsorted(self.levels, level, side="right")
        shape = (*place.shape[:2], LEVELS + 1)
        rows = np.arange(shape[0] * shape[1]).reshape(shape[0], shape[1], 1) * (LEVELS + 1)
        weights = np.broadcast_to(texts[:, None, :], place.shape)
        found = np.bincount((rows + place).ravel(), weights.ravel(), int(np.prod(shape)))
        return np.asarray(np.cumsum(found.reshape(shape), axis=2)[:, :, :LEVELS])

    # -- the programme -----------------------------------------------------------------

    def solved(self) -> Plan:
        """The bound by its best price, and the schedule by prices around it."""
        usual = self.asked.least * SLOT_S * self.slots / max(1.0, self.asked.texts)
        prices = usual * np.geomspace(1e-1, 1e5, PRICES)
        bound_s, best = 0.0, float(prices[0])
        for _ in range(ROUNDS):
            bounds = self._values(prices, self.late, self.left) - prices * self.allowed
            place = int(np.argmax(bounds))
            if bounds[place] > bound_s:
                bound_s, best = float(bounds[place]), float(prices[place])
            around = prices[max(0, place - 1)], prices[min(PRICES - 1, place + 1)]
            prices = np.geomspace(*around, PRICES + 2)[1:-1]
        return self._cheapest(best * AROUND, bound_s)

    def _values(
        self,
        prices: Floats,
        late: NDArray[np.float32],
        left: NDArray[np.uint8],
        choices: Choices | None = None,
    ) -> Floats:
        """The least of cost and priced lateness, for each price; what to do goes to `choices`."""
        # Axes: fleets, prices, levels.
        shape = (len(self.fleets), len(prices), LEVELS)
        rows = np.arange(shape[0] * shape[1]).reshape(*shape[:2], 1) * LEVELS
        price, size = prices[None, :, None], self.fleets[:, None, None]
        ahead = here = np.zeros(shape)
        for slot in range(self.slots - 1, -1, -1):
            here = ahead.ravel()[rows + left[slot][:, None, :]]
            here += price * late[slot][:, None, :]
            # The last slot ends with the trace.
            lasts_s = min(SLOT_S, len(self.asked.flow.tokens) * BIN_S - slot * SLOT_S)
            here += size * lasts_s
            if slot:
                ahead = self._joined(slot, here, None if choices is None else choices[slot])
            elif choices is not None:
                choices[0] = here[:, :, :1].argmin(axis=0)
        return np.asarray(here[:, :, 0].min(axis=0))

    def _joined(self, slot: int, here: Floats, choice: Choices | None) -> Floats:
        """The least from here on for each fleet before: leaving is free, joining a start-up."""
        down = _running(here)
        if slot * SLOT_S < self.asked.profile.start_s + SLOT_S:
            if choice is not None:
                choice[:] = _places(here, down)
            return down
        joining = (self.fleets * self.asked.profile.start_s)[:, None, None]
        dear = here + joining
        up = _running(dear[::-1])[::-1]
        if choice is not None:
            rising = len(self.fleets) - 1 - _places(dear[::-1], up[::-1])[::-1]
            choice[:] = np.where(up - joining < down, rising, _places(here, down))
        return np.minimum(down, up - joining)

    # -- schedules ---------------------------------------------------------------------

    def _cheapest(self, prices: Floats, bound_s: float) -> Plan:
        """Follow each price; then, up to some slot, the cheapest that attains the share, and from
        there on the next lower one, with the slot as late as need be. Where none attains it, the
        highest with a reserve or the fixed fleet, whichever is cheaper.
        """
        shape = (self.slots, len(self.fleets), len(prices), LEVELS)
        choices = np.zeros(shape, np.min_scalar_type(len(self.fleets)))
        self._values(prices, self.usually_late, self.near, choices)
        every = np.arange(len(prices))
        followed = self._followed(choices, every, every, every)
        larger = np.ceil(followed[-1] * RESERVES[:, None]).astype(np.int64)
        followed += list(np.minimum(larger, self.asked.most))
        fixed_size = np.full(self.slots, fixed(self.asked))
        place, best = self._first_enough([*followed, fixed_size], bound_s)
        if place >= len(prices):
            return min(best, self._measured(fixed_size, bound_s), key=lambda each: each.replica_s)
        low, high = 0, self.slots
        for _ in range(SWITCH_ROUNDS if place else 0):
            slots = np.linspace(low, high, SWITCHES + 2).astype(int)[1:-1]
            first, then = np.full(SWITCHES, place), np.full(SWITCHES, place - 1)
            found, each = self._first_enough(
                [*self._followed(choices, first, then, slots), best.replicas], bound_s
            )
            best = min(best, each, key=lambda each: each.replica_s)
            around = [low, *slots, high]
            low, high = around[min(found, SWITCHES)], around[min(found + 1, SWITCHES + 1)]
        return best

    def _first_enough(self, schedules: list[Ints], bound_s: float) -> tuple[int, Plan]:
        """The first of some schedules, each with more replicas than the last, that attains the
        share, by bisection, and its place; the last one does.
        """
        low, high, best = 0, len(schedules) - 1, self._measured(schedules[-1], bound_s)
        while low < high:
            middle = (low + high) // 2
            each = self._measured(schedules[middle], bound_s)
            if each.attained >= self.asked.share:
                high, best = middle, each
            else:
                low = middle + 1
        return high, best

    def _followed(self, choices: Choices, first: Ints, then: Ints, switch: Ints) -> list[Ints]:
        """Replicas by slot where `first` is followed until slot `switch` and `then` from there on,
        with the exact work left over; several at once.
        """
        short = self.slots * self.bins - len(self.asked.flow.tokens)
        padded = np.concatenate([self.asked.flow.tokens, np.zeros(short)])
        tokens = padded.reshape(self.slots, 1, self.bins)
        able = (self.fleets * self.asked.profile.most_per_s * BIN_S)[:, None]
        rows, work = np.zeros(len(first), np.int64), np.zeros(len(first))
        at = np.zeros((self.slots, len(first)), np.int64)
        for slot in range(self.slots):
            level = self.between.searchsorted(work, side="right")
            rows = choices[slot, rows, np.where(slot < switch, first, then), level].astype(np.int64)
            at[slot] = rows
            total = (tokens[slot] - able[rows]).cumsum(axis=1)
            work = np.maximum(work + total[:, -1], total[:, -1] - total.min(axis=1))
        return list(self.fleets[at].T)

    def _measured(self, replicas: Ints, bound_s: float) -> Plan:
        """What a schedule costs and attains."""
        able_s, bins = self.asked.profile.most_per_s, len(self.asked.flow.tokens)
        able = np.repeat(replicas * able_s, self.bins)[:bins]
        joined = np.maximum(0, np.diff(replicas)).sum() * self.asked.profile.start_s
        replica_s = float(able.sum() / able_s * BIN_S + joined)
        return Plan(replicas, replica_s, self.asked.attained(able), bound_s)


def _running(values: Floats) -> Floats:
    """The running minimum along the first axis, by doubling: quicker than `minimum.accumulate`."""
    least, step = values.copy(), 1
    while step < len(least):
        least[step:] = np.minimum(least[step:], least[:-step])
        step *= 2
    return least


def _places(values: Floats, least: Floats) -> Ints:
    """Where along the first axis the running minimum was met last."""
    met = np.where(values <= least, np.arange(len(values))[:, None, None], 0)
    return np.asarray(np.maximum.accumulate(met, axis=0))
