"""The CPU stage: which texts the reranker learns from and is chosen on, as tokens in one file.

Everything comes from training sets. A part of each is kept aside ("val/…"): whole articles of SQuAD
and the same with Chinese questions, passages of CMRC, and claims of SciFact. The evaluation sets
are not read at all.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
from tokenizers import Tokenizer

from training import corpora
from training.chinese import traditional
from training.codeswitch import Switching, into_chinese, into_english
from training.corpora import Paragraph
from training.lexicon import Lexicon
from training.pairs import Sizes, Texts, build_lexicon, parallel_short, split_sentences
from training.pools import Ragged, Store
from training.recipe import INSTRUCTION, prompt
from training.reranker.recipe import BEFORE_QUERY, VARIANTS
from training.tokenizer import encode

SEED = 21
HELD_ARTICLES, HELD_PASSAGES, HELD_CLAIMS = 48, 400, 200
ASKED = 400
"""Questions of each set that is kept aside."""


def split_articles(paragraphs: Sequence[Paragraph], rng: Random) -> tuple[list[Paragraph], ...]:
    """(kept, held out), whole articles in either."""
    names = sorted({paragraph.article for paragraph in paragraphs})
    held = set(rng.sample(names, min(HELD_ARTICLES, len(names) // 4)))
    return (
        [paragraph for paragraph in paragraphs if paragraph.article not in held],
        [paragraph for paragraph in paragraphs if paragraph.article in held],
    )


def questions_of(paragraphs: Sequence[Paragraph]) -> tuple[list[str], list[tuple[int, int]]]:
    """All questions, and (question, paragraph) for each."""
    questions: list[str] = []
    pairs: list[tuple[int, int]] = []
    for place, paragraph in enumerate(paragraphs):
        for question in paragraph.questions:
            pairs.append((len(questions), place))
            questions.append(question)
    return questions, pairs


def _hold_out(
    texts: Texts,
    name: str,
    questions: Sequence[str],
    pairs: Sequence[tuple[int, int]],
    documents: Sequence[str],
    chosen: Sequence[int],
) -> None:
    number = {question: place for place, question in enumerate(chosen)}
    texts.pools[f"val/{name}/query"] = [questions[question] for question in chosen]
    texts.pools[f"val/{name}/document"] = list(documents)
    texts.arrays[f"val/{name}/relevant"] = np.array(
        [(number[question], document) for question, document in pairs if question in number]
    )


def _add_squad(texts: Texts, sizes: Sizes, lexicon: Lexicon, rng: Random) -> None:
    paragraphs = corpora.squad_train()
    if sizes.paragraphs is not None:
        paragraphs = paragraphs[:: len(paragraphs) // sizes.paragraphs]  # of many articles
    kept, held = split_articles(paragraphs, rng)
    questions, pairs = questions_of(kept)
    texts.pools["squad.text"] = [paragraph.text for paragraph in kept]
    texts.pools["squad.question"], texts.arrays["squad.pairs"] = questions, np.array(pairs)
    for variant in range(VARIANTS):
        texts.pools[f"squad.question.zh{variant}"] = [
            into_chinese(q, lexicon, Switching(rng.choice([0.8, 1.0, 1.0]), rng.random()), rng)
            for q in questions
        ]
    sentences = [
        (sentence, place)
        for place, paragraph in enumerate(kept)
        for sentence in split_sentences(paragraph.text)
        if 40 < len(sentence) < 250
    ]
    chosen = rng.sample(sentences, min(sizes.sentences // 2, len(sentences)))
    texts.pools["sentence.en"] = [sentence for sentence, _ in chosen]
    texts.pools["sentence.zh"] = [
        into_chinese(s, lexicon, Switching(rng.uniform(0.7, 1.0), rng.random()), rng)
        for s, _ in chosen
    ]
    texts.arrays["sentence.pairs"] = np.array(
        [(number, place) for number, (_, place) in enumerate(chosen)]
    )
    questions, pairs = questions_of(held)
    asked = sorted(rng.sample(range(len(questions)), min(ASKED, len(questions))))
    documents = [paragraph.text for paragraph in held]
    _hold_out(texts, "squad", questions, pairs, documents, asked)
    chinese = [into_chinese(q, lexicon, Switching(1.0, 0.8), rng) for q in questions]
    _hold_out(texts, "squad-zh-en", chinese, pairs, documents, asked)


def _add_cmrc(texts: Texts, sizes: Sizes, lexicon: Lexicon, rng: Random) -> None:
    passages = list(corpora.cmrc_train()[: sizes.paragraphs])
    rng.shuffle(passages)
    aside = min(HELD_PASSAGES, len(passages) // 4)
    held, kept = passages[:aside], passages[aside:]
    questions, pairs = questions_of(kept)
    texts.pools["cmrc.text"] = [paragraph.text for paragraph in kept]
    texts.pools["cmrc.text.hant"] = [traditional(paragraph.text) for paragraph in kept]
    texts.pools["cmrc.question"], texts.arrays["cmrc.pairs"] = questions, np.array(pairs)
    texts.pools["cmrc.question.hant"] = [traditional(question) for question in questions]
    texts.pools["cmrc.question.en"] = [
        into_english(q, lexicon, rng.uniform(0.5, 1.0), rng) for q in questions
    ]
    questions, pairs = questions_of(held)
    asked = sorted(rng.sample(range(len(questions)), min(ASKED, len(questions))))
    _hold_out(texts, "cmrc", questions, pairs, [paragraph.text for paragraph in held], asked)


def _add_scifact(texts: Texts, sizes: Sizes, rng: Random) -> None:
    abstracts = list(corpora.scifact_abstracts().values())
    documents = [" ".join(abstract) for abstract in abstracts]
    judged = corpora.scifact_train()[: sizes.paragraphs]
    if sizes.paragraphs is not None:
        documents = list(dict.fromkeys(text for _, text in judged))
    place = {text: number for number, text in enumerate(documents)}
    claims = list(dict.fromkeys(claim for claim, _ in judged))
    held = set(rng.sample(range(len(claims)), min(HELD_CLAIMS, len(claims) // 4)))
    number = {claim: at for at, claim in enumerate(claims)}
    pairs = [(number[claim], place[text]) for claim, text in judged]
    texts.pools["scifact.title"] = [title for title, _ in abstracts][: sizes.paragraphs]
    texts.pools["scifact.body"] = [body for _, body in abstracts][: sizes.paragraphs]
    texts.pools["scifact.text"] = documents
    texts.pools["claim"] = claims
    texts.arrays["claim.pairs"] = np.array([pair for pair in pairs if pair[0] not in held])
    _hold_out(texts, "scifact", claims, pairs, documents, sorted(held))


def _add_parallel(texts: Texts, sizes: Sizes) -> None:
    docs = [pair for pair in corpora.python_docs() if len(pair[0]) > 20][: sizes.paragraphs]
    texts.pools["docs.en"], texts.pools["docs.zh"] = map(list, zip(*docs, strict=True))
    short = parallel_short()[: sizes.paragraphs]
    texts.pools["short.en"], texts.pools["short.zh"] = map(list, zip(*short, strict=True))


def prepare(path: Path, tokenizer_file: Path, sizes: Sizes) -> None:
    """Write the token pools to `path`."""
    started = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - started:6.1f} s  {what}", flush=True)

    rng, texts = Random(SEED), Texts()
    lexicon = build_lexicon(sizes)
    say(f"lexicon: {len(lexicon.to_chinese)} English, {len(lexicon.to_english)} Chinese entries")
    _add_squad(texts, sizes, lexicon, rng)
    say("SQuAD")
    _add_cmrc(texts, sizes, lexicon, rng)
    _add_scifact(texts, sizes, rng)
    _add_parallel(texts, sizes)
    texts.pools["instruction"] = ["", prompt(INSTRUCTION)]
    texts.pools["frame"] = [BEFORE_QUERY]
    say(f"texts: {sum(map(len, texts.pools.values()))} in {len(texts.pools)} pools")
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    pools = {name: Ragged.of(encode(tokenizer, pool)) for name, pool in texts.pools.items()}
    Store(pools, texts.arrays).save(path)
    tokens = sum(len(pool.flat) for pool in pools.values())
    say(f"{tokens / 1e6:.1f} M tokens, {path.stat().st_size / 1e6:.1f} MB in {path}")
