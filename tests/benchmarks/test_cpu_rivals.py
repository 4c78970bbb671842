"""What all rivals of the CPU engine's benchmark are given."""

from __future__ import annotations

import numpy as np
from benchmarks.cpu_processes import Worker
from benchmarks.cpu_report import Measured
from benchmarks.cpu_rivals.contract import sorted_passes
from benchmarks.cpu_workloads import WORKLOADS
from hypothesis import given
from hypothesis import strategies as st


class Asked(Worker):
    """A process that notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    def ask(self, *words: str) -> dict[str, float]:
        self.asked.append(words)
        names = ("seconds", "processor_s", "peak_mib", "anonymous_mib")
        return dict.fromkeys(names, 1.0)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=50), st.integers(1, 9), st.integers(1, 99))
def test_every_text_is_in_one_pass_that_is_no_larger_than_allowed(
    lengths: list[int], most_texts: int, most_tokens: int
) -> None:
    texts = [np.zeros(length, np.int32) for length in lengths]
    passes = list(sorted_passes(texts, most_texts, most_tokens))
    assert sorted(np.concatenate(passes).tolist()) == list(range(len(lengths)))
    for part in passes:
        longest = max(lengths[index] for index in part)
        assert len(part) <= most_texts
        assert longest * len(part) <= most_tokens or len(part) == 1


def test_only_a_part_of_texts_of_one_length_stands_for_all_of_them() -> None:
    assert [workload.name for workload in WORKLOADS if not workload.even] == ["mix"]
    worker = Asked()
    slow = Measured("a f32", 4, worker, 0.0, 0.0)
    for workload in WORKLOADS:
        slow.run(workload)
    lines = {workload: every for workload, every, _ in worker.asked}
    assert (lines["64 x 32"], lines["mix"]) == ("4", "1")


def test_every_contender_gets_the_same_texts() -> None:
    for workload in WORKLOADS:
        texts = workload.texts(1_000)
        assert [len(text) for text in texts] == list(workload.lengths)
        part = workload.texts(1_000, every=4)
        assert sum(map(len, part)) == workload.tokens(every=4)
        for one, other in zip(part, texts[::4], strict=True):
            np.testing.assert_array_equal(one, other)
