"""What the benchmark of the cache must not do."""

from __future__ import annotations

import pytest
from benchmarks.cache import check_enough


def test_a_measurement_that_asked_more_than_was_prepared_is_refused() -> None:
    """Questions that were new would be known the second time."""
    check_enough(100, asked=100)
    with pytest.raises(RuntimeError, match="101 requests were asked and 100 were prepared"):
        check_enough(100, asked=101)
