"""Which texts the model sees, under the names that the recipe uses; evaluation sets apart.

A pool is a list of texts. Questions lie in the order of the passages that they belong to, so one
array of starts (`squad.questions_of`) gives the questions of each passage. Everything random is
drawn from one seeded generator. Names under "dev/" are evaluation sets; training never reads them.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

import numpy as np
from numpy.typing import NDArray

from training import corpora
from training.chinese import traditional
from training.chinese import words as segment
from training.codeswitch import Switching, into_chinese, into_english
from training.corpora import Paragraph, Retrieval
from training.lexicon import Lexicon, align, bracketed, read_seed

WORD = re.compile(r"[a-z]+")
HAN = re.compile(r"[\u4e00-\u9fff]")
LONGEST_ALIGNED = 40


RETRIEVAL_SETS: dict[str, Callable[[], Retrieval]] = {
    "squad": corpora.squad_dev,
    "xquad-en": lambda: corpora.xquad("en", "en"),
    "xquad-zh": lambda: corpora.xquad("zh", "zh"),
    "xquad-zh-en": lambda: corpora.xquad("zh", "en"),
    "cmrc": corpora.cmrc_dev,
    "scifact": corpora.scifact_test,
    "xquad-es": lambda: corpora.xquad("es", "es"),
    "xquad-de": lambda: corpora.xquad("de", "de"),
}


@dataclass
class Texts:
    """Pools of texts and plain arrays, before tokenisation."""

    pools: dict[str, list[str]] = field(default_factory=dict)
    arrays: dict[str, NDArray[np.int64]] = field(default_factory=dict)


@dataclass(frozen=True)
class Sizes:
    """How much of each source to take: everything, or a sample for the smoke profile."""

    paragraphs: int | None = None
    sentences: int = 60_000
    question_variants: int = 3
    evaluated: tuple[str, ...] = ()  # names of retrieval sets; none means all


def build_lexicon(sizes: Sizes) -> Lexicon:
    """Hand-written entries first, then bracketed names, then what alignment is sure of."""
    articles: dict[str, set[str]] = {}
    for paragraph in corpora.squad_train():
        words = articles.setdefault(paragraph.article, set())
        words.update(WORD.findall(paragraph.text.lower()))
    lexicon = read_seed(articles.values())
    passages = [paragraph.text for paragraph in corpora.cmrc_train()]
    for english, chinese in bracketed(passages, segment):
        lexicon.add(english, chinese)
    parallel = [*corpora.tatoeba(), *_tldr_parallel(), *corpora.python_docs()]
    sentences = (
        (WORD.findall(english.lower()), [w for w in segment(chinese) if HAN.match(w)])
        for english, chinese in parallel[: sizes.paragraphs]
        if len(english) < LONGEST_ALIGNED * 6
    )
    short = (pair for pair in sentences if max(map(len, pair)) <= LONGEST_ALIGNED)
    for word, chinese in align(short).confident():
        if (word,) not in lexicon.to_chinese:
            lexicon.add([word], chinese)
    return lexicon


def _tldr_parallel() -> list[tuple[str, str]]:
    """Descriptions of the same command, matched by the command line itself."""
    english, chinese = corpora.tldr()["en"], corpora.tldr()["zh"]
    pairs: list[tuple[str, str]] = []
    for name in english.keys() & chinese.keys():
        left, right = english[name], chinese[name]
        pairs.append((left.summary, right.summary))
        if len(left.examples) == len(right.examples):
            pairs.extend((a[0], b[0]) for a, b in zip(left.examples, right.examples, strict=True))
    return sorted(pairs)


def parallel_short() -> list[tuple[str, str]]:
    """Sentences and descriptions of commands in English and Chinese."""
    return corpora.tatoeba() + _tldr_parallel()


def training_texts(lexicon: Lexicon, sizes: Sizes, seed: int) -> Texts:
    rng = Random(seed)
    texts = Texts()
    _add_squad(texts, corpora.squad_train()[: sizes.paragraphs], lexicon, sizes, rng)
    _add_cmrc(texts, corpora.cmrc_train()[: sizes.paragraphs], lexicon, rng)
    _add_scifact(texts, sizes)
    _add_parallel(texts, lexicon, sizes, rng)
    return texts


def _questions(texts: Texts, name: str, paragraphs: Sequence[Paragraph]) -> list[str]:
    counts = [len(paragraph.questions) for paragraph in paragraphs]
    texts.arrays[f"{name}.questions_of"] = np.cumsum([0, *counts])
    questions = [question for paragraph in paragraphs for question in paragraph.questions]
    texts.pools[f"{name}.question"] = questions
    texts.pools[f"{name}.text"] = [paragraph.text for paragraph in paragraphs]
    return questions


def _add_squad(
    texts: Texts, paragraphs: Sequence[Paragraph], lexicon: Lexicon, sizes: Sizes, rng: Random
) -> None:
    questions = _questions(texts, "squad", paragraphs)
    articles = {name: i for i, name in enumerate(dict.fromkeys(p.article for p in paragraphs))}
    texts.arrays["squad.article"] = np.array([articles[p.article] for p in paragraphs])
    texts.pools["squad.title"] = [p.article.replace("_", " ") for p in paragraphs]
    for variant in range(sizes.question_variants):
        texts.pools[f"squad.question.zh{variant}"] = [
            into_chinese(q, lexicon, Switching(rng.choice([0.6, 0.9, 1.0]), rng.random()), rng)
            for q in questions
        ]
    texts.pools["squad.text.zh"] = [
        into_chinese(p.text, lexicon, Switching(rng.uniform(0.3, 1.0), rng.uniform(0, 0.6)), rng)
        for p in paragraphs
    ]
    sentences = [s for p in paragraphs for s in split_sentences(p.text) if 40 < len(s) < 250]
    chosen = rng.sample(sentences, min(sizes.sentences, len(sentences)))
    texts.pools["sentence.en"] = chosen
    texts.pools["sentence.zh"] = [
        into_chinese(s, lexicon, Switching(rng.uniform(0.7, 1.0), rng.random()), rng)
        for s in chosen
    ]


def split_sentences(text: str) -> list[str]:
    return [s for s in re.split(r"(?<=[.!?。！？])\s*(?=[^a-z])", text) if s]


def _add_cmrc(texts: Texts, paragraphs: Sequence[Paragraph], lexicon: Lexicon, rng: Random) -> None:
    questions = _questions(texts, "cmrc", paragraphs)
    passages = texts.pools["cmrc.text"]
    texts.pools["cmrc.question.hant"] = [traditional(question) for question in questions]
    texts.pools["cmrc.text.hant"] = [traditional(passage) for passage in passages]
    texts.pools["cmrc.question.en"] = [
        into_english(q, lexicon, rng.uniform(0.5, 1.0), rng) for q in questions
    ]
    texts.pools["cmrc.text.en"] = [
        into_english(p, lexicon, rng.uniform(0.2, 0.8), rng) for p in passages
    ]


def _add_scifact(texts: Texts, sizes: Sizes) -> None:
    abstracts = list(corpora.scifact_abstracts().values())[: sizes.paragraphs]
    texts.pools["scifact.title"] = [title for title, _ in abstracts]
    texts.pools["scifact.body"] = [body for _, body in abstracts]
    texts.pools["scifact.text"] = [f"{title} {body}" for title, body in abstracts]
    claims = corpora.scifact_train()[: sizes.paragraphs]
    texts.pools["claim.query"] = [claim for claim, _ in claims]
    texts.pools["claim.text"] = [document for _, document in claims]


def _add_parallel(texts: Texts, lexicon: Lexicon, sizes: Sizes, rng: Random) -> None:
    docs = [pair for pair in corpora.python_docs() if len(pair[0]) > 20][: sizes.paragraphs]
    texts.pools["docs.en"], texts.pools["docs.zh"] = map(list, zip(*docs, strict=True))
    short = parallel_short()
    short += [(e, traditional(z)) for e, z in short] if sizes.paragraphs is None else []
    short = short[: sizes.paragraphs]
    texts.pools["short.en"], texts.pools["short.zh"] = map(list, zip(*short, strict=True))
    entries = [(" ".join(e), z) for e, zs in lexicon.to_chinese.items() for z in zs]
    bags = [rng.sample(entries, rng.randint(1, 8)) for _ in range(sizes.sentences // 2)]
    texts.pools["bag.en"] = [" ".join(e for e, _ in bag) for bag in bags]
    texts.pools["bag.zh"] = ["".join(z for _, z in rng.sample(bag, len(bag))) for bag in bags]
    for language, pages in corpora.tldr().items():
        examples = [
            (
                f"{description} ({name.split('/')[1]})" if rng.random() < 0.3 else description,
                command,
            )
            for name, page in sorted(pages.items())
            for description, command in page.examples
        ][: sizes.paragraphs]
        texts.pools[f"tldr.{language}"], texts.pools[f"tldr.{language}.command"] = map(
            list, zip(*examples, strict=True)
        )


def evaluation_texts(sizes: Sizes) -> Texts:
    """The test sets as pools "dev/NAME/query" and "dev/NAME/document", judgements as an array."""
    texts = Texts()
    for name, load in RETRIEVAL_SETS.items():
        if sizes.evaluated and name not in sizes.evaluated:
            continue
        dataset = load()
        texts.pools[f"dev/{name}/query"] = dataset.queries[: sizes.paragraphs]
        texts.pools[f"dev/{name}/document"] = dataset.documents
        texts.arrays[f"dev/{name}/relevant"] = np.array(
            [
                (query, document)
                for query, documents in enumerate(dataset.relevant[: sizes.paragraphs])
                for document in sorted(documents)
            ]
        )
    for language in ("en", "zh") if not sizes.evaluated else ():
        pairs = corpora.stsb_test(language)
        texts.pools[f"sts/{language}/left"] = pairs.left
        texts.pools[f"sts/{language}/right"] = pairs.right
        texts.arrays[f"sts/{language}/score"] = np.round(np.array(pairs.scores) * 1000).astype(int)
    return texts
