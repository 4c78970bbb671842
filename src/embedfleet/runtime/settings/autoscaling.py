"""Settings of the autoscaler: bounds, targets, triggers and limits on the rate of change.

Triggers and cool-downs default to the common rule of thumb: busy above 80 % for 5 minutes, wait
above 200 ms, p99 above 500 ms, 3 minutes between steps up, 10 minutes between steps down.
"""

from __future__ import annotations

from dataclasses import dataclass

from embedfleet.runtime.settings.rules import duration, setting


@dataclass(frozen=True, slots=True)
class AutoscalingSettings:
    """How many replicas a pool should have, and how fast that may change."""

    enabled: bool = False
    """Let load decide how many replicas each pool has; `pools.replicas` is then not used where
    replicas are started on this machine. The flags of the two bounds turn it on."""
    min_replicas: int = setting(2, at_least=0, at_most=4096, flag="--min-replicas")
    """Fewest replicas of a pool, at any time. Two, so that one may die."""
    max_replicas: int = setting(8, at_least=1, at_most=4096, flag="--max-replicas")
    """Most replicas of a pool, at any time, standby included. On a processor the machine's cores
    are shared out for so many."""
    standby: int = setting(0, at_least=0, at_most=4096)
    """Replicas kept loaded and out of traffic, woken in seconds where a start takes minutes. They
    cost what a ready one costs, so none unless asked for."""
    tick_s: float = duration(5.0)
    """Seconds between two decisions."""
    slo_s: float = duration(0.5)
    """Latency that 99 of 100 texts should stay below, in seconds; a p99 above it for
    `slo_broken_s` asks for more replicas."""
    slo_broken_s: float = duration(30.0)
    """Seconds that the p99 must be above `slo_s` before it counts; one slow text is no trend."""
    max_wait_s: float = duration(0.2)
    """Seconds that a text should wait at most; work that would wait longer asks for more
    replicas."""
    catch_up_s: float = duration(30.0)
    """Seconds, counted from when a replica ordered now is ready, in which everything that waits by
    then should be done. Shorter ones order more replicas for the same backlog."""
    target_utilisation: float | None = setting(None, at_least=0.05, at_most=1.0, none="auto")
    """Share of a replica's measured throughput to plan with. The rest carries traffic that
    rises while further replicas start; the slower they start, the lower this should be. `auto`
    begins with 0.6 and finds out from the pool's own traffic how much reserve pays."""
    learn_rhythm: bool = True
    """Provide for traffic that is usual at this time of the hour, the day, the week or a shorter
    cycle of the pool's own, a start-up time before it comes, once its history has shown that this
    pays."""
    state_directory: str | None = setting(None, none="off")
    """Folder in which what a pool's traffic has taught is kept across restarts: a file of some
    50 kB for each pool, written every five minutes and at the stop. `off` learns from scratch
    after each start."""
    peak_memory_s: float | None = setting(None, at_least=0.001, at_most=86_400.0, none="auto")
    """Seconds in which the memory of a peak of the traffic fades to 37 %: peaks come in groups, and
    the replicas that the last one needed are kept for the next. `auto` is
    as long as they are kept."""
    fast_window_s: float = duration(10.0)
    """Seconds over which a burst is seen."""
    slow_window_s: float = duration(60.0)
    """Seconds over which the level of the traffic is taken."""
    utilisation_ceiling: float = setting(0.8, at_least=0.05, at_most=1.0)
    """Share of the time that replicas may be busy; more for `utilisation_broken_s` asks for more
    replicas. A backstop: it comes late, and says little about waits."""
    utilisation_broken_s: float = duration(300.0)
    """Seconds that replicas must be busier than `utilisation_ceiling` before it counts."""
    memory_ceiling: float = setting(0.9, at_least=0.05, at_most=1.0)
    """Share of a host's memory beyond which no replica is added there, as
    the kernel might kill others."""
    up_cooldown_s: float = setting(180.0, at_least=0, at_most=86_400)
    """Seconds in which the same evidence (a broken p99, busy replicas) does not order twice. More
    traffic or more work that waits is new evidence, and is answered at once."""
    up_most: float = setting(1000.0, at_least=0.01, at_most=1000.0)
    """Growth allowed in `up_interval_s`, as a share of the replicas there are; four replicas are
    always allowed. The default, that of Knative, limits nothing: a step takes what it takes."""
    up_interval_s: float = duration(60.0)
    """Seconds in which the fleet grows by at most `up_most`."""
    down_cooldown_s: float | None = setting(None, at_least=0.001, at_most=86_400.0, none="auto")
    """Quiet seconds before the fleet shrinks: nothing in them, and no growth and no restart of the
    autoscaler, asked for the replicas that would go. `auto` begins with 600 and finds out from the
    pool's own traffic how long replicas should be kept."""
    down_cooldown_least_s: float = duration(20.0)
    """The fewest quiet seconds that `down_cooldown_s = auto` may come to. Raise it where a start is
    expensive in itself."""
    down_cooldown_most_s: float = duration(3600.0)
    """The most quiet seconds that `down_cooldown_s = auto` may come to. Lower it where idle
    replicas cost more than late texts."""
    backlog_cooldown_s: float = duration(60.0)
    """The same, in seconds, for replicas that only cleared what had waited, or that a trend asked
    for: that work is done once."""
    down_most: float = setting(1.0, at_least=0.01, at_most=1.0)
    """Share of the replicas that may go in `down_interval_s`; one replica is always allowed. All by
    default, as in Kubernetes: the quiet window has shown that they are not needed."""
    down_interval_s: float = duration(60.0)
    """Seconds between two steps down, where `down_most` is below 1."""
    stale_s: float = duration(30.0)
    """Age of signals, in seconds, from which they count as missing: the number of replicas is
    held."""
    start_up_s: float = duration(60.0)
    """Seconds that a replica takes to start, until some starts were measured."""
    schedule: tuple[str, ...] = ()
    """Floors and ceilings by time, for instance `mon-fri 07:00-20:00 Europe/Berlin min=4 max=16`.
    A window whose end is not after its start goes over midnight. Floors are met before the window
    starts; a ceiling gives way while the SLO is broken."""
