"""How fast a pool has been lately."""

import pytest

from embedfleet.gateway.throughput import Throughput


def test_nothing_measured_means_a_second() -> None:
    """A caller who is told to come back needs some figure."""
    assert Throughput().seconds(10**6) == 1.0


def test_the_time_for_tokens_follows_from_the_rate() -> None:
    """100 tokens every tenth of a second are 1,000 a second."""
    throughput = Throughput()
    for tick in range(50):
        throughput.add(100, tick / 10)

    assert throughput.seconds(5000) == pytest.approx(5.0)


def test_old_work_is_forgotten() -> None:
    """Only the last seconds count."""
    throughput = Throughput()
    for tick in range(1000):
        throughput.add(1000 if tick < 500 else 10, tick / 10)

    assert throughput.seconds(100) == pytest.approx(1.0)
