"""MRR@10 of the built-in model's best, reordered, on the parts of the training sets kept aside."""

import torch
from torch import Tensor, nn

from training.batches import Pool
from training.reranker.lists import framed, words_agreeing
from training.reranker.mining import Miner, best, rarity, same_texts
from training.reranker.recipe import DEPTH

CUTOFF = 10
LONGEST_DOCUMENT = 1024
_PAIRS_AT_ONCE = 2048


def reciprocal_rank(scores: Tensor, right: Tensor) -> float:
    """Mean over the queries; of equal scores the earlier candidate comes first."""
    order = torch.argsort(scores, dim=1, descending=True, stable=True)[:, :CUTOFF]
    hits = right.gather(1, order).float()
    ranks = torch.arange(1, hits.shape[1] + 1, device=hits.device)
    return float((hits / ranks).max(dim=1).values.mean())


def scores_of(
    model: nn.Module, queries: Pool, documents: Pool, lists: Tensor, frame: Pool
) -> Tensor:
    """[queries, DEPTH] logits."""
    asked = torch.arange(len(lists), device=lists.device).repeat_interleave(lists.shape[1])
    read = lists.flatten()
    lengths = (documents.starts[1:] - documents.starts[:-1])[read]
    found = torch.empty(len(read), device=lists.device)
    for index in torch.split(torch.argsort(lengths), _PAIRS_AT_ONCE):
        rows = framed(
            queries.take(asked[index], LONGEST_DOCUMENT),
            documents.take(read[index], LONGEST_DOCUMENT),
            frame,
        )
        found[index] = model(rows.ids, rows.lengths - 1).float()
    return found.view(lists.shape)


@torch.inference_mode()
def evaluate(model: nn.Module, miner: Miner) -> dict[str, dict[str, float]]:
    """Set -> MRR@10 of the vectors' order, of BM25's and of the model's, and what is attainable."""
    results: dict[str, dict[str, float]] = {}
    names = sorted({key.split("/")[1] for key in miner.store.arrays if key.startswith("val/")})
    for name in names:
        queries, documents = miner.pool(f"val/{name}/query"), miner.pool(f"val/{name}/document")
        lists = best(
            miner.vectors(f"val/{name}/query", asked=True),
            miner.vectors(f"val/{name}/document", asked=False),
            DEPTH,
            same_texts(documents),
            None,
        )
        relevant = torch.from_numpy(miner.store.arrays[f"val/{name}/relevant"]).to(lists.device)
        judged = torch.zeros(len(queries), len(documents), dtype=torch.bool, device=lists.device)
        judged[relevant[:, 0], relevant[:, 1]] = True
        right = judged.gather(1, lists)
        vocabulary = miner.embedder.geometry.vocab_size
        idf = rarity(documents, vocabulary)
        lexical = torch.cat(
            [
                words_agreeing(
                    queries.take(torch.tensor([at], device=lists.device), 64),
                    documents.take(lists[at], LONGEST_DOCUMENT),
                    idf,
                )
                for at in range(len(lists))
            ]
        )
        model_scores = scores_of(model, queries, documents, lists, miner.pool("frame"))
        order = -torch.arange(lists.shape[1], device=lists.device).float().expand(lists.shape)
        results[name] = {
            "vectors": reciprocal_rank(order, right),
            "words": reciprocal_rank(lexical, right),
            "model": reciprocal_rank(model_scores, right),
            "attainable": float(right.any(dim=1).float().mean()),
        }
    results["mean"] = {
        key: sum(result[key] for result in results.values()) / len(results)
        for key in ("vectors", "words", "model", "attainable")
    }
    return results


def table(results: dict[str, dict[str, float]]) -> str:
    return "\n".join(
        f"{name:12s} " + "  ".join(f"{key} {value:.3f}" for key, value in scores.items())
        for name, scores in results.items()
    )
