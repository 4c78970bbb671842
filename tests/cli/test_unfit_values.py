"""Values that no flag means: refused when they are typed, before anything is read or asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from embedfleet.cli.command_line import app

COMMAND = get_command(app)


def refusal(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        COMMAND(words)
    assert ended.value.code == 2, words
    return capsys.readouterr().err


def numbers() -> Iterator[list[str]]:
    """Every flag that takes a number with a fraction, after its command."""

    def below(command: Any, words: list[str]) -> Iterator[list[str]]:
        for name, part in getattr(command, "commands", {}).items():
            yield from below(part, [*words, name])
        for parameter in command.params:
            if parameter.type.name.startswith(("number", "float")):
                yield [*words, parameter.opts[0]]

    return below(COMMAND, [])


@pytest.mark.parametrize("words", list(numbers()), ids=" ".join)
def test_a_number_is_finite(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for value in ("nan", "inf", "1e999", "-1e999", "x"):
        assert "invalid value" in refusal([*words, value], capsys)


def test_there_are_flags_that_take_numbers() -> None:
    assert len(list(numbers())) > 15


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("bulk run a.jsonl out --url nowhere", "is not an address such as"),
        ("bulk run a.jsonl out --url http://[", "is not an address such as"),
        ("bulk run a.jsonl out --url http://h:x", "is not an address such as"),
        ("bulk plan a.jsonl --url nowhere", "is not an address such as"),
        ("bulk verify a.jsonl out --url nowhere", "is not an address such as"),
        ("bulk run a.jsonl out --url http://h --lane fast", "it takes interactive, bulk"),
        ("bulk run a.jsonl out --url http://h --input-format pdf", "it takes arrow, csv, jsonl"),
        ("bulk plan a.jsonl --input-format pdf", "it takes arrow, csv, jsonl"),
        (
            "bulk run a.jsonl out --url http://h --dimensions 99999999999999999999",
            "not in the range",
        ),
        ("simulate t.csv --copies 99999999999999999999", "not in the range"),
        ("simulate t.csv --seeds 99999999999999999999", "not in the range"),
        ("status --admin 99999999999999999999", "no gateway answers"),
        ("serve builtin --max-tokens 100000", "max_tokens must be from 2 to 2048"),
        (["serve", "builtin", "--served-name", ""], "one of them is empty"),
        (
            "conformance http://127.0.0.1:1 --json /nowhere/result.json",
            "/nowhere/result.json can't be written: No such file",
        ),
    ],
)
def test_a_value_that_can_not_be_meant_is_named(
    words: str | list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = words.split() if isinstance(words, str) else words
    assert told in " ".join(refusal(given, capsys).split())
