"""Which texts share a pass, and which of their tokens are computed once."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfleet.engines.passes import SharingPass, shared_tokens, sharing_passes
from embedfleet.vocabulary import Encoding

BLOCK = 4


def encodings(*texts: str) -> list[Encoding]:
    """A token for every character."""
    return [np.frombuffer(text.encode("utf-32-le"), np.int32) for text in texts]


def shared(*texts: str, batch_tokens: int = 1_000) -> list[list[tuple[int, int]]]:
    """Of every pass, the places of texts and how much they share."""
    passes = sharing_passes(encodings(*texts), batch_tokens, BLOCK)
    return [list(zip(each.places, each.shared, strict=True)) for each in passes]


def test_documents_of_one_query_compute_it_once() -> None:
    assert shared("query: a", "query: bee", "query: c") == [[(0, 0), (1, 4), (2, 4)]]


def test_whole_blocks_are_shared_and_never_a_last_token() -> None:
    assert shared("abcdefgh", "abcdefgh", "abcdefghi") == [[(0, 0), (1, 4), (2, 8)]]


def test_texts_that_share_nothing_stay_in_their_order() -> None:
    assert shared("zebra crossing", "apple", "melon") == [[(0, 0), (1, 0), (2, 0)]]


def test_two_queries_behind_one_template_share_it_and_each_of_them_its_own() -> None:
    template = "the template"
    texts = [f"{template}{query * 8}{document}" for query in "qp" for document in "123"]
    (only,) = shared(*texts)
    assert sorted(only) == [(0, 12), (1, 0), (2, 20), (3, 0), (4, 20), (5, 20)]


def test_a_pass_counts_what_is_computed() -> None:
    texts = [f"{'query ' * 4}{number}document" for number in range(6)]  # 33 tokens, 24 shared
    assert [len(each) for each in shared(*texts, batch_tokens=60)] == [4, 2]
    assert [len(each) for each in shared(*reversed(texts), batch_tokens=51)] == [3, 3]


def test_a_text_longer_than_a_pass_has_one_of_its_own() -> None:
    assert shared("ab", "c" * 50, "de", batch_tokens=10) == [[(0, 0)], [(1, 0)], [(2, 0)]]


words = st.text("ab", min_size=1, max_size=30)
batches = st.lists(words, min_size=1, max_size=30)


@settings(deadline=None)
@given(texts=batches, batch_tokens=st.integers(1, 60))
def test_each_text_is_in_one_pass_that_fits_and_shares_what_its_lender_has(
    texts: list[str], batch_tokens: int
) -> None:
    passes = list(sharing_passes(encodings(*texts), batch_tokens, BLOCK))
    assert sorted(place for each in passes for place in each.places) == list(range(len(texts)))
    for each in passes:
        assert each.tokens <= batch_tokens or len(each.places) == 1
        assert each.kept <= BLOCK * batch_tokens or len(each.places) == 1
        for place, common, lender in zip(each.places, each.shared, each.lenders, strict=True):
            assert common % BLOCK == 0
            assert 0 <= common < len(texts[place])
            assert each.shared[lender] == 0
            assert texts[each.places[lender]][:common] == texts[place][:common]


def test_long_texts_neither_lend_nor_share() -> None:
    texts = encodings("query: a", "query: a document", "query: bee", "query: c")
    (only,) = sharing_passes(texts, 1_000, BLOCK, longest=12)
    assert sorted(zip(only.places, only.shared, strict=True)) == [(0, 0), (1, 0), (2, 0), (3, 4)]


def test_keys_that_are_kept_are_bounded_however_much_is_shared() -> None:
    texts = [f"{'query ' * 50}{number:04}" for number in range(500)]
    passes: list[SharingPass] = list(sharing_passes(encodings(*texts), 310, BLOCK))
    assert len(passes) > 100
    assert all(each.kept <= BLOCK * 310 for each in passes)


def test_tokens_that_are_computed_as_another_texts_are_told_in_the_order_of_the_batch() -> None:
    first = np.arange(40, dtype=np.int32)
    batch = [np.append(first, np.int32(each)) for each in (7, 5, 9)]
    batch.insert(1, np.arange(100, 110, dtype=np.int32))
    plans = list(sharing_passes(batch, 1_000, 16))
    # The lender, the first of those that are alike in their order, computes them itself.
    assert shared_tokens(plans, len(batch)) == [32, 0, 0, 32]
    assert shared_tokens(list(sharing_passes(batch[:2], 1_000, 16)), 2) == []
