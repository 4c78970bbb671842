"""Where texts lie in a pass, and which tiles their attention is computed in."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as some

from embedfleet.engines.cuda.layout import TILE, Layout, Shape, lay_out, rounded_up
from embedfleet.engines.passes import SharingPass, passes, sharing_passes

NEVER = 1 << 30
LENGTHS = some.lists(some.integers(1, 300), min_size=1, max_size=12)


def read_back(layout: Layout, shape: Shape, texts: list[np.ndarray]) -> dict[str, np.ndarray]:
    array = np.full(shape.size, -1, np.int32)
    layout.write(texts, shape, array)
    return {name: array[where] for name, where in shape.parts.items()}


def texts_of(lengths: list[int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(1, 1_000, length).astype(np.int32) for length in lengths]


@given(LENGTHS, some.sampled_from([16, 32, 64]))
def test_every_token_asks_once_and_sees_its_own_text_up_to_itself(
    lengths: list[int], tile_tokens: int
) -> None:
    layout = lay_out(lengths, tile_tokens=tile_tokens, alone_from=NEVER)
    seen = {}
    for row, count, key, before, shared, _ in layout.tiles.tolist():
        assert 0 < count <= tile_tokens
        assert not shared
        for number in range(count):
            assert row + number not in seen
            seen[row + number] = (key, before + number + 1)
    begins = layout.begins.tolist()
    expected = {
        begin + place: (begin, place + 1)
        for begin, length in zip(begins, lengths, strict=False)
        for place in range(length)
    }
    assert seen == expected


@given(LENGTHS)
def test_tiles_with_most_keys_come_first(lengths: list[int]) -> None:
    """They take longest, and a device that ends with them would be half idle."""
    tiles = lay_out(lengths, tile_tokens=32, alone_from=NEVER).tiles
    assert (np.diff(tiles[:, 3]) <= 0).all()


@given(LENGTHS, some.integers(0, 50), some.integers(0, 5))
def test_what_is_written_is_found_by_its_name_in_any_larger_shape(
    lengths: list[int], tokens: int, more: int
) -> None:
    layout, texts = lay_out(lengths, tile_tokens=32, alone_from=NEVER), texts_of(lengths)
    least = layout.shape
    shape = Shape(least.tokens + tokens, least.texts + more, least.tiles + more)
    parts = read_back(layout, shape, texts)
    ids, count = np.concatenate(texts), len(lengths)
    np.testing.assert_array_equal(parts["ids"][: len(ids)], ids)
    positions = np.concatenate([np.arange(length) for length in lengths])
    np.testing.assert_array_equal(parts["positions"][: len(ids)], positions)
    np.testing.assert_array_equal(parts["pooled"][:count], np.cumsum(lengths) - 1)
    last = parts["last_tiles"].reshape(-1, TILE)
    assert last[:count, :5].tolist() == [
        [row, 1, begin, length - 1, 0]
        for row, (begin, length) in enumerate(zip(layout.begins.tolist(), lengths, strict=False))
    ]
    for name, used in (("ids", len(ids)), ("tiles", TILE * len(layout.tiles)), ("pooled", count)):
        assert not parts[name][used:].any(), "what pads must be nobody's"


BEGINNINGS = some.lists(some.text("ab", max_size=40), min_size=1, max_size=4)
TREES = BEGINNINGS.flatmap(
    lambda beginnings: some.lists(
        some.tuples(some.sampled_from(beginnings), some.text("ab", min_size=1, max_size=20)).map(
            "".join
        ),
        min_size=1,
        max_size=12,
    )
)


@settings(max_examples=50)
@given(TREES)
def test_a_query_sees_the_same_tokens_whether_its_text_shares_some_or_not(
    words: list[str],
) -> None:
    texts = [np.frombuffer(word.encode("utf-32-le"), np.int32) for word in words]
    (only,) = sharing_passes(texts, 1_000, 4)
    placed = [texts[place] for place in only.places]
    layout = lay_out([*map(len, placed)], tile_tokens=4, alone_from=NEVER, sharing=only)
    parts = read_back(layout, layout.shape, placed)
    asked = []
    for tiles, row_of in (("tiles", lambda row: row), ("last_tiles", parts["pooled"].__getitem__)):
        for row, count, key, before, shared, lent in parts[tiles].reshape(-1, TILE).tolist():
            for number in range(count):
                query, seen = row_of(row + number), before + number + 1
                places = np.arange(seen)
                rows = np.where(places < shared, lent + places, key + places)
                asked.append((tiles, parts["ids"][rows].tobytes()))
                assert rows[-1] == query
                assert parts["positions"][query] == seen - 1
                np.testing.assert_array_equal(parts["positions"][rows], places)
    for text, shared in zip(placed, only.shared, strict=True):
        asked.remove(("last_tiles", text.tobytes()))
        for end in range(shared + 1, len(text) + 1):
            asked.remove(("tiles", text[:end].tobytes()))
    assert not asked
    assert layout.tokens == only.tokens


def test_a_text_that_shares_asks_for_its_own_tokens_alone() -> None:
    sharing = SharingPass()
    sharing.add(0, 20, 0, 0, 4)
    sharing.add(1, 10, 8, 0, 4)
    layout = lay_out([20, 10], tile_tokens=16, alone_from=NEVER, sharing=sharing)
    assert layout.tokens == 22
    assert layout.tiles.tolist() == [
        [16, 4, 0, 16, 0, 0],
        [20, 2, 12, 8, 8, 0],
        [0, 16, 0, 0, 0, 0],
    ]


def test_parts_begin_at_whole_sixteen_bytes() -> None:
    assert all(where.start % 4 == 0 for where in Shape(7, 3, 5).parts.values())


def test_long_texts_are_separated_and_have_no_tiles() -> None:
    layout = lay_out([5, 200, 7], tile_tokens=32, alone_from=100)
    assert layout.alone == (1,)
    assert set(layout.tiles[:, 2].tolist()) == {0, 205}
    assert layout.tokens == 212


def test_passes_hold_what_a_batch_may_and_a_longer_text_alone() -> None:
    cuts = list(passes([10, 20, 90, 500, 1], 100))
    assert cuts == [slice(0, 2), slice(2, 3), slice(3, 4), slice(4, 5)]


def test_fixed_rows_round_tokens_and_texts_up() -> None:
    assert rounded_up(Shape(513, 3, 17), 512) == Shape(1_024, 512, 17)
