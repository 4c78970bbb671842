"""The CPU stage: lexicon, texts, tokenizer, token pools; one command, no GPU and no network.

Writes `tokenizer.json` and `pools.npz.xz` into a folder per vocabulary size.
"""

import argparse
import time
from pathlib import Path

from training.pairs import Sizes, Texts, build_lexicon, evaluation_texts, training_texts
from training.pools import Ragged, Store
from training.recipe import INSTRUCTION, OTHER_INSTRUCTIONS, prompt
from training.tokenizer import encode, train_tokenizer

SMOKE = Sizes(paragraphs=60, sentences=200, evaluated=("xquad-zh-en",))
FULL = Sizes()
SEED = 20


def tokenizer_sample(texts: Texts) -> list[str]:
    """What the tokenizer is trained on: real text only, Chinese thrice for its smaller share."""
    pools = texts.pools
    english = ["squad.text", "squad.question", "scifact.text", "docs.en", "short.en", "tldr.en"]
    chinese = ["cmrc.text", "cmrc.question", "docs.zh", "short.zh", "tldr.zh"]
    sample = [text for name in english for text in pools[name]]
    sample += [text for name in chinese for text in pools[name] for _ in range(3)]
    sample += pools["cmrc.text.hant"] + pools["tldr.en.command"]
    return sample


def prepare(folder: Path, sizes: Sizes, vocabularies: list[int]) -> None:
    started = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - started:6.1f} s  {what}", flush=True)

    lexicon = build_lexicon(sizes)
    say(f"lexicon: {len(lexicon.to_chinese)} English, {len(lexicon.to_english)} Chinese entries")
    texts = training_texts(lexicon, sizes, SEED)
    texts.pools["instruction"] = ["", *map(prompt, (INSTRUCTION, *OTHER_INSTRUCTIONS))]
    held_out = evaluation_texts(sizes)
    say(f"texts: {sum(map(len, texts.pools.values()))} in {len(texts.pools)} pools")
    for vocabulary in vocabularies:
        tokenizer = train_tokenizer(tokenizer_sample(texts), vocabulary)
        pools = {
            name: Ragged.of(encode(tokenizer, pool))
            for name, pool in (texts.pools | held_out.pools).items()
        }
        target = folder / str(vocabulary)
        store = Store(pools, texts.arrays | held_out.arrays)
        store.save(target / "pools.npz.xz")
        tokenizer.save(str(target / "tokenizer.json"), pretty=False)
        tokens = sum(len(pool.flat) for pool in pools.values())
        say(f"vocabulary {tokenizer.get_vocab_size()}: {tokens / 1e6:.1f} M tokens in {target}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[12_288])
    parser.add_argument("--smoke", action="store_true", help="a small sample, for tests")
    arguments = parser.parse_args()
    sizes = SMOKE if arguments.smoke else FULL
    prepare(arguments.folder, sizes, arguments.vocabulary)


if __name__ == "__main__":
    main()
