"""What all tests share: a real service, started once, as a person would start it."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# Before NumPy is loaded: its threads wait for each other by spinning, and where others are at work
# small products take many times as long on two as on one.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import embedfleet.engines.cpu  # noqa: F401  silences OpenVINO's telemetry
from embedfleet.runtime.telemetry.logs import QueuedHandler
from tests.service import Service, started

# Colours, which some CI systems ask for, are in no output that tests expect.
os.environ.pop("FORCE_COLOR", None)

# A busy machine is no bug: neither a case nor the making of one has a time limit. Where a change is
# judged, all runs try the same examples, so that the verdict is on the change; elsewhere each run
# looks for others.
settings.register_profile(
    "unhurried",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="EMBEDFLEET_TEST_SAME_EXAMPLES" in os.environ,
)
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """`embedfleet serve` with two replicas of the built-in model, on ports of its own.

    EMBEDFLEET_TEST_SERVICE names another model to run these tests with.
    """
    model = os.environ.get("EMBEDFLEET_TEST_SERVICE", "builtin")
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(started(model, log=tmp_path_factory.mktemp("service") / "log"))


@pytest.fixture(scope="module", autouse=True)
def _collected() -> Iterator[None]:
    """What a module's tests left open is reported in that module, not in whichever runs later.

    So is what they logged: a log that was configured within a test has a thread that writes. What
    is left then are libraries and caches, and those are kept out of every later collection: without
    that each module of some 400 takes half a second longer.
    """
    yield
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, QueuedHandler):
            root.removeHandler(handler)
            handler.close()
    gc.collect()
    gc.freeze()


def pytest_collection_finish() -> None:
    """Keep what collection made, for as long as the process lives, out of every later collection
    of garbage: 400,000 objects, looked through once a module and whenever many others come.
    """
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List what was skipped by its cause, and not by where it is."""
    skipped = terminalreporter.stats.get("skipped", [])
    causes = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    for cause, count in causes.most_common():
        terminalreporter.line(f"SKIPPED {count}: {cause}")
