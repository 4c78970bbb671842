"""Draws batches of lists: a query, its right document first, and negatives behind it."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from training.batches import END_ID, Pool, Relabelling, Rows, cut_span, drop_tokens, finish, join
from training.reranker.mining import Miner, rarity
from training.reranker.recipe import LIST, LONGEST_QUERY, TASKS, Options, Task
from training.sampling import CROPPED_SHARE, RELABELLED_SHARE, SPAN

K1 = 1.2
SHARPNESS = 4.0
"""Of BM25's scores in the target."""
COSINE_SHARPNESS = 0.04
EASIEST = 0.1
"""Share of lists of random documents that stays: scores of what is far off should be low."""
PREFERRED = 10
"""A candidate at rank r is drawn with weight 1 / (r + PREFERRED)."""


@dataclass(frozen=True)
class Lists:
    """Pairs of `count` lists, the right document of each first; and what is to be predicted."""

    pairs: Rows
    target: Tensor
    """[lists, LIST]: a distribution over the documents of each list."""


def stacked(parts: list[Rows]) -> Rows:
    """Blocks of rows one under the other, padded to the widest."""
    width = max(part.ids.shape[1] for part in parts)
    ids = [functional.pad(part.ids, (0, width - part.ids.shape[1])) for part in parts]
    return Rows(torch.cat(ids), torch.cat([part.lengths for part in parts]))


def chosen(rows: Rows, index: Tensor) -> Rows:
    return Rows(rows.ids[index], rows.lengths[index])


def framed(queries: Rows, documents: Rows, frame: Pool) -> Rows:
    """What the model reads of each pair: see recipe.BEFORE_QUERY."""
    none = torch.zeros(len(queries), dtype=torch.long, device=queries.ids.device)
    before, between = frame.take(none, 32), Rows(none[:, None] + END_ID, none + 1)
    return finish(join([before, queries, between, documents]), frame)


def words_agreeing(queries: Rows, documents: Rows, idf: Tensor) -> Tensor:
    """BM25 of each query and its documents, [lists, LIST], over tokens and pairs of tokens.

    A token that a query has twice counts twice. Length of documents has no part.
    """
    count, per = len(queries), len(documents) // len(queries)
    asked = queries.ids[:, None, :, None]
    read = documents.ids.view(count, per, 1, -1)
    inside = (queries.mask[:, None, :, None]) & documents.mask.view(count, per, 1, -1)
    equal = (asked == read) & inside
    single, double = equal.sum(-1), (equal[:, :, :-1, :-1] & equal[:, :, 1:, 1:]).sum(-1)
    weights = (idf[queries.ids] * queries.mask)[:, None, :]
    score = (single * (K1 + 1) / (single + K1) * weights).sum(-1)
    both = torch.maximum(weights[..., :-1], weights[..., 1:])
    return score + (double * (K1 + 1) / (double + K1) * both).sum(-1)


@dataclass
class Sampler:
    """Lists of all tasks from pools on one device."""

    miner: Miner
    vocabulary: int
    candidates: dict[tuple[str, str], Tensor]
    _rarity: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.device = self.miner.device
        self._frame = self.miner.pool("frame")

    def draw(self, name: str, options: Options, progress: float = 1.0) -> Lists:
        """Lists of a task; at first, of documents taken at random."""
        task = TASKS[name]
        count = max(2, options.batch_tokens // (LIST * task.width))
        asked = task.queries[int(torch.randint(len(task.queries), ()))] if task.queries else ""
        pairs = self.miner.pairs(task)
        query, right = pairs[torch.randint(len(pairs), (count,), device=self.device)].unbind(1)
        wrong = self._negatives(self.candidates[task.documents, asked], query)
        easy = max(EASIEST, 1 - progress / options.easy) if options.easy else 0.0
        if float(torch.rand(())) < easy:
            drawn = torch.randint(
                len(self.miner.pool(task.documents)), wrong.shape, device=self.device
            )
            wrong = torch.where(drawn == right[:, None], wrong, drawn)
        queries, rights, wrongs = self._texts(task, asked, query, right, wrong)
        rows = torch.arange(count, device=self.device)
        behind = torch.arange(count, count * LIST, device=self.device).view(count, -1)
        order = torch.cat((rows[:, None], behind), dim=1)
        documents = chosen(stacked([rights, wrongs]), order.flatten())
        cosines = None
        if asked and task.joined == 1:
            cosines = self._cosines(task, asked, query, torch.cat((right[:, None], wrong), dim=1))
        if float(torch.rand(())) < task.relabelled * options.relabelled:
            queries, documents = self._relabelled(queries, documents)
            cosines = None  # they are of other words now
        target = self._target(task.documents, queries, documents, cosines, options)
        if float(torch.rand(())) < 0.5:
            queries = drop_tokens(queries, options.query_drop)
        repeated = chosen(queries, rows.repeat_interleave(LIST))
        return Lists(framed(repeated, documents, self._frame), target)

    def _negatives(self, candidates: Tensor, query: Tensor) -> Tensor:
        depth = candidates.shape[1]
        weights = 1.0 / (torch.arange(depth, device=self.device) + PREFERRED)
        which = torch.multinomial(weights.expand(len(query), -1), LIST - 1)
        return candidates[query].gather(1, which)

    def _texts(
        self, task: Task, asked: str, query: Tensor, right: Tensor, wrong: Tensor
    ) -> tuple[Rows, Rows, Rows]:
        pool = self.miner.pool(task.documents)
        if task.joined > 1:
            # Groups that hold the right document are no negatives: others take their place.
            groups = len(pool) // task.joined
            pool = Pool(pool.flat, pool.starts[:: task.joined][: groups + 1])
            right = (right // task.joined).clamp(max=groups - 1)
            wrong = (wrong // task.joined).clamp(max=groups - 1)
            other = torch.randint(groups, wrong.shape, device=self.device)
            wrong = torch.where(wrong == right[:, None], other, wrong)
        crop = float(torch.rand(())) < CROPPED_SHARE
        rights = pool.take(right, task.width, crop=crop)
        wrongs = pool.take(wrong.flatten(), task.width, crop=crop)
        if asked:
            return self.miner.pool(asked).take(query, LONGEST_QUERY), rights, wrongs
        spans, rest = cut_span(rights, *SPAN, removed=0.7)
        return spans, rest, wrongs

    def _relabelled(self, queries: Rows, documents: Rows) -> tuple[Rows, Rows]:
        tables = Relabelling.draw(
            self.vocabulary, self.vocabulary // 8, RELABELLED_SHARE, self.device
        )
        which = torch.randint(len(tables.tables), (len(queries),), device=self.device)
        return (
            tables.apply(which, queries),
            tables.apply(which.repeat_interleave(LIST), documents),
        )

    def _cosines(self, task: Task, asked: str, query: Tensor, documents: Tensor) -> Tensor:
        """Of the built-in model, [lists, LIST]."""
        asking = self.miner.vectors(asked, asked=True)[query].float()
        read = self.miner.vectors(task.documents, asked=False)[documents].float()
        return (asking[:, None] * read).sum(-1)

    def _target(
        self,
        pool: str,
        queries: Rows,
        documents: Rows,
        cosines: Tensor | None,
        options: Options,
    ) -> Tensor:
        """The right document, softened by BM25 and by the built-in model's cosines."""
        target = torch.zeros(len(queries), LIST, device=self.device)
        target[:, 0] = 1.0
        if options.by_words:
            if pool not in self._rarity:
                self._rarity[pool] = rarity(self.miner.pool(pool), self.vocabulary)
            words = words_agreeing(queries, documents, self._rarity[pool]) / SHARPNESS
            target = torch.lerp(target, words.softmax(-1), options.by_words)
        if options.by_vectors and cosines is not None:
            soft = (cosines / COSINE_SHARPNESS).softmax(-1)
            target = torch.lerp(target, soft, options.by_vectors)
        return target
