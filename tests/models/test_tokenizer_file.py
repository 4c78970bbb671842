"""What files beside tokenizer.json say of its tokens."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

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


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word", "normalized"])
def test_a_token_that_another_file_finds_elsewhere_is_refused(path: Path, flag: str) -> None:
    """The flags of tokenizer_config.json are transformers', those of tokenizer.json others'."""
    token = next(
        each for each in json.loads(path.read_text())["added_tokens"] if each["content"] == END
    )
    beside = path.with_name("tokenizer_config.json")
    beside.write_text(json.dumps({"added_tokens_decoder": {"7": token}}))
    load_tokenizer(path)
    token[flag] = not token[flag]
    beside.write_text(json.dumps({"added_tokens_decoder": {"7": token}}))
    with pytest.raises(ModelError, match=rf"{flag} of the token '{re.escape(END)}' is otherwise"):
        load_tokenizer(path)


BERT = {"tokenizer_class": "BertTokenizer"}


@pytest.mark.parametrize(
    ("said", "normalizer", "agree"),
    [
        ({"do_lower_case": True}, {}, True),
        ({"do_lower_case": False}, {}, False),
        ({"do_lower_case": False}, {"lowercase": False}, True),
        ({}, {"lowercase": False}, False),
        ({"do_lower_case": None, "strip_accents": None}, {}, True),
        ({"strip_accents": True}, {}, True),
        ({"strip_accents": False}, {}, False),
        ({}, {"strip_accents": False}, False),
        ({"strip_accents": False}, {"strip_accents": False}, True),
        ({"tokenize_chinese_chars": False}, {}, False),
        ({}, {"clean_text": False}, False),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, {"lowercase": False}, True),
        ({"tokenizer_class": "BertTokenizerFast"}, {"lowercase": False}, False),
    ],
    ids=str,
)
def test_a_bert_tokenizer_lower_cases_as_both_files_say(
    tmp_path: Path, said: dict[str, object], normalizer: dict[str, object], *, agree: bool
) -> None:
    """Where they differ, transformers follows one, and others that in tokenizer.json."""
    path = write_tokenizer(tmp_path, "wordpiece") / "tokenizer.json"
    definition = json.loads(path.read_text())
    definition["normalizer"] |= normalizer
    path.write_text(json.dumps(definition))
    path.with_name("tokenizer_config.json").write_text(json.dumps(BERT | said))
    if agree:
        load_tokenizer(path)
        return
    with pytest.raises(ModelError, match=r"its normalizer is .*PreTrainedTokenizerFast"):
        load_tokenizer(path)


@pytest.mark.parametrize("model_type", ["bert", "xlm-roberta"])
def test_where_no_class_is_named_the_models_counts(tmp_path: Path, model_type: str) -> None:
    path = write_tokenizer(tmp_path, "wordpiece", do_lower_case=False) / "tokenizer.json"
    path.with_name("config.json").write_text(json.dumps({"model_type": model_type}))
    if model_type != "bert":
        load_tokenizer(path)
        return
    with pytest.raises(ModelError, match="for BertTokenizer"):
        load_tokenizer(path)


@pytest.mark.parametrize(
    ("named", "section", "other"),
    [
        ("Qwen2Tokenizer", "normalizer", None),
        ("Qwen2TokenizerFast", "pre_tokenizer", {"type": "ByteLevel"}),
        ("Qwen2Tokenizer", "pre_tokenizer", {"type": "Whitespace"}),
    ],
)
def test_qwens_parts_are_those_of_its_class(
    path: Path, named: str, section: str, other: object
) -> None:
    beside = path.with_name("tokenizer_config.json")
    beside.write_text(json.dumps({"tokenizer_class": named}))
    load_tokenizer(path)
    definition = json.loads(path.read_text())
    definition[section] = other
    path.write_text(json.dumps(definition))
    with pytest.raises(ModelError, match=rf"its {section} is .* for {named}"):
        load_tokenizer(path)


@pytest.mark.parametrize(("said", "there"), [(True, False), (False, True), (None, True)])
def test_robertas_first_word_begins_with_a_blank_in_both_files_or_in_none(
    tmp_path: Path, said: bool | None, there: bool
) -> None:
    built = Tokenizer(models.BPE())
    path = tmp_path / "tokenizer.json"
    for blank, agree in ((bool(said), True), (there, False)):
        built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=blank)
        built.save(str(path))
        config = {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": said}
        path.with_name("tokenizer_config.json").write_text(json.dumps(config))
        if agree:
            load_tokenizer(path)
            continue
        with pytest.raises(ModelError, match=r"its pre_tokenizer is .*add_prefix_space"):
            load_tokenizer(path)
