"""Splits a batch into forward passes, and finds prefixes that are computed only once.

With causal attention a token's keys and values depend only on the tokens before it, so texts with a
common prefix (documents behind a reranker's template, queries behind one instruction) share them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from embedfleet.vocabulary import Encoding


def lengths_of(batch: Sequence[Encoding], max_tokens: int) -> list[int]:
    """Tokens of each text; raises ValueError for no text, an empty one or one over `max_tokens`."""
    lengths = [len(encoding) for encoding in batch]
    if not lengths or not all(0 < length <= max_tokens for length in lengths):
        raise ValueError(f"a batch holds texts of 1 to {max_tokens} tokens; got {lengths[:20]}")
    return lengths


def positions_of(begins: NDArray[np.int32]) -> NDArray[np.int32]:
    """Of each token in its text, [tokens]; `begins` [texts + 1] are the rows of texts."""
    lengths = np.diff(begins)
    return np.arange(begins[-1], dtype=np.int32) - np.repeat(begins[:-1], lengths)


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
    """Cut a batch likewise for padded passes: each text counts as the longest of its pass."""
    start, longest = 0, 0
    for index, length in enumerate(lengths):
        widest = max(longest, length)
        if index > start and (index + 1 - start) * widest > batch_tokens:
            yield slice(start, index)
            start, widest = index, length
        longest = widest
    if lengths:
        yield slice(start, len(lengths))


@dataclass(slots=True)
class SharingPass:
    """Texts computed in one forward pass; the prefix of one may be shared by later ones."""

    places: list[int] = field(default_factory=list)
    """The place of each text in the batch."""
    shared: list[int] = field(default_factory=list)
    """Tokens of each text's prefix that are computed as part of another text of the pass."""
    lenders: list[int] = field(default_factory=list)
    """The text that computes the prefix, by its place in the pass; itself if nothing is shared. A
    lender shares nothing itself."""
    tokens: int = 0
    """Tokens that are computed."""
    kept: int = 0
    """Tokens whose keys and values are kept, in whole blocks for each text."""

    def add(self, place: int, length: int, shared: int, lender: int, block: int) -> None:
        self.places.append(place)
        self.shared.append(shared)
        self.lenders.append(lender)
        self.tokens += length - shared
        self.kept += -(-length // block) * block

    @property
    def shares(self) -> bool:
        return any(self.shared)


def shared_tokens(passes: Sequence[SharingPass], texts: int) -> list[int]:
    """Of each text of a batch, those that are computed as another's; empty if none are."""
    if not any(each.shares for each in passes):
        return []
    shared = [0] * texts
    for each in passes:
        for place, count in zip(each.places, each.shared, strict=True):
            shared[place] = count
    return shared


def sharing_passes(
    batch: Sequence[Encoding],
    batch_tokens: int,
    block: int,
    *,
    causal: bool = True,
    longest: int | None = None,
) -> Iterator[SharingPass]:
    """Cut a batch into passes that compute at most `batch_tokens` tokens, except a longer text.

    Texts share prefixes in multiples of `block`, and keep their order if none do. A pass keeps at
    most `block * batch_tokens` keys, as many as `batch_tokens` texts of one token. Without `causal`
    attention nothing is shared, nor with texts of more than `longest` tokens.
    """
    order = _alike_side_by_side(batch, block) if causal else None
    now, lender = SharingPass(), 0
    for place in range(len(batch)) if order is None else order:
        text, common = batch[place], 0
        if now.places:
            if order is not None:
                common = _common(batch[now.places[lender]], text, block, longest)
            # Behind the same template another query may begin, whose texts share more.
            if common and _common(batch[now.places[-1]], text, block, longest) > common + block:
                common = 0
            kept = now.kept + len(text) + block
            if now.tokens + len(text) - common > batch_tokens or kept > block * batch_tokens:
                yield now
                now, common = SharingPass(), 0
        if not common:
            lender = len(now.places)
        now.add(place, len(text), common, lender, block)
    if now.places:
        yield now


def _alike_side_by_side(batch: Sequence[Encoding], block: int) -> Sequence[int] | None:
    """An order that groups texts with a common prefix; None if no two have one."""
    begins = [text[:block].tobytes() for text in batch if len(text) > block]
    if len(set(begins)) == len(begins):
        return None
    return sorted(range(len(batch)), key=lambda place: batch[place].tobytes())


def _common(lender: Encoding, text: Encoding, block: int, longest: int | None) -> int:
    """Length of the common prefix in whole blocks; less than `text`, whose last token is needed."""
    if longest is not None and max(len(lender), len(text)) > longest:
        return 0
    most = min(len(lender), len(text) - 1)
    differ = lender[:most] != text[:most]
    at = int(differ.argmax()) if most else 0
    return (at if most and differ[at] else most) // block * block
