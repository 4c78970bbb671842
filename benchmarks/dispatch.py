"""What deciding costs: microseconds per text with few and with very many replicas and texts.

    python -m benchmarks.dispatch [--repetitions 3]

Fills the queue of a pool's dispatcher, then lets it hand out texts and settles them until nothing
is left, as a pool does when frames come back. No sockets, no vectors: what is measured is the
decision alone. 500 replicas and a million queued texts must cost no more per text than 5 and 100.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
from benchmarks.gateway import machine

from embedfleet.fleet.balancing import Load
from embedfleet.fleet.balancing.least_work import LeastWork
from embedfleet.scheduling.delivery.decisions import Event
from embedfleet.scheduling.delivery.dispatch import Call, Dispatcher
from embedfleet.scheduling.texts import Text
from embedfleet.vocabulary import Lane

SIZES: Final = ((5, 100), (5, 10_000), (50, 100_000), (500, 1_000_000))
"""Replicas and queued texts."""
BATCH_TOKENS = 8192
FRAME_TEXTS = 64


def texts(count: int) -> list[Text]:
    """Texts of 1 to 200 tokens, every fifth interactive."""
    rng = np.random.default_rng(0)
    encodings = [np.zeros(length, np.int32) for length in range(1, 201)]
    made = [Text(encodings[length]) for length in rng.integers(0, 200, count).tolist()]
    for number, text in enumerate(made):
        lane = Lane.INTERACTIVE if number % 5 == 0 else Lane.BULK
        text.submitted(lane, deadline=600.0, arrived=number * 1e-5)
    return made


def once(replicas: int, waiting: list[Text]) -> float:
    """Seconds to queue, hand out and settle all texts."""
    dispatcher = Dispatcher(LeastWork(), attempts=4)
    for number in range(replicas):
        dispatcher.join(Load(f"replica-{number}", 2 * BATCH_TOKENS, BATCH_TOKENS))
    flying: deque[Call] = deque()
    began = time.perf_counter()
    for text in waiting:
        dispatcher.queue.put(text)
    now = 20.0
    while len(dispatcher.queue) or flying:
        flying += dispatcher.assign(now)
        call = flying.popleft()
        # A frame: some of the call's texts are answered, and there is room for others.
        for text_id in list(call.texts)[:FRAME_TEXTS]:
            dispatcher.settle(call, text_id)
        if call.texts:
            flying.append(call)
        else:
            dispatcher.end(call, Event.FAILED, now)  # nothing is missing: nothing comes of it
        now += 1e-4
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description="microseconds per text of a decision")
    parser.add_argument("--repetitions", type=int, default=3)
    repetitions = parser.parse_args().repetitions
    seen: dict[tuple[int, int], list[float]] = {size: [] for size in SIZES}
    for _ in range(repetitions):
        for replicas, count in SIZES:
            rounds = max(1, 10_000 // count)  # short ones are repeated, or the clock is too coarse
            seconds = []
            for _ in range(rounds):
                waiting = texts(count)
                gc.collect()
                gc.freeze()
                seconds.append(once(replicas, waiting))
                gc.unfreeze()
            seen[replicas, count].append(statistics.median(seconds) / count * 1e6)
    medians = {size: statistics.median(values) for size, values in seen.items()}
    for (replicas, count), micros in medians.items():
        print(f"{replicas:5d} replicas {count:9,d} texts {micros:8.2f} µs per text")
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": "python -m benchmarks.dispatch",
        "machine": machine(),
        "microseconds_per_text": [
            {"replicas": replicas, "texts": count, "median": medians[replicas, count], "all": all_}
            for (replicas, count), all_ in seen.items()
        ],
    }
    path = Path(__file__).parent / "results" / "dispatch.json"
    path.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
