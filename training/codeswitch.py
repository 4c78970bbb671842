"""Word-by-word translation at a chosen rate: Chinese words in English text, and the reverse.

The point is not grammar. A Chinese question over English paragraphs shares content words with
them, and this shows the model which Chinese words mean which English ones.
"""

import re
from dataclasses import dataclass
from random import Random

from training.chinese import words as segment
from training.lexicon import LONGEST_PHRASE, Lexicon
from training.transliterate import transliterate

_TOKENS = re.compile(r"[A-Za-z]+(?:['.-][A-Za-z]+)*\.?(?<=\w)|[^\sA-Za-z]+|\s+")
_DROPPED = frozenset(["the", "a", "an", "of", "do", "does", "did", "to", "be", "is", "was", "were"])
_SHORTEST_NAME = 4


@dataclass(frozen=True)
class Switching:
    """How much to translate: the share of known words, and of unknown names to transliterate."""

    words: float
    names: float = 0.0


def into_chinese(text: str, lexicon: Lexicon, switching: Switching, rng: Random) -> str:
    """English text with a share of its words in Chinese, joined as Chinese text is."""
    tokens = [token for token in _TOKENS.findall(text) if not token.isspace()]
    pieces: list[str] = []
    position = 0
    while position < len(tokens):
        size, piece = _translate_at(tokens, position, lexicon, switching, rng)
        pieces.append(piece)
        position += size
    return _join([piece for piece in pieces if piece], loose=rng.random() < 0.5)


def _translate_at(
    tokens: list[str], position: int, lexicon: Lexicon, switching: Switching, rng: Random
) -> tuple[int, str]:
    """(how many tokens it took, what stands for them)."""
    switch = rng.random() < switching.words
    for size in range(LONGEST_PHRASE, 0, -1):
        found = lexicon.lookup(tokens[position : position + size])
        if found and switch:
            droppable = size == 1 and tokens[position].lower() in _DROPPED
            if droppable and rng.random() < 0.7:
                return 1, ""
            # The first translation of an entry is its commonest.
            return size, found[0] if rng.random() < 0.6 else rng.choice(found)
    token = tokens[position]
    if switch and token.lower() in _DROPPED:
        return 1, ""
    named = position > 0 and token[0].isupper() and len(token) >= _SHORTEST_NAME
    if named and rng.random() < switching.names and not token.isupper():
        return 1, transliterate(token) or token
    return 1, token


def _join(pieces: list[str], *, loose: bool) -> str:
    """Spaces between Latin words only; with `loose` also between the two scripts."""
    text = ""
    for piece in pieces:
        ascii_edges = text[-1:].isascii() and piece[0].isascii()
        mixed_edges = text[-1:].isascii() != piece[0].isascii()
        wordlike = piece[0].isalnum() or piece[0] in "($\"'"
        if text and wordlike and (ascii_edges or (mixed_edges and loose)):
            text += " "
        text += piece
    return text.replace("?", "？") if text and not text[0].isascii() else text


def into_english(text: str, lexicon: Lexicon, rate: float, rng: Random) -> str:
    """Chinese text with a share of its words in English."""
    pieces: list[str] = []
    for word in segment(text):
        found = lexicon.to_english.get(word)
        pieces.append(f" {rng.choice(found)} " if found and rng.random() < rate else word)
    return re.sub(r"\s+", " ", "".join(pieces)).strip()
