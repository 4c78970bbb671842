"""Hard negatives, lists of them, and what the reranker reads of a pair."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch trains the built-in models; not installed")

from training.batches import Pool, Rows  # noqa: E402
from training.model import Geometry, Qwen3  # noqa: E402
from training.pools import Ragged, Store  # noqa: E402
from training.reranker.evaluate import reciprocal_rank  # noqa: E402
from training.reranker.lists import Sampler, framed, words_agreeing  # noqa: E402
from training.reranker.mining import Miner, best, rarity, same_texts  # noqa: E402
from training.reranker.model import Reranker, look_for_own_token, shared_tokens, warm  # noqa: E402
from training.reranker.recipe import LIST, TASKS, Options  # noqa: E402

CPU = torch.device("cpu")
VOCABULARY = 600
SMALL = Geometry(VOCABULARY, 64, 2, 64, 2, 1, head_dim=32)
DOCUMENTS = [[number, number + 1, number + 2, 9] for number in range(100, 400, 5)]
QUESTIONS = [[document[1], 8] for document in DOCUMENTS]
FRAME = [[1, 2]]
PLAIN = Options(
    by_words=0.0, by_vectors=0.0, relabelled=0.0, query_drop=0.0, easy=0.0, batch_tokens=30_000
)


def texts(rows: Rows) -> list[list[int]]:
    return [row[:n].tolist() for row, n in zip(rows.ids, rows.lengths.tolist(), strict=True)]


@pytest.fixture
def miner() -> Miner:
    torch.manual_seed(0)
    pools = {
        "squad.text": DOCUMENTS,
        "squad.question": QUESTIONS,
        "frame": FRAME,
        "instruction": [[], [5]],
    }
    pairs = np.array([(place, place) for place in range(len(DOCUMENTS))])
    store = Store({name: Ragged.of(pool) for name, pool in pools.items()}, {"squad.pairs": pairs})
    return Miner(store, Qwen3(SMALL), CPU)


def test_a_pair_is_read_in_the_templates_order() -> None:
    pool = Pool.load(Ragged.of([[7, 8], [9]]), CPU)
    rows = framed(pool.take(torch.tensor([0, 1]), 8), pool.take(torch.tensor([1, 0]), 8),
                  Pool.load(Ragged.of(FRAME), CPU))  # fmt: skip
    assert texts(rows) == [[1, 2, 7, 8, 0, 9, 0], [1, 2, 9, 0, 7, 8, 0]]


def test_the_most_similar_documents_are_found_without_the_right_one_and_its_copies() -> None:
    pool = Pool.load(Ragged.of([[1, 2], [3], [1, 2], [4]]), CPU)
    documents = torch.tensor([[1.0, 0.0], [0.8, 0.6], [1.0, 0.0], [0.0, 1.0]])
    same = same_texts(pool)
    found = best(documents[:1], documents, 2, same, torch.tensor([[0, 0]]))
    assert found.tolist() == [[1, 3]]
    assert best(documents[:1], documents, 3, same, None).tolist()[0][2] == 1


def test_the_right_document_is_the_first_of_its_list(miner: Miner) -> None:
    task = TASKS["squad"]
    found = {("squad.text", "squad.question"): miner.candidates(task, "squad.question")}
    lists = Sampler(miner, VOCABULARY, found).draw("squad", PLAIN)
    rows = texts(lists.pairs)
    assert len(rows) % LIST == 0
    for at in range(0, len(rows), LIST):
        asked = rows[at][2]
        assert asked in rows[at][4:]
        assert all(row[2] == asked and asked not in row[4:] for row in rows[at + 1 : at + LIST])
    assert torch.equal(lists.target.argmax(1), torch.zeros(len(rows) // LIST, dtype=torch.long))


def test_both_teachers_soften_the_target(miner: Miner) -> None:
    task = TASKS["squad"]
    found = {("squad.text", "squad.question"): miner.candidates(task, "squad.question")}
    softer = Options(by_words=0.2, by_vectors=0.2, relabelled=0.0, batch_tokens=30_000)
    target = Sampler(miner, VOCABULARY, found).draw("squad", softer).target
    torch.testing.assert_close(target.sum(1), torch.ones(len(target)))
    assert bool((target[:, 0] > 0.6).all())
    assert bool((target[:, 1:] > 0).all())


def test_which_tokens_of_a_document_its_query_has_is_taught() -> None:
    ids = torch.tensor([[1, 7, 8, 0, 8, 5, 7, 0, 0], [1, 9, 0, 9, 0, 0, 0, 0, 0]])
    shared, document = shared_tokens(ids, torch.tensor([7, 4]), 8)
    assert [row.nonzero().flatten().tolist() for row in shared] == [[4, 6], [3]]
    assert [row.nonzero().flatten().tolist() for row in document] == [[4, 5, 6], [3]]


def test_what_helps_in_training_alone_is_not_shipped() -> None:
    model = Reranker(SMALL)
    assert set(model.state_dict()) - set(model.shipped()) == {"found.weight", "found.bias"}
    ids, last = torch.randint(VOCABULARY, (3, 9)), torch.tensor([8, 4, 6])
    torch.testing.assert_close(model.matching(ids, last)[0], model(ids, last))


def test_words_that_agree_count_by_their_rarity() -> None:
    pool = Pool.load(Ragged.of([[5, 6], [5, 7], [5, 8]]), CPU)
    queries = Rows(torch.tensor([[5, 7]]), torch.tensor([2]))
    scores = words_agreeing(queries, pool.take(torch.arange(3), 8), rarity(pool, 10))
    assert scores.argmax(1).tolist() == [1]


def test_reciprocal_ranks_end_at_ten() -> None:
    scores = -torch.arange(20.0).expand(3, -1)
    right = torch.zeros(3, 20, dtype=torch.bool)
    right[0, 0] = right[1, 3] = right[2, 12] = True
    assert reciprocal_rank(scores, right) == pytest.approx((1 + 1 / 4) / 3)


def test_a_warm_table_keeps_which_tokens_are_alike() -> None:
    torch.manual_seed(1)
    model = Reranker(SMALL)
    table = torch.randn(VOCABULARY, 96)
    table[7] = table[8] + 0.05 * torch.randn(96)
    warm(model, table)
    weights = torch.nn.functional.normalize(model.embed_tokens.weight, dim=1)
    assert int((weights[7] @ weights.T).topk(2).indices[1]) == 8


def test_heads_begin_by_looking_for_their_own_token() -> None:
    torch.manual_seed(2)
    model = Reranker(SMALL)
    look_for_own_token(model)
    attention = model.layers[0].self_attn
    states = torch.nn.functional.normalize(torch.randn(50, 64), dim=1)
    queries = attention.q_norm(attention.q_proj(states).view(50, 2, 32))[:, 0]
    keys = attention.k_norm(attention.k_proj(states).view(50, 1, 32))[:, 0]
    assert torch.equal((queries @ keys.T).argmax(1), torch.arange(50))
