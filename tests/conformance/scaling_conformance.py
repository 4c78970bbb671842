"""What the autoscaler relies on: whoever gives observations and whoever takes orders.

A test module derives a class from each and says how one is made; fakes are held to it as well.
"""

from __future__ import annotations

import math
import time

from embedfleet.autoscaling import ObservationSource, Target


class TargetConformance:
    """Of `autoscaling.scaler.Target`; the fixture `target` gives one that has two replicas."""

    async def test_what_is_there_at_first_counts(self, target: Target) -> None:
        """The autoscaler begins with it."""
        assert (target.planned, target.standby) == (2, 0)

    async def test_what_is_ordered_counts_from_then_on(self, target: Target) -> None:
        """Not when it is ready: else it would be ordered again at the next tick."""
        await target.scale_to(4, 1, "a test")
        assert (target.planned, target.standby) == (4, 1)
        await target.scale_to(1, 0, "a test")
        assert (target.planned, target.standby) == (1, 0)

    async def test_an_order_that_is_repeated_changes_nothing(self, target: Target) -> None:
        """The loop may say the same again."""
        for _ in range(3):
            await target.scale_to(3, 0, "a test")
        assert (target.planned, target.standby) == (3, 0)

    async def test_the_time_of_a_start_is_unknown_or_a_time(self, target: Target) -> None:
        """Never zero by default: the policy would think that help comes at once."""
        assert math.isnan(target.start_up_s) or target.start_up_s > 0


class ObservationSourceConformance:
    """Of `ObservationSource`; the fixture `source` observes a pool without traffic."""

    async def test_it_tells_of_the_moment_it_was_asked_for(self, source: ObservationSource) -> None:
        """All figures of an observation belong together."""
        now = time.monotonic()
        assert (await source.observe(now)).now == now

    async def test_no_traffic_is_zero_and_not_unknown(self, source: ObservationSource) -> None:
        """A quiet pool may shrink; one that nobody sees must not."""
        seen = await source.observe(time.monotonic())
        assert (seen.arriving_fast, seen.arriving_slow) == (0.0, 0.0)
        assert seen.waiting_tokens >= 0

    async def test_what_is_unknown_is_nan_and_never_negative(
        self, source: ObservationSource
    ) -> None:
        """Numbers that mean something else are how mistakes begin."""
        seen = await source.observe(time.monotonic())
        for value in (seen.tokens_per_s, seen.utilisation, seen.latency_p99_s, seen.start_up_s):
            assert math.isnan(value) or value >= 0
