"""Retrieval and similarity scores of a model on the held-out sets, on the training device.

Works on token pools, so it sees exactly what the engine will see: instruction, text, end token.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from training.batches import Pool, Rows, finish
from training.pools import Store
from training.recipe import fifth

Encode = Callable[[Rows], Tensor]
CUTOFF = 10
LONGEST = 512


def dimensions(width: int) -> list[int]:
    return sorted({d for d in (32, 64, 128, 256, fifth(width), width) if d <= width})


@torch.inference_mode()
def embed(encode: Encode, pool: Pool, instructions: Pool | None, batch: int = 512) -> Tensor:
    """Vectors of a whole pool, in its order; with the default instruction if there is one."""
    device = pool.flat.device
    order = torch.argsort(pool.starts[1:] - pool.starts[:-1])
    default = None
    if instructions is not None:
        default = torch.zeros(len(instructions), device=device)
        default[1] = 1.0
    chunks = []
    for index in torch.split(order, batch):
        rows = finish(pool.take(index, LONGEST), instructions or pool, default)
        chunks.append(encode(rows).float())
    vectors = torch.cat(chunks)
    return torch.empty_like(vectors).index_copy_(0, order, vectors)


def retrieval(queries: Tensor, documents: Tensor, relevant: Tensor) -> tuple[float, float]:
    """(recall@10, nDCG@10); `relevant` lists (query, document) pairs."""
    similarity = functional.normalize(queries, dim=-1) @ functional.normalize(documents, dim=-1).T
    judged = torch.zeros_like(similarity, dtype=torch.bool)
    judged[relevant[:, 0], relevant[:, 1]] = True
    best = similarity.topk(min(CUTOFF, similarity.shape[1]), dim=1).indices
    hits = judged.gather(1, best).float()
    discount = 1 / torch.log2(torch.arange(best.shape[1], device=hits.device) + 2.0)
    wanted = judged.sum(1)
    ideal = discount.cumsum(0)[wanted.clamp(max=best.shape[1]) - 1]
    recall = (hits.sum(1) / wanted).mean()
    return float(recall), float(((hits * discount).sum(1) / ideal).mean())


def spearman(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Rank correlation, equal values sharing their mean rank."""

    def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        shared: NDArray[np.float64] = (np.cumsum(counts) - (counts + 1) / 2)[inverse]
        return shared

    return float(np.corrcoef(ranks(left), ranks(right))[0, 1])


def evaluate(
    encode: Encode, store: Store, device: torch.device, only: str = ""
) -> dict[str, dict[str, float]]:
    """Set name -> {"recall@DIM": …, "ndcg@DIM": …} or {"spearman": …}."""
    instructions = Pool.load(store.pools["instruction"], device)
    results: dict[str, dict[str, float]] = {}
    names = [key.split("/")[1] for key in store.arrays if key.startswith("dev/")]
    for name in [name for name in names if only in name]:
        pools = [
            Pool.load(store.pools[f"dev/{name}/{side}"], device) for side in ("query", "document")
        ]
        queries = embed(encode, pools[0], instructions)
        documents = embed(encode, pools[1], None)
        relevant = torch.from_numpy(store.arrays[f"dev/{name}/relevant"]).to(device)
        results[name] = scores = {}
        for width in dimensions(queries.shape[1]):
            scores[f"recall@{width}"], scores[f"ndcg@{width}"] = retrieval(
                queries[:, :width], documents[:, :width], relevant
            )
    languages = [key.split("/")[1] for key in store.arrays if key.startswith("sts/")]
    for language in languages if not only else ():
        sides = [
            functional.normalize(
                embed(encode, Pool.load(store.pools[f"sts/{language}/{side}"], device), None),
                dim=-1,
            )
            for side in ("left", "right")
        ]
        predicted = (sides[0] * sides[1]).sum(1).double().cpu().numpy()
        gold = store.arrays[f"sts/{language}/score"].astype(np.float64)
        results[f"sts-{language}"] = {"spearman": spearman(predicted, gold)}
    return results


def table(results: dict[str, dict[str, float]]) -> str:
    """Recall per set and dimension, and nDCG at the full one, as aligned text."""
    lines: list[str] = []
    for name, scores in results.items():
        if "spearman" in scores:
            lines.append(f"{name:12s} spearman {scores['spearman']:.3f}")
            continue
        widths = [key.split("@")[1] for key in scores if key.startswith("recall")]
        cells = "  ".join(f"{width}:{scores[f'recall@{width}']:.3f}" for width in widths)
        lines.append(f"{name:12s} R@10 {cells}  nDCG {scores[f'ndcg@{widths[-1]}']:.3f}")
    return "\n".join(lines)
