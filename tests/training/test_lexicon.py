"""Alignment, the hand-written list and its limits."""

from __future__ import annotations

from training.lexicon import Lexicon, align, bracketed, read_seed, stems


def test_alignment_finds_the_words_that_go_together() -> None:
    sentences = [
        (["red", "house"], ["红", "房子"]),
        (["red", "car"], ["红", "汽车"]),
        (["big", "house"], ["大", "房子"]),
        (["big", "car"], ["大", "汽车"]),
    ]
    found = dict(align(sentences, rounds=20, least_count=1).confident(0.6))
    assert found == {"red": "红", "house": "房子", "car": "汽车", "big": "大"}


def test_rare_pairs_are_left_out() -> None:
    alignment = align([(["red"], ["红"])] * 2 + [(["car"], ["汽车"])] * 3, least_count=3)
    assert list(alignment.confident()) == [("car", "汽车")]


def test_an_entry_needs_three_articles() -> None:
    twice = read_seed([{"government"}, {"government"}, {"river"}])
    thrice = read_seed([{"government"}, {"government"}, {"government", "river"}])
    assert ("government",) not in twice.to_chinese
    assert thrice.to_chinese["government",] == ["政府"]
    assert thrice.to_english["政府"] == ["government"]


def test_inflected_words_are_looked_up_by_their_stem() -> None:
    lexicon = Lexicon()
    lexicon.add(["city"], "城市")
    assert lexicon.lookup(["Cities"]) == ["城市"]
    assert lexicon.lookup(["citadel"]) == []
    assert "make" in stems("making")


def test_foreign_names_in_brackets() -> None:
    texts = ["他在大学读马克思(Karl Marx)的书。"]
    assert list(bracketed(texts, lambda run: [run[:4], run[4:]])) == [
        (["Karl", "Marx"], "读马克思")
    ]
