"""How well token ids of another tokenizer are told from a model's own.

    PYTHONPATH=src .venv-sdks/bin/python benchmarks/token_ids.py [--qwen qwen.tiktoken]

Foreign ids are OpenAI's (cl100k, as LangChain sends them by default) of real paragraphs and
questions in five languages; own ones are whole sequences and parts of them, cut anywhere. `--qwen`
adds Qwen's vocabulary of 151,643 tokens, as the package `dashscope` brings it. Runs where `make
sdks` has put tiktoken and LiteLLM, which has cl100k. Writes `benchmarks/results/token-ids.json`.
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import json
import os
import random
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from embedfleet.models.encoding.token_ids import OwnIds
from embedfleet.models.tokenizer_file import load_tokenizer
from embedfleet.models.tokenizer_library import Library

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("EMBEDFLEET_DATA", ROOT / "shared" / "data"))
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PARTS = 40_000
LENGTHS = (5, 10, 20, 50, 100)


def real_texts() -> list[str]:
    found = []
    for language in ("en", "zh", "es", "de", "ar"):
        path = DATA / "xquad" / f"xquad.{language}.json"
        for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
            for paragraph in article["paragraphs"]:
                found.append(paragraph["context"])
                found += [each["question"] for each in paragraph["qas"]]
    return found


def spelled(token: bytes) -> str:
    """Bytes as byte-level vocabularies write them."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [each for each in range(256) if each not in shown]
    letters = {each: chr(each) for each in shown}
    letters |= {each: chr(256 + place) for place, each in enumerate(hidden)}
    return "".join(letters[each] for each in token)


def from_ranks(path: Path) -> Tokenizer:
    """A tokenizer of Qwen's kind from tiktoken's file of ranks."""
    ranks: dict[bytes, int] = {}
    for line in path.read_text().splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)

    def parts(token: bytes, rank: int) -> list[bytes]:
        found = [bytes([each]) for each in token]
        while True:
            pairs = [
                (ranks[found[at] + found[at + 1]], at)
                for at in range(len(found) - 1)
                if ranks.get(found[at] + found[at + 1], rank) < rank
            ]
            if not pairs:
                return found
            _, at = min(pairs)
            found[at : at + 2] = [found[at] + found[at + 1]]

    merges = [
        (spelled(pair[0]), spelled(pair[1]))
        for token, rank in sorted(ranks.items(), key=lambda each: each[1])
        if len(pair := parts(token, rank)) == 2
    ]
    library = Tokenizer(models.BPE({spelled(each): rank for each, rank in ranks.items()}, merges))
    library.normalizer = normalizers.NFC()
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    library.decoder = decoders.ByteLevel()
    return library


def as_served(library: Tokenizer) -> Library:
    """The same tokenizer as a gateway has it, of a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        library.save(str(path))
        return load_tokenizer(path)


def measure(library: Tokenizer, foreign: Any, texts: list[str]) -> dict[str, Any]:
    own, most = OwnIds(as_served(library)), library.get_vocab_size()
    rng = random.Random(0)
    asked: dict[int, int] = defaultdict(int)
    found: dict[int, int] = defaultdict(int)
    for text in texts:
        ids = foreign.encode(text, disallowed_special=())
        length = max((each for each in LENGTHS if each <= len(ids)), default=0)
        asked[length] += 1
        found[length] += max(ids) >= most or not own(ids)
    encoded = [library.encode(each, add_special_tokens=False).ids for each in texts]
    alarms = 0
    for number in range(PARTS):
        ids = rng.choice(encoded)
        first = rng.randrange(len(ids)) if number % 2 else 0
        alarms += not own(ids[first : rng.randint(first + 1, len(ids))])
    begun = time.perf_counter()
    for ids in encoded[:1000]:
        own(ids)
    check_s = time.perf_counter() - begun
    begun = time.perf_counter()
    for text in texts[:1000]:
        library.encode(text, add_special_tokens=False)
    encode_s = time.perf_counter() - begun
    five = [each for each in LENGTHS if asked[each]]
    return {
        "vocabulary": most,
        "texts of five tokens and more": sum(asked[each] for each in five),
        "found of them": sum(found[each] for each in five) / sum(asked[each] for each in five),
        "found by tokens from": {each: found[each] / asked[each] for each in five},
        "parts of own sequences": PARTS,
        "false alarms": alarms,
        "µs of a check": round(check_s * 1e3, 1),
        "µs of tokenising the text": round(encode_s * 1e3, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--qwen", type=Path)
    chosen = parser.parse_args()
    litellm = importlib.util.find_spec("litellm")  # not imported: it would ask the network
    if litellm is None or litellm.origin is None:
        raise SystemExit("LiteLLM, which has cl100k's vocabulary, is not here: `make sdks`")
    bundled = Path(litellm.origin).parent / "litellm_core_utils" / "tokenizers"
    os.environ["TIKTOKEN_CACHE_DIR"] = str(bundled)
    import tiktoken  # noqa: PLC0415  reads the variable when it is loaded

    foreign, texts = tiktoken.get_encoding("cl100k_base"), real_texts()
    built_in = ROOT / "src" / "embedfleet" / "models" / "builtin" / "tokenizer.json"
    libraries = {"built-in": Tokenizer.from_file(str(built_in))}
    if chosen.qwen is not None:
        libraries["Qwen"] = from_ranks(chosen.qwen)
    results = {name: measure(each, foreign, texts) for name, each in libraries.items()}
    told = json.dumps({"date": time.strftime("%Y-%m-%d", time.gmtime())} | results, indent=1)
    (ROOT / "benchmarks" / "results" / "token-ids.json").write_text(told + "\n")
    print(told)


if __name__ == "__main__":
    main()
