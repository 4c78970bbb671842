"""Whether a tokenizer.json is of a kind whose time and memory are linear in the text. Pure.

Every part must be one that published embedding models use, with sizes like theirs: a regular
expression that was not looked at can take years for forty characters, and a few replacements in a
row can make a gigabyte of one. What this does not know is not refused but runs in a process of its
own (`tokenizer_process`), which only costs time. So a part belongs here if it is common and if its
worst case was measured (`python -m benchmarks.tokenizer_kinds`).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeGuard

Part: TypeAlias = Mapping[str, Any]

_CONTRACTIONS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES: Final = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_SIGNS: Final = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_WORDS: Final = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_LOWER: Final = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
_UPPER: Final = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
_SIGNS_AND_SLASHES: Final = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"

QWEN: Final = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_SIGNS}|{_SPACES}"
_QWEN_3_5: Final = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
)
_LLAMA_3: Final = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_SIGNS}|{_SPACES}"
_GPT_4O: Final = (
    rf"{_LOWER}{_CONTRACTIONS}?|{_UPPER}{_CONTRACTIONS}?|\p{{N}}{{1,3}}"
    rf"|{_SIGNS_AND_SLASHES}|{_SPACES}"
)
_MISTRAL: Final = rf"{_LOWER}|{_UPPER}|\p{{N}}|{_SIGNS_AND_SLASHES}|{_SPACES}"
_GPT_2: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_BUILTIN: Final = (
    r"\p{N}{1,4}|:| ?\p{Han}+| ?[\p{L}\p{M}&&[^\p{Han}]]+| ?[^\s\p{L}\p{M}\p{N}:]+"
    r"|\s+(?!\S)|\s+"
)

PATTERNS: Final = frozenset(
    {
        QWEN,
        _QWEN_3_5,
        _LLAMA_3,
        _GPT_4O,
        _MISTRAL,
        _GPT_2,
        rf"{_GPT_2}|\s+",
        _BUILTIN,
        # BLOOM:
        r" ?[^(\s|[.,!?…。，、।۔،])]+",
        r" ?[^(\s|.,!?…。，、।۔،)]+",
        # XLM-RoBERTa and T5:
        r" {2,}",
        r"\s+",
        # Others, runs of one kind:
        r"\p{N}",
        r"\p{N}+",
        r"\p{N}{1,3}",
        r"\d",
        r"\d+",
        r"[0-9]",
        r"[0-9][0-9][0-9]",
        r"[\r\n]",
    }
)
"""Regular expressions of published tokenizers. In each, what an alternative has read and given up
is read by the next one, so that a character is looked at a fixed number of times."""

MOST_PARTS = 16
"""Of a sequence."""

MOST_INSERTED = 16
"""Characters of what a part inserts."""

MOST_GROWTH = 40
"""How many times longer replacements may make a text, all together. One sign of Arabic is eleven
times as long in Unicode's own compatibility forms (NFKC)."""

LONGEST_WORD = 100
"""Characters of a word that WordPiece looks up part by part, in time that grows with their cube."""

LONGEST_PIECE = 64
"""Characters of a piece of a Unigram vocabulary: each place of a text is looked up so far."""

MOST_PIECES = 4 << 20
"""Characters of all pieces of a Unigram vocabulary, each of which may take a hundred bytes and more
in the library's trie. XLM-RoBERTa's 250,000 have about a third of that."""

MOST_ADDED = 1 << 20
"""Characters of all tokens beside the vocabulary, which are looked for by an automaton."""


@dataclass(frozen=True, slots=True)
class TokenizerKind:
    """What the definition of a tokenizer says of it."""

    unproven: str
    """The first part of which it is not known that its time is linear; empty where there is none.
    """
    pre_tokenizers: frozenset[str]
    """Types of the parts that cut a text into words."""
    decoder: str
    """The type of the decoder; empty without one."""
    unknown: str | int | None
    """The token for what a vocabulary lacks, by its text or its id."""

    @classmethod
    def of(cls, definition: Part) -> TokenizerKind:
        """Read a tokenizer.json, whatever is in it."""
        model = definition.get("model")
        model = model if isinstance(model, dict) else {}
        named = model.get("unk_token", model.get("unk_id"))
        return cls(
            unproven=next(_unproven(definition), ""),
            pre_tokenizers=frozenset(_types(definition.get("pre_tokenizer"))),
            decoder=next(_types(definition.get("decoder")), ""),
            unknown=named if isinstance(named, str | int) else None,
        )


def typed(definition: dict[str, Any]) -> None:
    """Name the type of a model that has none, as files of before tokenizers 0.13 do: left alone,
    the library would try one type after the other.
    """
    model = definition.get("model")
    if isinstance(model, dict) and "type" not in model:
        telling = (("merges", "BPE"), ("max_input_chars_per_word", "WordPiece"))
        found = [kind for field, kind in (*telling, ("unk_id", "Unigram")) if field in model]
        definition["model"] = {"type": (*found, "WordLevel")[0], **model}


def _types(part: object) -> Iterator[str]:
    """Types of a part, and of those in it."""
    left = [part]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            yield str(part.get("type"))
            left += part.values()
        elif isinstance(part, list):
            left += part


def _unproven(definition: Part) -> Iterator[str]:
    """Names of parts that are not known to be linear."""
    for name, (inner, known) in _SECTIONS.items():
        part = definition.get(name)
        if part is None:
            continue
        parts = _parts(part, inner)
        if parts is None or not all(_is_known(each, known) for each in parts):
            yield name
    if _growth(definition) > MOST_GROWTH:
        yield "normalizer"
    if not _is_known(definition.get("model"), _MODELS):
        yield "model"
    added = definition.get("added_tokens") or []
    if not (isinstance(added, list) and _fit([_content(each) for each in added], MOST_ADDED)):
        yield "added_tokens"


def _parts(part: object, inner: str) -> Sequence[object] | None:
    """The parts of one, which may be a sequence of others but not of sequences; None of more."""
    if not isinstance(part, dict) or part.get("type") != "Sequence":
        return [part]
    parts = part.get(inner)
    fits = isinstance(parts, list) and len(parts) <= MOST_PARTS and set(part) == {"type", inner}
    return parts if fits else None


Check: TypeAlias = Callable[[Part], bool]


def _is_known(part: object, known: Mapping[str, tuple[Collection[str], Check]]) -> bool:
    """Whether a part is of a known type, with no field that the type has not."""
    if not isinstance(part, dict):
        return False
    kind = part.get("type")
    if not isinstance(kind, str) or kind not in known:
        return False
    fields, check = known[kind]
    return part.keys() <= {"type", *fields} and check(part)


def _any(_: Part) -> bool:
    return True


def _short(*fields: str) -> Check:
    """Texts that are inserted, or looked up at every place."""

    def check(part: Part) -> bool:
        values = [part.get(field) for field in fields]
        return all(
            each is None or (isinstance(each, str) and len(each) <= MOST_INSERTED)
            for each in values
        )

    return check


def _splits(part: Part) -> bool:
    pattern = part.get("pattern")
    if not isinstance(pattern, dict) or len(pattern) != 1:
        return False
    (how, words), *_ = pattern.items()
    if not isinstance(words, str):
        return False
    return words in PATTERNS if how == "Regex" else how == "String" and words != ""


def _replaces(part: Part) -> bool:
    return isinstance(part.get("content"), str) and _splits(part)


def _growth(definition: Part) -> int:
    """How many times longer a text may become, in bytes."""
    growth = 1
    for part in _parts(definition.get("normalizer"), "normalizers") or ():
        if not isinstance(part, dict):
            continue
        if part.get("type") == "Replace" and _replaces(part):
            shortest = len(part["pattern"].get("String", "x").encode())
            growth *= max(1, -(-len(part["content"].encode()) // shortest))
        elif part.get("type") == "Precompiled":
            growth *= _longest_of_charsmap(part.get("precompiled_charsmap"))
    return growth


def _longest_of_charsmap(charsmap: object) -> int:
    """Bytes of the longest replacement of SentencePiece's map of characters: the size of a trie,
    the trie, and replacements that each end with a NUL.
    """
    try:
        content = base64.b64decode(charsmap if isinstance(charsmap, str) else "", validate=True)
    except (binascii.Error, ValueError):
        return MOST_GROWTH + 1
    trie = int.from_bytes(content[:4], "little")
    if not content or trie % 4 or 4 + trie > len(content):
        return MOST_GROWTH + 1
    return max(1, *map(len, content[4 + trie :].split(b"\0")))


def _is_word_piece(part: Part) -> bool:
    most = part.get("max_input_chars_per_word", 0)
    prefix = _short("continuing_subword_prefix")(part)
    return type(most) is int and 0 <= most <= LONGEST_WORD and prefix


def _is_unigram(part: Part) -> bool:
    entries = part.get("vocab")
    if not isinstance(entries, list):
        return False
    pieces = [each[0] if isinstance(each, list) and each else None for each in entries]
    return _fit(pieces, MOST_PIECES) and max(map(len, pieces), default=0) <= LONGEST_PIECE


def _fit(texts: Sequence[object], most: int) -> TypeGuard[Sequence[str]]:
    """Whether these are texts of so many characters together."""
    return all(isinstance(each, str) for each in texts) and sum(map(len, texts)) <= most  # type: ignore[arg-type]


def _content(token: object) -> object:
    """The text of a token beside the vocabulary; None where there is none."""
    return (token.get("content") or None) if isinstance(token, dict) else None


_STRIP = ("strip_left", "strip_right")
_BYTES = ("add_prefix_space", "trim_offsets", "use_regex")
_META = ("replacement", "prepend_scheme", "split", "add_prefix_space", "str_rep")
_REPLACE = ("pattern", "content")

_NORMALIZERS: Final[Mapping[str, tuple[Collection[str], Check]]] = {
    **dict.fromkeys(("NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase", "StripAccents"), ((), _any)),
    "BertNormalizer": (
        ("clean_text", "handle_chinese_chars", "strip_accents", "lowercase"),
        _any,
    ),
    "Strip": (_STRIP, _any),
    "Prepend": (("prepend",), _short("prepend")),
    "Replace": (_REPLACE, _replaces),
    "Precompiled": (("precompiled_charsmap",), _any),
}

_PRE_TOKENIZERS: Final[Mapping[str, tuple[Collection[str], Check]]] = {
    **dict.fromkeys(("BertPreTokenizer", "Whitespace", "WhitespaceSplit"), ((), _any)),
    "UnicodeScripts": ((), _any),
    "ByteLevel": (_BYTES, _any),
    "Metaspace": (_META, _any),
    "Punctuation": (("behavior",), _any),
    "Digits": (("individual_digits",), _any),
    "CharDelimiterSplit": (("delimiter",), _any),
    "Split": (("pattern", "behavior", "invert"), _splits),
}

_POST_PROCESSORS: Final[Mapping[str, tuple[Collection[str], Check]]] = {
    "TemplateProcessing": (("single", "pair", "special_tokens"), _any),
    "ByteLevel": (_BYTES, _any),
    "BertProcessing": (("sep", "cls"), _any),
    "RobertaProcessing": (("sep", "cls", "trim_offsets", "add_prefix_space"), _any),
}

_DECODERS: Final[Mapping[str, tuple[Collection[str], Check]]] = {
    **dict.fromkeys(("ByteFallback", "Fuse"), ((), _any)),
    "ByteLevel": (_BYTES, _any),
    "Metaspace": (_META, _any),
    "WordPiece": (("prefix", "cleanup"), _short("prefix")),
    "BPEDecoder": (("suffix",), _short("suffix")),
    "Strip": (("content", "start", "stop"), _any),
    "Replace": (_REPLACE, lambda part: _replaces(part) and _short("content")(part)),
}

_SECTIONS: Final = {
    "normalizer": ("normalizers", _NORMALIZERS),
    "pre_tokenizer": ("pretokenizers", _PRE_TOKENIZERS),
    "post_processor": ("processors", _POST_PROCESSORS),
    "decoder": ("decoders", _DECODERS),
}

_MODELS: Final[Mapping[str, tuple[Collection[str], Check]]] = {
    "BPE": (
        (
            "dropout",
            "unk_token",
            "continuing_subword_prefix",
            "end_of_word_suffix",
            "fuse_unk",
            "byte_fallback",
            "ignore_merges",
            "vocab",
            "merges",
        ),
        _short("continuing_subword_prefix", "end_of_word_suffix"),
    ),
    "WordPiece": (
        ("unk_token", "continuing_subword_prefix", "max_input_chars_per_word", "vocab"),
        _is_word_piece,
    ),
    "WordLevel": (("vocab", "unk_token"), _any),
    "Unigram": (("unk_id", "vocab", "byte_fallback"), _is_unigram),
}
