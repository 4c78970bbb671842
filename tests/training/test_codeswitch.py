"""Word-by-word translation and invented spellings of names."""

from __future__ import annotations

from random import Random

import pytest

pytest.importorskip("jieba", reason="jieba segments Chinese for training; not installed")

from training.codeswitch import Switching, into_chinese, into_english
from training.lexicon import Lexicon
from training.transliterate import transliterate


@pytest.fixture
def lexicon() -> Lexicon:
    lexicon = Lexicon()
    for english, chinese in (("what", "什么"), ("capital", "首都"), ("united states", "美国")):
        lexicon.add(english.split(), chinese)
    return lexicon


def test_every_known_word_is_translated_and_the_rest_kept(lexicon: Lexicon) -> None:
    text = "What is the capital of the United States in 1999?"
    assert into_chinese(text, lexicon, Switching(words=1.0), Random(1)) in {
        "什么首都美国in 1999？",
        "什么首都美国 in 1999？",
    }


def test_at_rate_zero_nothing_changes_but_spacing(lexicon: Lexicon) -> None:
    text = "What is the capital, then?"
    assert into_chinese(text, lexicon, Switching(words=0.0), Random(1)) == text


def test_chinese_words_become_english(lexicon: Lexicon) -> None:
    assert into_english("美国首都", lexicon, 1.0, Random(1)) == "united states capital"


@pytest.mark.parametrize(
    ("name", "spelling"),
    [("Tesla", "特斯拉"), ("Manning", "马宁"), ("Fresno", "弗雷斯诺"), ("123", "")],
)
def test_names_are_spelled_by_sound(name: str, spelling: str) -> None:
    assert transliterate(name) == spelling
