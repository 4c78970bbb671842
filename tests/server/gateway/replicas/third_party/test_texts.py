"""Texts that stand for token ids, at engines that take text alone: of every kind of tokenizer."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from embedfleet.models.description import Template
from embedfleet.server.gateway.replicas.third_party.texts import PairForm, TextForm
from tests.small_tokenizer import CORPUS, END, tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SENTENCES = ["<s>", "<pad>", "</s>", "<unk>"]


def word_piece(*, lowercase: bool) -> Tokenizer:
    """As BERT's."""
    built = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106
    built.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    built.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    built.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=600, special_tokens=SPECIAL, show_progress=False)
    built.train_from_iterator(CORPUS, trainer)
    return built


def unigram() -> Tokenizer:
    """As XLM-RoBERTa's."""
    built = Tokenizer(models.Unigram())
    built.normalizer = normalizers.NFKC()
    built.pre_tokenizer = pre_tokenizers.Metaspace()
    built.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=SENTENCES, unk_token=SENTENCES[3], show_progress=False
    )
    built.train_from_iterator(CORPUS, trainer)
    return built


def number_of(token: str) -> int:
    found = tokenizer().token_to_id(token)
    assert found is not None
    return found


@cache
def form(kind: str) -> tuple[TextForm, Tokenizer, Template]:
    built, template = {
        "byte-level": lambda: (tokenizer(), Template((), (number_of(END),))),
        "uncased": lambda: (word_piece(lowercase=True), Template((2,), (3,))),
        "cased": lambda: (word_piece(lowercase=False), Template((2,), (3,))),
        "unigram": lambda: (unigram(), Template((0,), (2,))),
    }[kind]()
    with TemporaryDirectory() as place:
        path = Path(place) / "tokenizer.json"
        built.save(str(path))
        return TextForm(path, template), built, template


PEOPLE = st.text(
    st.characters(exclude_categories=("Cs", "Cc", "Cf", "Co", "Cn", "Mn", "Me", "Zl", "Zp")),
    min_size=1,
    max_size=40,
)


@pytest.mark.parametrize("kind", ["byte-level", "uncased", "cased", "unigram"])
@given(text=PEOPLE)
@example("don't stop \u2014 now\u2026 \u201cquoted\u201d")
@example("\u4e2d\u6587 \u6587\u672c")
@example("na\u00efve caf\u00e9 \U0001f642")
@example("double  blanks,(and) 3.14 [MASK]")
@example(" ")
@example("  two blanks first")
def test_what_people_write_has_a_text_with_the_same_tokens(kind: str, text: str) -> None:
    texts, built, template = form(kind)
    plain = built.encode(text, add_special_tokens=False).ids
    assume(plain)
    found = texts.of(np.array([*template.before, *plain, *template.after], np.int32))
    assert found is not None, (text, built.decode(plain, skip_special_tokens=False))
    assert built.encode(found, add_special_tokens=False).ids == plain


@pytest.mark.parametrize("kind", ["byte-level", "uncased", "cased", "unigram"])
def test_the_encoding_of_a_text_is_within_the_tokens_of_the_template(kind: str) -> None:
    texts, _, template = form(kind)
    probe = texts.encoding("the sea")
    assert tuple(probe[: len(template.before)]) == template.before
    assert tuple(probe[-len(template.after) :]) == template.after
    assert texts.of(probe) is not None


@pytest.mark.parametrize(
    ("kind", "pair"),
    [
        ("byte-level", "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: "),
        ("uncased", "{query}[SEP]"),
        ("cased", "{query}[SEP]"),
        ("unigram", "{query}</s></s>"),
        ("uncased", "Query: {query} [SEP]"),
    ],
)
@given(query=PEOPLE, document=PEOPLE)
@example("what? <Query>: the", "<Document>: sea")
def test_the_texts_of_a_pair_make_its_tokens_again_by_the_same_template(
    kind: str, pair: str, query: str, document: str
) -> None:
    """Wherever they are divided, and where the tokenizer lower-cases the template too."""
    texts, built, template = form(kind)
    prompts = {"pair": pair, "instruction": "Find it"}
    whole = pair.replace("{instruction}", "Find it").replace("{query}", query) + document
    plain = built.encode(whole, add_special_tokens=False).ids
    found = PairForm(texts, prompts).of(
        np.array([*template.before, *plain, *template.after], np.int32)
    )
    assert found is not None
    again = pair.replace("{instruction}", found.instruction).replace("{query}", found.query)
    assert built.encode(again + found.document, add_special_tokens=False).ids == plain
