"""Finds, on the GPU, what the built-in model takes for similar: the lists that are to be reordered.

Its vectors are kept too: their cosines are one of the teachers.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from training import checkpoint
from training.batches import Pool, Rows
from training.evaluate import embed
from training.model import Qwen3
from training.pools import Store
from training.recipe import GEOMETRIES, SHIPPED
from training.reranker.recipe import DEPTH, TASKS, Task

_QUERIES_AT_ONCE = 2048


def load_embedder(weights: Path, device: torch.device) -> Qwen3:
    """The built-in model from the file that ships."""
    model = Qwen3(GEOMETRIES[SHIPPED]).to(device)
    model.load_state_dict(checkpoint.load(weights))
    return model.eval()


def encoder_of(model: Qwen3, device: torch.device) -> Callable[[Rows], Tensor]:
    def encode(rows: Rows) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            vectors: Tensor = model(rows.ids, rows.lengths - 1)
        return vectors

    return encode


def same_texts(pool: Pool) -> Tensor:
    """[documents]: a number for each, equal for equal texts (by a digest of their tokens)."""
    lengths = pool.starts[1:] - pool.starts[:-1]
    owner = torch.repeat_interleave(torch.arange(len(pool), device=lengths.device), lengths)
    place = torch.arange(len(owner), device=lengths.device) - pool.starts[owner]
    digest = torch.zeros(len(pool), dtype=torch.int64, device=lengths.device)
    mixed = (pool.flat.long() + 1) * ((place + 1) * 2_654_435_761 % 1_000_000_007)
    digest.index_add_(0, owner, mixed)
    _, number = digest.unique(return_inverse=True)
    return number


def best(
    queries: Tensor, documents: Tensor, depth: int, same: Tensor, right: Tensor | None
) -> Tensor:
    """[queries, depth] documents by falling cosine.

    Those that `right` pairs ([pairs, 2] of query, document) name, and equal texts, are left out.
    """
    found = []
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        similarity = (queries[start : start + _QUERIES_AT_ONCE] @ documents.T).float()
        if right is not None:
            inside = (right[:, 0] >= start) & (right[:, 0] < start + _QUERIES_AT_ONCE)
            chunk = right[inside]
            hidden = torch.zeros(
                len(similarity), int(same.max()) + 1, dtype=torch.bool, device=same.device
            )
            hidden[chunk[:, 0] - start, same[chunk[:, 1]]] = True
            similarity.masked_fill_(hidden[:, same], -2.0)
        found.append(similarity.topk(min(depth, len(documents)), dim=1).indices)
    return torch.cat(found)


@dataclass
class Miner:
    """Vectors of pools by the built-in model, made once."""

    store: Store
    embedder: Qwen3
    device: torch.device
    pools: dict[str, Pool] = field(default_factory=dict)
    _vectors: dict[tuple[str, bool], Tensor] = field(default_factory=dict)
    _pairs: dict[str, Tensor] = field(default_factory=dict)

    def pool(self, name: str) -> Pool:
        if name not in self.pools:
            self.pools[name] = Pool.load(self.store.pools[name], self.device)
        return self.pools[name]

    @torch.inference_mode()
    def vectors(self, name: str, *, asked: bool) -> Tensor:
        """Unit vectors of a pool in half precision, as queries (`asked`) or as documents."""
        key = name, asked
        if key not in self._vectors:
            instructions = self.pool("instruction") if asked else None
            encode = encoder_of(self.embedder, self.device)
            made = embed(encode, self.pool(name), instructions)
            kind = torch.float16 if self.device.type == "cuda" else torch.float32
            self._vectors[key] = functional.normalize(made, dim=-1).to(kind)
        return self._vectors[key]

    def pairs(self, task: Task) -> Tensor:
        """[pairs, 2] of query and right document."""
        key = task.pairs or task.documents
        if key not in self._pairs:
            if task.pairs:
                found = torch.from_numpy(self.store.arrays[task.pairs]).to(self.device)
            else:
                every = torch.arange(len(self.pool(task.documents)), device=self.device)
                found = torch.stack((every, every), dim=1)
            self._pairs[key] = found
        return self._pairs[key]

    def candidates(self, task: Task, queries: str) -> Tensor:
        """[queries, DEPTH] hard negatives; a document's own neighbours where spans are asked."""
        asked = self.vectors(queries, asked=True) if queries else None
        documents = self.vectors(task.documents, asked=False)
        same = same_texts(self.pool(task.documents))
        return best(documents if asked is None else asked, documents, DEPTH, same, self.pairs(task))

    def every(self) -> dict[tuple[str, str], Tensor]:
        """Candidates by (documents, queries) of all tasks."""
        found: dict[tuple[str, str], Tensor] = {}
        for task in TASKS.values():
            for queries in task.queries or ("",):
                if (key := (task.documents, queries)) not in found:
                    found[key] = self.candidates(task, queries)
        return found


def rarity(pool: Pool, vocabulary: int) -> Tensor:
    """BM25's idf of every token over the documents of a pool, [vocabulary]."""
    lengths = pool.starts[1:] - pool.starts[:-1]
    owner = torch.repeat_interleave(torch.arange(len(pool), device=lengths.device), lengths)
    seen = (owner * vocabulary + pool.flat.long()).unique() % vocabulary
    frequency = torch.bincount(seen, minlength=vocabulary).float()
    return torch.log1p((len(pool) - frequency + 0.5) / (frequency + 0.5))
