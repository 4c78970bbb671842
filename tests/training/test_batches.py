"""Batches: what is cut, dropped, swapped and appended."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch trains the built-in model; not installed")

from training.batches import Pool, Relabelling, Rows, by_length, cut_span, finish, join  # noqa: E402
from training.objectives import Nested, bm25, contrastive, false_negatives, soften  # noqa: E402
from training.pools import Ragged  # noqa: E402

from training import checkpoint  # noqa: E402

SEQUENCES = [[5, 6, 7], [8], list(range(10, 80))]


@pytest.fixture
def pool() -> Pool:
    torch.manual_seed(0)
    return Pool.load(Ragged.of(SEQUENCES), torch.device("cpu"))


def texts(rows: Rows) -> list[list[int]]:
    return [row[:n].tolist() for row, n in zip(rows.ids, rows.lengths.tolist(), strict=True)]


def test_sequences_are_taken_in_order_and_cut(pool: Pool) -> None:
    assert texts(pool.take(torch.tensor([2, 0]), 4)) == [[10, 11, 12, 13], [5, 6, 7]]


def test_the_end_token_follows_the_text(pool: Pool) -> None:
    rows = finish(pool.take(torch.tensor([0, 1]), 8), pool)
    assert texts(rows) == [[5, 6, 7, 0], [8, 0]]
    assert rows.ids.shape[1] % 32 == 0


def test_an_instruction_comes_first(pool: Pool) -> None:
    rows = finish(pool.take(torch.tensor([0]), 8), pool, torch.tensor([0.0, 1.0, 0.0]))
    assert texts(rows) == [[8, 5, 6, 7, 0]]


def test_a_span_comes_from_its_document(pool: Pool) -> None:
    documents = pool.take(torch.full((64,), 2), 64)
    spans, rest = cut_span(documents, 4, 8, removed=1.0)
    for span, left in zip(texts(spans), texts(rest), strict=True):
        assert 4 <= len(span) <= 8
        assert sorted(span + left) == SEQUENCES[2][:64]


def test_relabelling_keeps_what_agrees(pool: Pool) -> None:
    tables = Relabelling.draw(100, 10, share=1.0, device=torch.device("cpu"))
    rows = pool.take(torch.tensor([0, 2]), 70)
    which = torch.tensor([3, 3])
    first, second = texts(tables.apply(which, rows)), texts(tables.apply(which, rows))
    assert first == second
    assert first[0] == [5, 6, 7]  # common tokens stay
    assert len(set(first[1])) == 70


def test_by_length_can_be_undone(pool: Pool) -> None:
    rows = pool.take(torch.tensor([2, 0, 1, 2]), 70)
    parts, undo = by_length(rows, 2)
    lengths = torch.cat([part.lengths for part in parts])
    assert lengths[undo].tolist() == rows.lengths.tolist()


def test_rows_are_joined_without_gaps(pool: Pool) -> None:
    left, right = pool.take(torch.tensor([1, 0]), 8), pool.take(torch.tensor([0, 1]), 8)
    assert texts(join([left, right])) == [[8, 5, 6, 7], [5, 6, 7, 8]]


def test_bm25_prefers_the_document_with_the_rare_word(pool: Pool) -> None:
    documents = Rows(torch.tensor([[1, 2, 3], [1, 2, 4], [1, 2, 5]]), torch.tensor([3, 3, 3]))
    scores = bm25(Rows(torch.tensor([[1, 4]]), torch.tensor([2])), documents)
    assert scores.argmax(dim=1).tolist() == [1]


def test_the_same_document_twice_is_no_negative() -> None:
    queries = Rows(torch.tensor([[1, 2], [3, 4], [5, 6]]), torch.tensor([2, 2, 2]))
    documents = Rows(torch.tensor([[7, 8], [7, 8], [9, 9]]), torch.tensor([2, 2, 2]))
    ignored = false_negatives(queries, documents)
    assert ignored.tolist() == [[False, True, False], [True, False, False], [False] * 3]


def test_the_loss_falls_when_pairs_agree() -> None:
    nested = Nested((2, 4), (1.0, 1.0))
    vectors = torch.eye(4)
    ignored = torch.zeros(4, 4, dtype=torch.bool)
    target = soften(torch.eye(4) * 100, ignored, 0.5, 1.0)
    agreed = contrastive(vectors, vectors, ignored, nested, 0.1, target)
    crossed = contrastive(vectors, vectors.flip(0), ignored, nested, 0.1)
    assert float(agreed) < float(crossed)


def test_rounding_is_within_half_a_step() -> None:
    weights = {"layer.weight": torch.randn(6, 50), "norm.weight": torch.rand(50)}
    packed = checkpoint.quantise(weights)
    assert packed["layer.weight"].dtype == torch.int8
    back = checkpoint.dequantise(packed)
    steps = packed["layer.weight_scale"]
    assert bool(((back["layer.weight"] - weights["layer.weight"]).abs() <= steps / 2 + 1e-6).all())
    assert torch.equal(back["norm.weight"], weights["norm.weight"])
