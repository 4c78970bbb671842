"""Which texts of a batch go through the model together.

Pure: decides by token counts alone. Refuses to know devices, and how a pass is laid out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from embedfleet.vocabulary import Encoding


def lengths_of(batch: Sequence[Encoding], max_tokens: int) -> list[int]:
    """Tokens of each text; raises ValueError for no text, an empty one or one over `max_tokens`."""
    lengths = [len(encoding) for encoding in batch]
    if not lengths or not all(0 < length <= max_tokens for length in lengths):
        raise ValueError(f"a batch holds texts of 1 to {max_tokens} tokens; got {lengths[:20]}")
    return lengths


def passes(lengths: Sequence[int], batch_tokens: int) -> Iterator[slice]:
    """Cut a batch, in its order, into passes of at most `batch_tokens` tokens.

    A text longer than that gets a pass of its own.
    """
    start, tokens = 0, 0
    for index, length in enumerate(lengths):
        if tokens and tokens + length > batch_tokens:
            yield slice(start, index)
            start, tokens = index, 0
        tokens += length
    if tokens:
        yield slice(start, len(lengths))


def padded_passes(lengths: Sequence[int], batch_tokens: int) -> Iterator[slice]:
    """Cut a batch likewise, where each text counts as many tokens as the longest of its pass."""
    start, longest = 0, 0
    for index, length in enumerate(lengths):
        widest = max(longest, length)
        if index > start and (index + 1 - start) * widest > batch_tokens:
            yield slice(start, index)
            start, widest = index, length
        longest = widest
    if lengths:
        yield slice(start, len(lengths))
