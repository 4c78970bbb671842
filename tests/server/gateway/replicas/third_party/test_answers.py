"""What is taken for vectors, and what a refusal means."""

from __future__ import annotations

import base64
from collections.abc import Callable

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from embedfleet.server.gateway.replicas.third_party.answers import (
    Refusal,
    Search,
    judge_refusal,
    read_classes,
    read_label_scores,
    read_ranks,
    read_results,
    read_vectors,
    unit,
)
from embedfleet.server.gateway.replicas.third_party.window import LearnedWindow
from embedfleet.vocabulary import ReplicaError

VALUES = st.floats(-1e6, 1e6, width=32)


def body(*rows: tuple[int, object]) -> bytes:
    return orjson.dumps({"data": [{"index": index, "embedding": row} for index, row in rows]})


def encoded(row: list[float]) -> str:
    return base64.b64encode(np.array(row, "<f4").tobytes()).decode()


@given(arrays.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 9)), elements=VALUES))
def test_floats_and_base64_give_the_same_unit_vectors(vectors: np.ndarray) -> None:
    """In the order of the texts, whatever the order of the answer."""
    rows = vectors.tolist()
    floats = read_vectors(body(*reversed(list(enumerate(rows)))), len(rows))
    packed = read_vectors(body(*((n, encoded(row)) for n, row in enumerate(rows))), len(rows))

    np.testing.assert_array_equal(floats.vectors, packed.vectors)
    np.testing.assert_array_equal(floats.right, packed.right)
    assert floats.vectors.dtype == np.float32
    lengths = np.linalg.norm(floats.vectors[floats.right].astype(np.float64), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-6)
    assert np.abs(vectors[~floats.right]).max(initial=0) <= 1.001e-12


def test_what_is_not_finite_or_of_no_length_is_no_vector() -> None:
    """`null` is how several engines write NaN."""
    rows = read_vectors(body((0, [1, None]), (1, [0, 0]), (2, [3, 4]), (3, [1e300, 0])), 4)

    assert rows.right.tolist() == [False, False, True, False]
    np.testing.assert_allclose(rows.vectors[2], [0.6, 0.8])
    assert np.isfinite(rows.vectors).all()


def test_a_vector_may_be_long_and_not_of_a_length_that_no_model_gives() -> None:
    """Raw vectors of a large model can be long; floats in another byte order are far longer."""
    rows = unit(np.full((1, 4096), 1e15, np.float32))
    assert rows.right.all()
    np.testing.assert_allclose(np.linalg.norm(rows.vectors), 1, atol=1e-6)

    assert not unit(np.full((1, 4096), 3e38, np.float32)).right.any()


@given(st.integers(0, 2**32 - 1), st.sampled_from([64, 384, 1024]))
def test_floats_in_another_byte_order_are_no_vector(seed: int, width: int) -> None:
    """Else they would be brought to unit length and look like one."""
    row = np.random.default_rng(seed).standard_normal((1, width)).astype(np.float32)
    right = unit(row)
    assert right.right.all()
    assert not unit(right.vectors.byteswap()).right.any()


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"<html>", "no embeddings"),
        (b'{"data": [{"index": 0, "embedding": [NaN]}, {}]}', "no embeddings"),
        (b'{"data": {}}', "no embeddings"),
        (b'{"object": "error"}', "no embeddings"),
        (body((0, [1.0])), "1 vectors for 2 texts"),
        (body((0, [1.0]), (0, [1.0])), "or wrong indices"),
        (body((1, [1.0]), (2, [1.0])), "or wrong indices"),
        (body((0, [1.0]), (1, [1.0, 2.0])), "not one same number"),
        (body((0, []), (1, [])), "not one same number"),
        (body((0, "AAAA"), (1, "AAAA")), "no float32 numbers"),
        (body((0, "?"), (1, "?")), "no float32 numbers"),
        (body((0, ["x"]), (1, ["y"])), "no embeddings"),
    ],
)
def test_anything_else_is_nonsense(answer: bytes, complaint: str) -> None:
    with pytest.raises(ReplicaError, match=complaint):
        read_vectors(answer, 2)


@given(st.integers(1, 40), st.sampled_from([1e-5, 1.0, -1.2345678e-10, -3.4e38]))
def test_a_vector_may_be_as_long_as_its_numbers_need_and_no_row_is_parsed_beyond(
    width: int, value: float
) -> None:
    """A row of 64 MiB took seconds, in which nobody else is served. Numbers as no engine writes
    them, in all their digits and a row for each, are still read.
    """
    written = b'{"data": [{"index": 0, "embedding": [%b]}]}'
    numbers = b",\n      ".join([b"%.17e" % value] * width)
    assert read_vectors(written % numbers, 1, width).vectors.shape == (1, width)
    assert read_vectors(body((0, encoded([value] * width))), 1, width).vectors.shape == (1, width)

    surplus = b"0," * (16 * width + 600)
    with pytest.raises(ReplicaError, match=f"longer than {width} numbers"):
        read_vectors(written % (surplus + numbers), 1, width)
    with pytest.raises(ReplicaError, match=f"longer than {width} numbers"):
        read_vectors(body((0, "A" * (32 * width + 1100))), 1, width)


ANSWERS: dict[str, tuple[Callable[[bytes, int], object], bytes, bytes]] = {
    "vectors": (read_vectors, b'{"data": [%b]}', b'{"index": 0, "embedding": 0}'),
    "classes": (read_classes, b'{"data": [%b]}', b'{"index": 0, "probs": [0]}'),
    "scores": (read_label_scores, b'{"scores": [%b]}', b"[0]"),
    "results": (read_results, b'{"results": [%b]}', b'{"index": 0, "relevance_score": 0}'),
    "ranks": (read_ranks, b"[%b]", b'{"index": 0, "score": 0}'),
}
"""How answers are read, what they are written as, and a row of them."""


@pytest.mark.parametrize("kind", ANSWERS)
@given(st.integers(1, 70), st.sampled_from([b"", b" " * (1 << 20)]))
def test_an_answer_of_many_small_rows_is_refused_before_it_is_parsed(
    kind: str, texts: int, spaces: bytes
) -> None:
    """The parser holds the interpreter, and 64 MiB of them took seconds."""
    read, written, row = ANSWERS[kind]
    with pytest.raises(ReplicaError, match=f"too many objects for {texts} texts"):
        read(written % (spaces + b",".join([row] * (8 * texts + 65))), texts)
    with pytest.raises(ReplicaError, match="or wrong indices"):
        read(written % (spaces + b",".join([row] * (texts + 1))), texts)


@given(st.integers(1, 70), st.text('{["}] ,:index', max_size=20), st.integers(1, 200))
def test_ranks_with_documents_of_any_brackets_are_read(texts: int, piece: str, often: int) -> None:
    """VLLM repeats them, and source code has many."""
    told = {"document": {"text": piece * often + "{[" * 1_000}}
    ranks = [{"index": index, "relevance_score": 0.5, **told} for index in range(texts)]
    assert len(read_results(orjson.dumps({"results": ranks}), texts).numbers) == texts


@given(st.integers(1, 70), st.integers(0, 5))
def test_what_an_engine_tells_beside_its_vectors_is_passed_over(texts: int, beside: int) -> None:
    """A few objects for the answer and for each row."""
    row = {"object": "embedding", "embedding": [0.6, 0.8], "told": [{}] * beside}
    rows = [{**row, "index": index} for index in range(texts)]
    told = {"usage": {"prompt_tokens": 1, "details": [{}] * 10}, "model": "m", "object": "list"}
    assert read_vectors(orjson.dumps({"data": rows, **told}), texts).right.all()


@pytest.mark.parametrize(
    ("status", "refusal"),
    [
        (401, Refusal.KEY),
        (403, Refusal.KEY),
        (429, Refusal.BUSY),
        (503, Refusal.BUSY),
        (400, Refusal.TEXT),
        (413, Refusal.TEXT),
        (422, Refusal.TEXT),
        (301, Refusal.REDIRECT),
        (404, Refusal.BROKEN),
        (424, Refusal.BROKEN),
        (500, Refusal.BROKEN),
    ],
)
def test_a_refusal_is_read_by_its_status(status: int, refusal: Refusal) -> None:
    assert judge_refusal(status) is refusal


def test_a_window_halves_with_refusals_and_comes_back_with_answers() -> None:
    """Between one batch and what the setting allows."""
    window = LearnedWindow(1000, 200)
    assert [window.refused() for _ in range(4)] == [500, 250, 200, 200]
    for _ in range(100):
        window.answered(50, 0.1)
    assert window.tokens == 1000
    assert LearnedWindow(100, 200).refused() == 100


@given(st.integers(1, 16), st.floats(0.001, 10.0))
def test_a_window_finds_what_keeps_an_engine_busy_and_no_more(batches: int, batch_s: float) -> None:
    """An engine that computes one batch after the other, however large the setting is: latencies
    grow with what is outstanding, and three batches are where tolerance and search meet."""
    window = LearnedWindow(1000 * batches, 1000)
    window.answered(700, batch_s)  # alone there, once
    for _ in range(60):
        outstanding = window.tokens / 1000
        window.answered(700, batch_s * outstanding)

    assert min(2, batches) <= window.tokens / 1000 <= 3.2


def test_large_requests_are_not_taken_for_late_ones() -> None:
    """Each is compared with its like."""
    window = LearnedWindow(8000, 1000)
    for _ in range(50):
        window.answered(10, 0.03)
        window.answered(8000, 0.5)

    assert window.tokens == 8000


def test_an_engine_that_has_become_slower_gets_its_window_back() -> None:
    """What it once could is forgotten in time."""
    window = LearnedWindow(8000, 1000)
    window.answered(10, 0.01)
    for _ in range(200):
        window.answered(10, 0.05)
    assert 2000 <= window.tokens < 2500
    for _ in range(8000):
        window.answered(10, 0.05)

    assert window.tokens == 8000


def test_a_single_late_answer_says_little() -> None:
    """The engine may have been stopped for a moment."""
    window = LearnedWindow(8000, 1000)
    window.answered(10, 0.01)

    assert window.answered(10, 60.0) > 7000


def test_a_search_for_one_bad_text_among_many_comes_to_its_end() -> None:
    """And an engine that refuses everything is left soon."""
    for texts in (2, 3, 64, 1000):
        search = Search.among(texts)
        needed = (texts - 1).bit_length()
        assert all(search.may_halve() for _ in range(2 * needed))
        assert not all(search.may_halve() for _ in range(6))
