"""Draws batches for the tasks of the recipe from pools on the device."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from training.batches import (
    Pool,
    Relabelling,
    Rows,
    compact,
    cut_span,
    drop_tokens,
    finish,
    join,
)
from training.pools import Store
from training.recipe import INSTRUCTION_SHARES, LANGUAGE, SYMMETRIC_SHARES, Optimisation, Task

LONGEST_QUERY = 40
SPAN = (6, 40)
LANGUAGE_WIDTH = 256
LANGUAGE_BATCH = 512
RELABELLED_SHARE = 0.5
CROPPED_SHARE = 0.2


@dataclass(frozen=True)
class Pairs:
    """A contrastive batch: what the model reads, and the bare texts for judging it."""

    queries: Rows
    documents: Rows
    bare_queries: Rows
    bare_documents: Rows


@dataclass
class Sampler:
    """All training pools of a store on one device; evaluation pools are left out."""

    store: Store
    device: torch.device
    vocabulary: int
    pools: dict[str, Pool] = field(init=False)
    arrays: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        training = {n: p for n, p in self.store.pools.items() if not n.startswith(("dev/", "sts/"))}
        self.pools = {name: Pool.load(pool, self.device) for name, pool in training.items()}
        self.arrays = {
            name: torch.from_numpy(array).to(self.device)
            for name, array in self.store.arrays.items()
            if not name.startswith(("dev/", "sts/"))
        }
        self._instruction_shares = torch.tensor(INSTRUCTION_SHARES, device=self.device)
        self._symmetric_shares = torch.tensor(SYMMETRIC_SHARES, device=self.device)
        sources = list(LANGUAGE)
        self._sources = sources
        self._source_weights = torch.tensor([float(LANGUAGE[source]) for source in sources])

    def language(self, batch: int = LANGUAGE_BATCH) -> Rows:
        """Rows of running text, or of a text and its translation one after the other."""
        choice = int(torch.multinomial(self._source_weights, 1))
        names = self._sources[choice]
        size = len(self.pools[names[0]])
        index = torch.randint(size, (batch,), device=self.device)
        width = LANGUAGE_WIDTH // len(names)
        parts = [self.pools[name].take(index, width, crop=len(names) == 1) for name in names]
        if len(parts) > 1:
            parts = [finish(part, self.pools["instruction"]) for part in parts]
        return join(parts) if len(parts) > 1 else finish(parts[0], self.pools["instruction"])

    def pairs(self, task: Task, options: Optimisation) -> Pairs:
        pool = self.pools[_one_of(task.documents)]
        index = self._documents(task, len(pool), int(task.batch * options.batch_factor))
        documents = pool.take(index, task.width - 1, crop=float(torch.rand(())) < CROPPED_SHARE)
        if task.queries:
            queries = self._queries(task, index)
        else:
            queries, documents = cut_span(documents, *SPAN, removed=0.5)
        if task.joined > 1:
            return self._joined(task, queries, documents)
        if float(torch.rand(())) < task.relabelled * options.relabelled:
            tables = Relabelling.draw(
                self.vocabulary, self.vocabulary // 8, RELABELLED_SHARE, self.device
            )
            which = torch.randint(len(tables.tables), (len(index),), device=self.device)
            queries, documents = tables.apply(which, queries), tables.apply(which, documents)
        if not task.symmetric and float(torch.rand(())) < 0.5:
            queries = drop_tokens(queries, options.query_drop)
        return self._finished(task, queries, documents)

    def _finished(self, task: Task, queries: Rows, documents: Rows) -> Pairs:
        shares = self._symmetric_shares if task.symmetric else self._instruction_shares
        instructions = self.pools["instruction"]
        return Pairs(
            finish(queries, instructions, shares),
            finish(documents, instructions),
            queries,
            documents,
        )

    def _documents(self, task: Task, size: int, batch: int) -> Tensor:
        """Distinct documents: at random, or article after article in random order."""
        if not task.clusters:
            return torch.randperm(size, device=self.device)[:batch]
        article = self.arrays[task.clusters]
        order = torch.rand(int(article.max()) + 1, device=self.device)[article]
        return torch.argsort(order, stable=True)[:batch]

    def _queries(self, task: Task, index: Tensor) -> Rows:
        if task.questions_of:
            starts = self.arrays[task.questions_of]
            first, count = starts[index], starts[index + 1] - starts[index]
            index = first + (torch.rand(len(index), device=self.device) * count).long()
        pool = self.pools[_one_of(task.queries)]
        width = task.width - 1 if task.symmetric else LONGEST_QUERY
        return pool.take(index, width)

    def _joined(self, task: Task, queries: Rows, documents: Rows) -> Pairs:
        """Neighbouring documents joined into long ones, each asked for by one of its parts."""
        groups = len(documents) // task.joined
        used = groups * task.joined
        ids = documents.ids[:used].reshape(groups, -1)
        long = compact(ids, documents.mask[:used].reshape(groups, -1))
        part = torch.randint(task.joined, (groups,), device=self.device)
        rows = torch.arange(groups, device=self.device) * task.joined + part
        asked = Rows(queries.ids[rows], queries.lengths[rows])
        return self._finished(task, asked, Rows(long.ids, long.lengths))


def _one_of(names: tuple[str, ...]) -> str:
    return names[int(torch.randint(len(names), ()))]
