"""Text to token ids: the same as the library's, in bounded time and memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers import decoders, models, pre_tokenizers

from embedfleet.models.encoding import tokenizer as module
from embedfleet.models.encoding.token_ids import OwnIds
from embedfleet.models.encoding.tokenizer import Tokenizer
from embedfleet.models.tokenizer_library import TokenizerError
from embedfleet.vocabulary import ModelError
from tests.real_texts import passages
from tests.small_tokenizer import id_of, loaded, tokenizer, write_model

EVERYTHING = 10**9
LIBRARY = tokenizer()
VOCABULARY = LIBRARY.get_vocab_size()
LANGUAGES = ["en", "zh", "es", "de", "ar"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model")) / "tokenizer.json"


@pytest.fixture(scope="module")
def ours(path: Path) -> Tokenizer:
    return Tokenizer(path, VOCABULARY)


def theirs(text: str) -> list[int]:
    ids: list[int] = LIBRARY.encode(text, add_special_tokens=False).ids
    return ids


def our_ids(ours: Tokenizer, text: str) -> list[int]:
    return [int(one) for one in ours.ids([text], most=EVERYTHING)[0]]


@pytest.mark.parametrize("language", LANGUAGES)
def test_real_texts_have_the_library_s_ids(ours: Tokenizer, language: str) -> None:
    texts = passages(f"xquad/xquad.{language}.json")
    for text, ids in zip(texts, ours.ids(texts, most=EVERYTHING), strict=True):
        assert ids.tolist() == theirs(text)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("joint", ["", " ", "\n\n", " <|im_end|> ", "\r\n\t"])
def test_long_texts_are_tokenised_in_pieces_with_the_same_ids(
    ours: Tokenizer, language: str, joint: str
) -> None:
    text = joint.join(passages(f"xquad/xquad.{language}.json"))[: 5 * module._PIECE]
    assert len(text) > 3 * module._PIECE
    assert our_ids(ours, text) == theirs(text)


words = st.sampled_from(
    [
        "river",
        "don't",
        "e\u0301",
        "<|im_end|>",
        "<think>",
        "中文",
        "。",
        ",",
        "!",
        "  ",
        "\n",
        " ",
        "7",
    ]
)


@settings(deadline=None)
@given(st.lists(words | st.text(max_size=4), max_size=60).map("".join))
def test_pieces_never_show(ours: Tokenizer, text: str) -> None:
    pieces = list(module._pieces(text, piece=8))
    assert "".join(pieces) == text
    assert [one for piece in pieces for one in theirs(piece)] == theirs(text)


def test_what_is_not_asked_for_is_not_tokenised(ours: Tokenizer) -> None:
    text = "the river flows to the sea, " * 200_000
    ids = ours.ids([text], most=100)[0]
    assert 100 < len(ids) < 2 * module._PIECE
    assert ids[:100].tolist() == theirs(text[:2000])[:100]


@pytest.mark.parametrize("character", ["a", "中", " ", "1", "!", "\u0301", "\u200b", "😀", "\n"])
def test_a_text_without_an_end_of_word_costs_no_more_than_what_is_asked_for(
    ours: Tokenizer, character: str
) -> None:
    ids = ours.ids([character * 2_000_000], most=10)[0]
    assert 10 < len(ids) <= 4 * module._LONGEST_WORD


def test_the_order_of_texts_stays_whatever_their_length(ours: Tokenizer) -> None:
    texts = ["river", "sea " * 10_000, "", "capital", "flows to " * 3_000, "x" * 9_000] * 8
    for text, ids in zip(texts, ours.ids(texts, most=EVERYTHING), strict=True):
        assert ids.tolist() == theirs(text)


def test_special_tokens_written_in_a_text_are_read_as_upstream(ours: Tokenizer) -> None:
    ids = our_ids(ours, "a<|im_end|>b")
    assert id_of("<|im_end|>") in ids
    assert ids == theirs("a<|im_end|>b")


def test_tokens_without_a_row_in_the_embedding_table_are_ordinary_text(path: Path) -> None:
    """The 0.6B tokenizer has four tokens more than the tables of 4B and 8B have rows."""
    think = id_of("<think>")
    narrow = Tokenizer(path, think)
    ids = our_ids(narrow, "<think>river</think>")
    assert max(ids) < think
    assert our_ids(narrow, "river") == theirs("river")


def test_a_table_too_small_for_the_ordinary_tokens_is_refused(path: Path) -> None:
    with pytest.raises(ModelError, match="embedding table only 300 rows"):
        Tokenizer(path, 300)


def test_truncation_and_padding_of_the_file_are_not_applied(tmp_path: Path) -> None:
    built = tokenizer()
    built.enable_truncation(4)
    built.enable_padding(length=50)
    own = Tokenizer(write_model(tmp_path, built=built) / "tokenizer.json", VOCABULARY)
    text = "The river rises in the mountains."
    assert our_ids(own, text) == theirs(text)
    assert our_ids(own, "sea") == theirs("sea")


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer\.json can't be read"):
        Tokenizer(tmp_path / "tokenizer.json", VOCABULARY)
    with pytest.raises(ModelError, match=r"absent\.json is missing"):
        Tokenizer(tmp_path / "absent.json", VOCABULARY)


def test_a_text_on_which_the_library_fails_is_an_error_of_its_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """However long it is; other texts have their ids, and the log does not repeat the text."""
    built = LibraryTokenizer(models.WordPiece({"sea": 0}, unk_token="nothing"))  # noqa: S106
    built.pre_tokenizer = pre_tokenizers.Whitespace()
    fails = Tokenizer(write_model(tmp_path, built=built) / "tokenizer.json", 1)

    for text in ("a secret", "sea a secret " * 5_000):
        with pytest.raises(TokenizerError, match="fails on a text: WordPiece error"):
            fails.ids([text], most=EVERYTHING)
    assert fails.ids(["sea sea"], most=EVERYTHING)[0].tolist() == [0, 0]
    assert "the model's tokenizer failed on a text" in caplog.text
    assert "secret" not in caplog.text


class _Panic(BaseException):
    """As the library raises it: no Exception."""


class _Panicking:
    """A library of which every call panics."""

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        def panic(*_: object, **__: object) -> NoReturn:
            raise _Panic("byte index 1 is not a char boundary")

        return panic


def test_a_panic_of_the_library_is_an_error_of_its_request(ours: Tokenizer, path: Path) -> None:
    """It is no Exception, and would end whoever calls without one."""
    panicking = Tokenizer(path, VOCABULARY)
    panicking._library._library = _Panicking()  # type: ignore[attr-defined]
    with pytest.raises(TokenizerError, match="byte index 1"):
        panicking.ids(["the sea"], most=EVERYTHING)
    assert ours.made(ours.ids(["the sea"], most=EVERYTHING)[0])


def test_ids_on_which_the_library_panics_may_be_its_own() -> None:
    built = tokenizer()
    built.decoder = decoders.ByteLevel()
    library = loaded(built)
    own = OwnIds(library)
    assert own.knows
    library._library = _Panicking()  # type: ignore[assignment]
    assert own([1, 2, 3])
