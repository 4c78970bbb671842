"""What is trained on what, how often and how: the tasks, the steps and the variants, as data."""

from dataclasses import dataclass, replace

from training.model import Geometry
from training.objectives import Nested

INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
OTHER_INSTRUCTIONS = (
    "Given a question, retrieve passages that answer the question",
    "Given a scientific claim, retrieve documents that support or refute the claim",
    "Retrieve semantically similar text",
    "Given a description, find the matching command",
    "Find the paragraph that contains the answer",
)


def prompt(instruction: str) -> str:
    return f"Instruct: {instruction}\nQuery:"


# Share of each instruction: none, the default, then the others.
INSTRUCTION_SHARES = (0.2, 0.65, *[0.15 / len(OTHER_INSTRUCTIONS)] * len(OTHER_INSTRUCTIONS))
SYMMETRIC_SHARES = (0.8, 0.15, *[0.05 / len(OTHER_INSTRUCTIONS)] * len(OTHER_INSTRUCTIONS))


@dataclass(frozen=True)
class Task:
    """Pairs to pull together.

    Without `queries` the query is a span cut from the document. `questions_of` names the array
    that says which questions belong to which document; without it both pools run in parallel.
    With `clusters`, whole articles fill a batch, so that its negatives are hard ones.
    """

    documents: tuple[str, ...]
    queries: tuple[str, ...] = ()
    questions_of: str = ""
    clusters: str = ""
    symmetric: bool = False
    width: int = 256  # of a document, end token included
    batch: int = 2048
    judged: float = 0.0
    relabelled: float = 0.0
    joined: int = 1


SQUAD_ZH = tuple(f"squad.question.zh{variant}" for variant in range(3))
_SQUAD = Task(
    documents=("squad.text",),
    queries=("squad.question",),
    questions_of="squad.questions_of",
    clusters="squad.article",
    judged=0.25,
    relabelled=0.25,
)
_CMRC = Task(
    documents=("cmrc.text",),
    queries=("cmrc.question", "cmrc.question.en"),
    questions_of="cmrc.questions_of",
    width=448,
    batch=1024,
    judged=0.25,
    relabelled=0.25,
)
TASKS: dict[str, Task] = {
    "squad": _SQUAD,
    "squad spread": replace(_SQUAD, clusters=""),
    "squad zh-en": replace(_SQUAD, queries=SQUAD_ZH, judged=0.0, relabelled=0.0),
    "squad en-zh": replace(_SQUAD, documents=("squad.text.zh",), judged=0.0, relabelled=0.0),
    "squad zh-zh": replace(
        _SQUAD, documents=("squad.text.zh",), queries=SQUAD_ZH, judged=0.0, relabelled=0.0
    ),
    "squad span": replace(_SQUAD, queries=(), judged=0.5, relabelled=0.5),
    "squad title": Task(("squad.text",), ("squad.title",), batch=384),
    "squad long": replace(_SQUAD, judged=0.0, relabelled=0.0, joined=6, batch=1536),
    "cmrc": _CMRC,
    "cmrc hant": replace(_CMRC, documents=("cmrc.text.hant",), queries=("cmrc.question.hant",)),
    "cmrc mixed": replace(_CMRC, documents=("cmrc.text.en",), judged=0.0, relabelled=0.0),
    "cmrc span": replace(
        _CMRC, documents=("cmrc.text", "cmrc.text.hant"), queries=(), judged=0.5, relabelled=0.5
    ),
    "cmrc script": Task(("cmrc.text",), ("cmrc.text.hant",), symmetric=True, width=128, batch=1024),
    "scifact claim": Task(("claim.text",), ("claim.query",), width=384, batch=512),
    "scifact title": Task(
        ("scifact.body",), ("scifact.title",), width=384, batch=1024, judged=0.25
    ),
    "scifact span": Task(("scifact.text",), width=384, batch=1024, judged=0.5, relabelled=0.5),
    "docs": Task(("docs.zh",), ("docs.en",), symmetric=True, width=128),
    "docs span": Task(("docs.zh", "docs.en"), width=160, judged=0.5),
    "short": Task(("short.zh",), ("short.en",), symmetric=True, width=64),
    "sentence": Task(("sentence.zh",), ("sentence.en",), symmetric=True, width=96),
    "bag": Task(("bag.zh",), ("bag.en",), symmetric=True, width=64),
    "tldr": Task(("tldr.en.command",), ("tldr.en",), width=64),
    "tldr zh": Task(("tldr.zh.command",), ("tldr.zh",), width=64),
}

# How often each task is drawn in the first step; later steps lean on questions and on zh-en.
BROAD: dict[str, float] = {
    "squad": 20, "squad spread": 4, "squad zh-en": 12, "squad en-zh": 3, "squad zh-zh": 3,
    "squad span": 14, "squad title": 1, "squad long": 1, "cmrc": 7, "cmrc hant": 2,
    "cmrc mixed": 2, "cmrc span": 7, "cmrc script": 1, "scifact claim": 1, "scifact title": 2,
    "scifact span": 3, "docs": 4, "docs span": 3, "short": 2, "sentence": 4, "bag": 3, "tldr": 1,
    "tldr zh": 0.5,
}  # fmt: skip
FOCUSED: dict[str, float] = BROAD | {
    "squad": 26, "squad zh-en": 16, "squad span": 10, "cmrc": 9, "cmrc span": 6, "docs": 2,
    "docs span": 1,
}  # fmt: skip

# Sources of the language model: one pool, or two that are read one after the other.
LANGUAGE: dict[tuple[str, ...], float] = {
    ("squad.text",): 10, ("squad.text.zh",): 6, ("cmrc.text",): 6, ("cmrc.text.hant",): 2,
    ("cmrc.text.en",): 3, ("scifact.text",): 4, ("docs.en", "docs.zh"): 4,
    ("docs.zh", "docs.en"): 4, ("sentence.en", "sentence.zh"): 3, ("sentence.zh", "sentence.en"): 3,
    ("short.en", "short.zh"): 1, ("bag.zh", "bag.en"): 1, ("squad.question",): 1,
}  # fmt: skip


@dataclass(frozen=True)
class Optimisation:
    """Learning rates are peaks; the language-model part takes `language_share` of the time."""

    rate: float = 2e-3
    muon: bool = True
    weight_decay: float = 0.05
    dropout: float = 0.0
    language_share: float = 0.0
    temperature: float = 0.04
    query_drop: float = 0.3
    tasks: tuple[tuple[str, float], ...] = tuple(BROAD.items())
    judged: float = 1.0  # factor on the tasks' share of BM25 in the target
    relabelled: float = 1.0  # factor on the tasks' share of relabelled batches
    batch_factor: float = 1.0
    averaged: float = 0.0  # share of the weights that the step started from in its result


def geometry(vocabulary: int, width: int, layers: int, inner: int, kv_heads: int = 2) -> Geometry:
    return Geometry(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        intermediate_size=inner,
        num_attention_heads=width // 64,
        num_key_value_heads=kv_heads,
    )


GEOMETRIES: dict[str, Geometry] = {
    "12k-512x4": geometry(12_288, 512, 4, 1152),
    "16k-512x3": geometry(16_384, 512, 3, 1152),
    "12k-640x2": geometry(12_288, 640, 2, 1536),
    "smoke": geometry(4096, 128, 2, 256, kv_heads=1),
}


SHIPPED = "12k-640x2"


def fifth(width: int) -> int:
    return width // 5


def nested(width: int) -> Nested:
    """Every power of two from 32, a fifth, and the full length, which weighs most."""
    weights = {32: 0.4, 64: 0.6, 128: 0.6, 256: 0.8, fifth(width): 1.0, width: 1.0}
    kept = sorted((length, weight) for length, weight in weights.items() if length <= width)
    return Nested(tuple(length for length, _ in kept), tuple(weight for _, weight in kept))


STEPS: dict[int, Optimisation] = {
    1: Optimisation(language_share=0.2),
    2: Optimisation(rate=1.5e-3, temperature=0.03, dropout=0.1, tasks=tuple(FOCUSED.items())),
    3: Optimisation(
        rate=1e-3,
        temperature=0.03,
        dropout=0.2,
        judged=2.0,
        relabelled=2.0,
        averaged=0.5,
        tasks=tuple(FOCUSED.items()),
    ),
}
