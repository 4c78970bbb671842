"""An English-Chinese lexicon: learned from parallel text, mined from brackets, written by hand.

Three sources, one result: word or phrase -> translations, in both directions. The hand-written
list (lexicon_seed.txt) counts only where the training text attests its English side in at least
three articles, so that it can add no topic that the training text does not have. This module knows
nothing of sentences to translate; see codeswitch.py.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SEED = Path(__file__).with_name("lexicon_seed.txt")
Segmenter = Callable[[str], list[str]]
LONGEST_PHRASE = 3
_BRACKETED = re.compile(r"([\u4e00-\u9fff·]+)[（(]([A-Za-z][A-Za-z .'-]{2,40})[)）]")


@dataclass
class Lexicon:
    """Translations in both directions; English keys are lower-case tuples of words."""

    to_chinese: dict[tuple[str, ...], list[str]] = field(default_factory=dict)
    to_english: dict[str, list[str]] = field(default_factory=dict)

    def add(self, english: Sequence[str], chinese: str) -> None:
        key = tuple(word.lower() for word in english)
        _append(self.to_chinese.setdefault(key, []), chinese)
        _append(self.to_english.setdefault(chinese, []), " ".join(english))

    def lookup(self, words: Sequence[str]) -> list[str]:
        """Translations of a phrase; a single word is also tried without its ending."""
        key = tuple(word.lower() for word in words)
        found = self.to_chinese.get(key)
        if found is None and len(key) == 1:
            for stem in stems(key[0]):
                found = self.to_chinese.get((stem,))
                if found:
                    break
        return found or []


def _append(translations: list[str], value: str) -> None:
    if value not in translations:
        translations.append(value)


def stems(word: str) -> Iterable[str]:
    """Possible base forms of a regular English word, likeliest first."""
    for ending, replacement in (
        ("'s", ""), ("ies", "y"), ("es", ""), ("s", ""), ("ied", "y"), ("ed", ""), ("ed", "e"),
        ("ing", ""), ("ing", "e"), ("ly", ""),
    ):  # fmt: skip
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            yield word[: len(word) - len(ending)] + replacement


def read_seed(attested: Iterable[Iterable[str]], least_articles: int = 3) -> Lexicon:
    """The hand-written list, limited to what the training articles' word sets attest."""
    articles: defaultdict[str, int] = defaultdict(int)
    for words in attested:
        for word in set(words):
            articles[word] += 1
    lexicon = Lexicon()
    lines = [x for x in SEED.read_text(encoding="utf-8").splitlines() if not x.startswith("#")]
    for entry in " ".join(lines).split(";"):
        if not entry.strip():
            continue
        english, *translations = entry.split()
        words = english.split("_")
        if all(articles[word.lower()] >= least_articles for word in words):
            for chinese in translations:
                lexicon.add(words, chinese)
    return lexicon


def bracketed(texts: Iterable[str], segment: Segmenter) -> Iterable[tuple[list[str], str]]:
    """(English words, Chinese word) from texts that give a foreign name in brackets."""
    for text in texts:
        for chinese, english in _BRACKETED.findall(text):
            word = segment(chinese)[-1]
            if len(word) > 1:
                yield english.split(), word


@dataclass(frozen=True)
class Alignment:
    """Word translation probabilities in both directions, for word pairs seen together."""

    english: list[str]
    chinese: list[str]
    pairs: NDArray[np.int64]
    forward: NDArray[np.float64]
    backward: NDArray[np.float64]

    def confident(self, least: float = 0.2) -> Iterable[tuple[str, str]]:
        """Pairs that either direction makes likely, and neither unlikely."""
        likely = (np.minimum(self.forward, self.backward) >= least / 2) & (
            np.maximum(self.forward, self.backward) >= least
        )
        for english, chinese in self.pairs[likely]:
            yield self.english[english], self.chinese[chinese]


def align(
    sentences: Iterable[tuple[list[str], list[str]]], rounds: int = 6, least_count: int = 3
) -> Alignment:
    """IBM model 1 by expectation maximisation, run once in each direction."""
    vocabularies: tuple[dict[str, int], dict[str, int]] = ({}, {})
    rows: list[NDArray[np.int64]] = []
    for number, pair in enumerate(sentences):
        left, right = (
            np.array([vocab.setdefault(word, len(vocab)) for word in dict.fromkeys(side)])
            for vocab, side in zip(vocabularies, pair, strict=True)
        )
        if len(left) and len(right):
            grid = np.stack(np.meshgrid(left, right, indexing="ij"), -1).reshape(-1, 2)
            rows.append(np.column_stack([grid, np.full(len(grid), number)]))
    links = np.concatenate(rows).astype(np.int64)
    width = len(vocabularies[1])
    keys, which, counts = np.unique(
        links[:, 0] * width + links[:, 1], return_inverse=True, return_counts=True
    )
    pairs = np.column_stack([keys // width, keys % width])
    forward = _expectation_maximisation(links, which, pairs, rounds, given=0)
    backward = _expectation_maximisation(links, which, pairs, rounds, given=1)
    seen = counts >= least_count
    names = [list(vocabulary) for vocabulary in vocabularies]
    return Alignment(names[0], names[1], pairs[seen], forward[seen], backward[seen])


def _expectation_maximisation(
    links: NDArray[np.int64],
    which: NDArray[np.int64],
    pairs: NDArray[np.int64],
    rounds: int,
    given: int,
) -> NDArray[np.float64]:
    """P(other word | given word) per word pair; `links` are (left, right, sentence) triples."""
    other = links[:, 1 - given]
    slots = links[:, 2] * (int(other.max()) + 1) + other
    _, slot = np.unique(slots, return_inverse=True)
    probability = np.ones(len(pairs))
    for _ in range(rounds):
        weight = probability[which]
        weight /= np.bincount(slot, weights=weight)[slot]
        expected = np.bincount(which, weights=weight, minlength=len(pairs))
        probability = expected / np.bincount(pairs[:, given], weights=expected)[pairs[:, given]]
    return probability
