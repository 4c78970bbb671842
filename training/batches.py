"""Builds batches on the GPU: ragged gathers, spans, dropped and relabelled tokens, instructions.

All pools lie on the device, so a batch costs a few kernels and no host work. A `Rows` is a padded
block of ids with its lengths, still without end token; `finish` appends it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from training.pools import Ragged

PAD_MULTIPLE = 32
END_ID = 0


@dataclass(frozen=True)
class Rows:
    """Token ids [count, width], right-padded, and the length of each row."""

    ids: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        return self.ids.shape[0]

    @property
    def mask(self) -> Tensor:
        return positions(self.ids) < self.lengths[:, None]


@dataclass(frozen=True)
class Pool:
    """Ragged sequences on the device."""

    flat: Tensor
    starts: Tensor

    @classmethod
    def load(cls, ragged: Ragged, device: torch.device) -> "Pool":
        flat = torch.from_numpy(ragged.flat.astype("int32")).to(device)
        return cls(flat, torch.from_numpy(ragged.starts).to(device))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def take(self, index: Tensor, width: int, *, crop: bool = False) -> Rows:
        """The sequences at `index`, cut to `width`; with `crop` from a random place if longer."""
        begin, end = self.starts[index], self.starts[index + 1]
        if crop:
            spare = (end - begin - width).clamp(min=0)
            begin = begin + (torch.rand(len(index), device=begin.device) * (spare + 1)).long()
        lengths = (end - begin).clamp(max=width)
        offsets = torch.arange(_padded(lengths), device=begin.device)
        places = (begin[:, None] + offsets).clamp(max=len(self.flat) - 1)
        ids = self.flat[places].long()
        return Rows(ids.masked_fill(offsets >= lengths[:, None], END_ID), lengths)


def _padded(lengths: Tensor) -> int:
    """The width that holds the longest row: a multiple, so that few shapes are compiled."""
    longest = int(lengths.max()) if len(lengths) else 1
    return max(1, -(-longest // PAD_MULTIPLE)) * PAD_MULTIPLE


def positions(ids: Tensor) -> Tensor:
    return torch.arange(ids.shape[1], device=ids.device)[None, :]


def compact(ids: Tensor, keep: Tensor) -> Rows:
    """The kept tokens of each row, in order, moved to its beginning."""
    order = torch.argsort(keep.logical_not().byte(), dim=1, stable=True)
    lengths = keep.sum(1)
    width = min(_padded(lengths), ids.shape[1])
    kept = ids.gather(1, order[:, :width])
    return Rows(kept.masked_fill(positions(kept) >= lengths[:, None], END_ID), lengths)


def drop_tokens(rows: Rows, share: float) -> Rows:
    """Drops tokens at random, each row at its own rate up to `share`, and never all of them."""
    rates = torch.rand(len(rows), 1, device=rows.ids.device) * share
    keep = torch.rand(rows.ids.shape, device=rows.ids.device) >= rates
    keep[:, 0] = True
    return compact(rows.ids, keep & rows.mask)


def cut_span(rows: Rows, shortest: int, longest: int, removed: float) -> tuple[Rows, Rows]:
    """A random span of each row, and the rows, with the span removed from a share of them."""
    device = rows.ids.device
    wanted = torch.randint(shortest, longest + 1, (len(rows),), device=device)
    size = torch.minimum(wanted, (rows.lengths // 2).clamp(min=1))
    begin = (torch.rand(len(rows), device=device) * (rows.lengths - size + 1)).long()
    place = positions(rows.ids)
    inside = (place >= begin[:, None]) & (place < (begin + size)[:, None])
    without = torch.rand(len(rows), 1, device=device) < removed
    return compact(rows.ids, inside), compact(rows.ids, rows.mask & ~(inside & without))


def join(parts: list[Rows]) -> Rows:
    """Row-wise concatenation."""
    ids = torch.cat([part.ids for part in parts], dim=1)
    return compact(ids, torch.cat([part.mask for part in parts], dim=1))


@dataclass(frozen=True)
class Relabelling:
    """Swaps rare tokens for other ones, alike in a query and in its document.

    What is left to match is which tokens agree, not which words they were: it teaches the model to
    match names that it has never seen.
    """

    tables: Tensor

    @classmethod
    def draw(
        cls, vocabulary: int, common: int, share: float, device: torch.device
    ) -> "Relabelling":
        """64 tables; ids below `common` (bytes and the most frequent merges) stay."""
        count, rare = 64, vocabulary - common
        tables = torch.arange(vocabulary, device=device).repeat(count, 1)
        shuffled = torch.argsort(torch.rand(count, rare, device=device), dim=1) + common
        swap = torch.rand(count, rare, device=device) < share
        tables[:, common:] = torch.where(swap, shuffled, tables[:, common:])
        return cls(tables)

    def apply(self, which: Tensor, rows: Rows) -> Rows:
        return Rows(self.tables[which[:, None], rows.ids], rows.lengths)


def finish(rows: Rows, instructions: Pool, shares: Tensor | None = None) -> Rows:
    """Puts an instruction drawn with `shares` before each row, and the end token after it."""
    parts = [rows]
    if shares is not None:
        which = torch.multinomial(shares, len(rows), replacement=True)
        parts.insert(0, instructions.take(which, 64))
    joined = join(parts) if len(parts) > 1 else rows
    lengths = joined.lengths + 1
    spare = _padded(lengths) - joined.ids.shape[1]  # negative where the padding was too wide
    return Rows(torch.nn.functional.pad(joined.ids, (0, spare), value=END_ID), lengths)


def by_length(rows: Rows, parts: int) -> tuple[list[Rows], Tensor]:
    """Rows in blocks of alike length, padded only as needed; and how to undo the sorting."""
    order = torch.argsort(rows.lengths)
    blocks = []
    for index in order.chunk(parts):
        lengths = rows.lengths[index]
        blocks.append(Rows(rows.ids[index, : _padded(lengths)], lengths))
    return blocks, torch.argsort(order)
