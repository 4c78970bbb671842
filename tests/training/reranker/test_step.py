"""The reranker's training in miniature: mining, a few updates, scores, and a model that loads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch trains the built-in models; not installed")

from training.model import Geometry, Qwen3  # noqa: E402
from training.pools import Ragged, Store  # noqa: E402
from training.reranker.evaluate import evaluate  # noqa: E402
from training.reranker.export import export  # noqa: E402
from training.reranker.lists import Sampler  # noqa: E402
from training.reranker.mining import Miner  # noqa: E402
from training.reranker.model import Reranker  # noqa: E402
from training.reranker.recipe import GEOMETRIES, TASKS, Options  # noqa: E402
from training.reranker.train import Trainer  # noqa: E402

from embedfleet.engines.qwen3 import Qwen3Checkpoint  # noqa: E402
from embedfleet.models.description import describe  # noqa: E402
from embedfleet.models.source import BUILTIN_DIRECTORY  # noqa: E402
from embedfleet.vocabulary import SCORE_WIDTH, Task  # noqa: E402
from training import checkpoint  # noqa: E402

SMALL = Geometry(12_288, 64, 1, 64, 1, 1)
DOCUMENTS = [[number, number + 1, number + 2, 9] for number in range(100, 400, 5)]
QUESTIONS = [[document[1], 8] for document in DOCUMENTS]
PAIRS = np.array([(place, place) for place in range(len(DOCUMENTS))])


def store() -> Store:
    """Alike texts under the names of every task, and a part that is kept aside."""
    pools = {"frame": [[1, 2]], "instruction": [[], [5]]}
    pools |= {task.documents: DOCUMENTS for task in TASKS.values()}
    pools |= {queries: QUESTIONS for task in TASKS.values() for queries in task.queries}
    pools |= {"val/squad/query": QUESTIONS, "val/squad/document": DOCUMENTS}
    arrays = {task.pairs: PAIRS for task in TASKS.values() if task.pairs}
    arrays["val/squad/relevant"] = PAIRS
    return Store({name: Ragged.of(pool) for name, pool in pools.items()}, arrays)


@pytest.mark.slow
def test_a_step_runs_and_what_it_leaves_is_a_reranker(tmp_path: Path) -> None:
    torch.manual_seed(3)
    device = torch.device("cpu")
    miner = Miner(store(), Qwen3(SMALL), device)
    model = Reranker(GEOMETRIES["smoke"])
    sampler = Sampler(miner, SMALL.vocab_size, miner.every())
    trainer = Trainer(model, sampler, Options(batch_tokens=10_000), compiled=False)
    assert trainer.run(0.0, updates=3) == 3

    weights = tmp_path / "weights.safetensors"
    checkpoint.save(model.shipped(), weights)
    scores = evaluate(model.eval(), miner)
    assert 0 < scores["squad"]["model"] <= scores["squad"]["attainable"] <= 1

    directory, tokenizer = tmp_path / "model", BUILTIN_DIRECTORY / "tokenizer.json"
    export(weights, tokenizer, GEOMETRIES["smoke"], directory)
    assert describe(directory).identity.task is Task.RERANK
    assert Qwen3Checkpoint(directory).head.width == SCORE_WIDTH
