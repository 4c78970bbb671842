"""What files beside tokenizer.json say of its tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from embedfleet.models.tokenizer_file import load_tokenizer
from embedfleet.vocabulary import ModelError
from tests.encoder_tokenizers import write_tokenizer
from tests.small_tokenizer import END, tokenizer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    tokenizer().save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def naming(token: str) -> list[tuple[str, dict[str, object]]]:
    """The ways in which a file names a token."""
    return [
        ("tokenizer_config.json", {"added_tokens_decoder": {"7": {"content": token}}}),
        ("tokenizer_config.json", {"additional_special_tokens": [token]}),
        ("tokenizer_config.json", {"extra_special_tokens": {"image_token": token}}),
        ("tokenizer_config.json", {"extra_special_tokens": [{"content": token}]}),
        ("special_tokens_map.json", {"additional_special_tokens": [{"content": token}]}),
        ("added_tokens.json", {token: 7}),
    ]


@pytest.mark.parametrize(("name", "content"), naming("sea"))
def test_a_token_that_only_another_file_adds_is_refused(
    path: Path, name: str, content: dict[str, object]
) -> None:
    path.with_name(name).write_text(json.dumps(content))
    with pytest.raises(ModelError, match=rf"{name} names the token 'sea'.*added_tokens.*Save"):
        load_tokenizer(path)


@pytest.mark.parametrize(("name", "content"), naming(END))
def test_a_token_that_both_files_have_is_one(
    path: Path, name: str, content: dict[str, object]
) -> None:
    path.with_name(name).write_text(json.dumps(content))
    load_tokenizer(path)


@pytest.mark.parametrize("value", [5, "sea", [5], {"a": 5}, [None], True])
def test_values_of_other_types_name_none(path: Path, value: object) -> None:
    content = {"added_tokens_decoder": value}
    path.with_name("tokenizer_config.json").write_text(json.dumps(content))
    load_tokenizer(path)


def test_splitting_special_tokens_is_refused(path: Path) -> None:
    path.with_name("tokenizer_config.json").write_text('{"split_special_tokens": true}')
    with pytest.raises(ModelError, match="split_special_tokens is on"):
        load_tokenizer(path)


@pytest.mark.parametrize(
    ("said", "agree"),
    [
        ({"do_lower_case": True}, True),
        ({"do_lower_case": False}, False),
        ({"do_lower_case": None, "strip_accents": None}, True),
        ({"strip_accents": True}, True),
    ],
    ids=str,
)
def test_a_bert_tokenizer_lower_cases_as_both_files_say(
    tmp_path: Path, said: dict[str, object], *, agree: bool
) -> None:
    """Where they differ, transformers follows one, and others that in tokenizer.json."""
    path = write_tokenizer(tmp_path, "wordpiece") / "tokenizer.json"
    definition = json.loads(path.read_text())
    assert definition["normalizer"]["lowercase"] is True
    path.with_name("tokenizer_config.json").write_text(json.dumps(said))
    if agree:
        load_tokenizer(path)
        return
    with pytest.raises(ModelError, match=r"do_lower_case is False, and lowercase .* True"):
        load_tokenizer(path)
