"""What the reranker is trained on, how often and how: tasks, geometries and options, as data."""

from dataclasses import dataclass

from training.model import Geometry
from training.recipe import Optimisation
from training.tokenizer import END

BEFORE_QUERY, BEFORE_DOCUMENT = "Query:", END
"""Around the query. There is no instruction: so small a model does the same whatever it is told.
The end token stands between the two, since no text has it: what follows it is the document."""

LIST = 16
"""Documents of a query in training: the right one, and negatives from the built-in model's best."""
DEPTH = 50
"""Best documents of the built-in model that negatives are drawn from."""
LONGEST_QUERY = 40
BATCH_TOKENS = 320_000
"""Of a batch, if every document were as wide as its task allows."""

VARIANTS = 2
ZH = tuple(f"squad.question.zh{variant}" for variant in range(VARIANTS))


@dataclass(frozen=True)
class Task:
    """Queries with a right document each.

    `pairs` names the array of (query, document); without it query i belongs to document i. Without
    `queries` a query is a span cut from its document. With `joined`, that many neighbouring
    documents are one.
    """

    documents: str
    queries: tuple[str, ...] = ()
    pairs: str = ""
    width: int = 256
    relabelled: float = 0.0
    joined: int = 1


TASKS: dict[str, Task] = {
    "squad": Task("squad.text", ("squad.question",), "squad.pairs", relabelled=0.3),
    "squad zh-en": Task("squad.text", ZH, "squad.pairs"),
    "squad span": Task("squad.text", relabelled=0.5),
    "squad long": Task("squad.text", ("squad.question",), "squad.pairs", width=640, joined=3),
    "cmrc": Task("cmrc.text", ("cmrc.question",), "cmrc.pairs", width=448, relabelled=0.3),
    "cmrc en-zh": Task("cmrc.text", ("cmrc.question.en",), "cmrc.pairs", width=448),
    "cmrc hant": Task(
        "cmrc.text.hant", ("cmrc.question.hant",), "cmrc.pairs", width=448, relabelled=0.3
    ),
    "cmrc span": Task("cmrc.text", width=448, relabelled=0.5),
    "scifact claim": Task("scifact.text", ("claim",), "claim.pairs", width=448, relabelled=0.3),
    "scifact title": Task("scifact.body", ("scifact.title",), width=448, relabelled=0.3),
    "scifact span": Task("scifact.text", width=448, relabelled=0.5),
    "docs": Task("docs.en", ("docs.zh",), width=128),
    "docs en-zh": Task("docs.zh", ("docs.en",), width=128),
    "short": Task("short.en", ("short.zh",), width=64),
    "sentence": Task("sentence.en", ("sentence.zh",), width=96),
    "sentence zh-en": Task("squad.text", ("sentence.zh",), "sentence.pairs"),
}

WEIGHTS: dict[str, float] = {
    "squad": 26, "squad zh-en": 20, "squad span": 8, "squad long": 2, "cmrc": 9, "cmrc en-zh": 3,
    "cmrc hant": 3, "cmrc span": 5, "scifact claim": 2.5, "scifact title": 5, "scifact span": 5,
    "docs": 3, "docs en-zh": 1, "short": 1.5, "sentence": 2,
    "sentence zh-en": 5,
}  # fmt: skip


@dataclass(frozen=True)
class Options(Optimisation):
    """What a step is trained with, over what the built-in model's steps have."""

    rate: float = 2e-3
    dropout: float = 0.1
    warm: bool = True  # the embedding table begins as the built-in model's, in fewer dimensions
    matching: bool = True  # some heads begin by looking for their own token
    by_words: float = 0.15  # share of BM25 in the target
    by_vectors: float = 0.15  # share of the built-in model's cosines in the target
    matched: float = 1.0  # weight of telling which tokens the query has, at the beginning
    easy: float = 0.15  # share of the time in which random documents give way to hard ones
    pointwise: float = 0.1  # weight of the loss that makes scores probabilities
    batch_tokens: int = BATCH_TOKENS


def geometry(
    vocabulary: int, width: int, layers: int, inner: int, heads: int, kv_heads: int
) -> Geometry:
    return Geometry(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        intermediate_size=inner,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        rope_theta=1e6,  # most dimensions hardly turn, so that equal tokens agree at any distance
    )


GEOMETRIES: dict[str, Geometry] = {
    "384x4": geometry(12_288, 384, 4, 1024, 6, 3),
    "256x6": geometry(12_288, 256, 6, 768, 4, 4),
    "320x5": geometry(12_288, 320, 5, 896, 5, 5),
    "smoke": geometry(12_288, 64, 2, 128, 1, 1),
}


SHIPPED = "384x4"
