"""The longest that tokenisers of known kinds take for a text that is tokenised on the event loop.

    python -m benchmarks.tokenizer_kinds [--name tokenizer-kinds]

Every part that `models/tokenizer_kind.py` knows tokenises texts of as many characters as are
tokenised at once (`INLINE_CHARACTERS`), made to be slow: runs of one sign, of pairs of signs, of
what each pattern backtracks over, at once and between other text. Reported is the slowest text of
each part in milliseconds of a processor, the best of three, and its factor over the same text of
half the length: two is linear.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from tokenizers import Tokenizer

from embedfleet.api.tokenizing import INLINE_CHARACTERS
from embedfleet.models.tokenizer_kind import (
    LONGEST_PIECE,
    LONGEST_WORD,
    MOST_GROWTH,
    PATTERNS,
    TokenizerKind,
)

HERE = Path(__file__).resolve().parent
SIGNS = (
    *("a", "A", "1", " ", "\n", "\r\n", "\t", ".", "'", "-", "/", "_", "é", "e\u0301", "\u0301"),
    *("中", "ا", "ﷺ", "ĳ", "ᾳ", "각", "\u1100", "🙂", "👨\u200d👩\u200d👧", "\u200d", "\ufeff"),
    *("ǅ", "ʰ", "①", "\u0315\u0300\u05ae", "\0", "<m>", "'s", " a", "aA", "A ", " .", "\u3000"),
)
ALONE = {"a": 0, "A": 1, "[UNK]": 2, " ": 3, "Ġ": 4, "▁": 5, "##a": 6}


def texts(characters: int) -> Iterator[str]:
    """Slow ones, of so many characters."""
    for sign in SIGNS:
        yield (sign * characters)[:characters]
    for one, other in itertools.permutations((" ", "a", "A", "1", ".", "\n", "\u0301", "中"), 2):
        yield (one * (characters // 2) + other * characters)[:characters]
        for run in (LONGEST_WORD, LONGEST_WORD - 1, 60):
            yield ((one * run + other) * characters)[:characters]
        yield ((one + other) * characters)[:characters]


def definition(**parts: Any) -> dict[str, Any]:
    """A tokenizer.json of these parts, and of small ones."""
    small = {"type": "BPE", "vocab": ALONE, "merges": [], "unk_token": "[UNK]"}
    return {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": small,
    } | parts


def cases() -> Iterator[tuple[str, dict[str, Any]]]:
    """Known tokenizers by name."""
    for name in ("NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase", "StripAccents"):
        yield name, definition(normalizer={"type": name})
    bert = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": True}
    yield (
        "BertNormalizer",
        definition(normalizer={"type": "BertNormalizer", **bert, "lowercase": True}),
    )
    yield (
        "Replace, as much as is known",
        definition(
            normalizer={"type": "Replace", "pattern": {"String": "a"}, "content": "A" * MOST_GROWTH}
        ),
    )
    for name in ("BertPreTokenizer", "Whitespace", "WhitespaceSplit", "UnicodeScripts"):
        yield name, definition(pre_tokenizer={"type": name})
    yield "Digits", definition(pre_tokenizer={"type": "Digits", "individual_digits": True})
    yield "Punctuation", definition(pre_tokenizer={"type": "Punctuation", "behavior": "Isolated"})
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
    yield "ByteLevel", definition(pre_tokenizer={**byte_level, "use_regex": True})
    meta = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    yield "Metaspace", definition(pre_tokenizer=meta)
    for pattern in sorted(PATTERNS):
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
        yield f"Split {pattern}", definition(pre_tokenizer={**split, "invert": False})
    pieces = {"a" * length: 6 + length for length in range(1, LONGEST_WORD + 1)}
    merges = [["a" * length, "a"] for length in range(1, LONGEST_WORD)]
    yield (
        "BPE of runs",
        definition(
            model={"type": "BPE", "vocab": ALONE | pieces, "merges": merges, "unk_token": "[UNK]"}
        ),
    )
    word_piece = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##"}
    for most in (LONGEST_WORD,):
        yield (
            f"WordPiece of {most}",
            definition(
                pre_tokenizer={"type": "Split", "pattern": {"Regex": r"\s+"}, "behavior": "Removed"}
                | {"invert": False},
                model={**word_piece, "max_input_chars_per_word": most, "vocab": ALONE},
            ),
        )
    runs = [["<unk>", -1.0], *(["a" * length, -1.0] for length in range(1, LONGEST_PIECE + 1))]
    yield "Unigram of runs", definition(model={"type": "Unigram", "unk_id": 0, "vocab": runs})
    added = {"single_word": False, "lstrip": True, "rstrip": True, "normalized": False}
    token = {"id": 6, "content": "<m>", "special": True, **added}
    yield "an added token with white space", definition(added_tokens=[token])
    yield "an added token of one character", definition(added_tokens=[{**token, "content": "a"}])


def slowest(tokenizer: Tokenizer, characters: int) -> tuple[float, str]:
    found = (0.0, "")
    for text in texts(characters):
        found = max(found, (_seconds(tokenizer, text), text))
    return found


def _seconds(tokenizer: Tokenizer, text: str) -> float:
    best = float("inf")
    for _ in range(3):
        began = time.process_time()
        tokenizer.encode_batch_fast([text], add_special_tokens=False)
        best = min(best, time.process_time() - began)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description="the worst case of known tokenizers")
    parser.add_argument("--name", help="of the file of results; none is written without one")
    chosen = parser.parse_args()
    report: dict[str, Any] = {}
    for name, parts in cases():
        kind = TokenizerKind.of(parts)
        if kind.unproven:
            raise SystemExit(f"{name} is of no known kind: {kind.unproven}")
        tokenizer = Tokenizer.from_buffer(orjson.dumps(parts))
        seconds, text = slowest(tokenizer, INLINE_CHARACTERS)
        half = _seconds(tokenizer, text[: INLINE_CHARACTERS // 2])
        report[name] = {"ms": round(seconds * 1e3, 2), "over half": round(seconds / half, 1)}
        print(f"{seconds * 1e3:8.2f} ms  x{seconds / half:4.1f}  {name[:60]!r} on {text[:12]!r}…")
    if chosen.name:
        from benchmarks.gateway import machine  # noqa: PLC0415

        found = {
            "date": datetime.now(UTC).date().isoformat(),
            "command": f"python -m benchmarks.tokenizer_kinds --name {chosen.name}",
            "machine": machine(),
            "characters": INLINE_CHARACTERS,
            "slowest": report,
        }
        path = HERE / "results" / f"{chosen.name}.json"
        path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
