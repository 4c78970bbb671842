"""Trains the byte-level BPE tokenizer and fixes its file form.

The layout is Qwen's (NFC, byte-level, `<|endoftext|>` appended once by the post-processor) with two
deliberate differences. Text is lower-cased: a vocabulary this small cannot afford "Panther" and
"PANTHER" as separate words. Digits go in groups of up to four, never with the space before them,
so that a year is one token and the same token in English and in Chinese text.
"""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

END = "<|endoftext|>"

# ':' stands alone so that "Query:" + text has the same tokens as the two parts encoded apart:
# training glues instruction and query together as ids.
PIECES = (
    r"\p{N}{1,4}|:| ?\p{Han}+| ?[\p{L}\p{M}&&[^\p{Han}]]+| ?[^\s\p{L}\p{M}\p{N}:]+|\s+(?!\S)|\s+"
)


def untrained() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """A tokenizer of at most `vocabulary` entries, `<|endoftext|>` being number 0."""
    tokenizer = untrained()
    trainer = BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=32,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}",
        pair=f"$A {END} $B {END}",
        special_tokens=[(END, tokenizer.token_to_id(END))],
    )
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Token ids without the appended end token: batches put it on after cropping."""
    encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [encoding.ids for encoding in encodings]
