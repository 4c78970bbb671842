"""Output of commands: whole tables, valid JSON, errors without control characters."""

from __future__ import annotations

import json
import math

import pytest

from embedfleet.cli.printing import complain, show_json


def test_json_is_valid_for_numbers_that_json_does_not_have(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_json({"p99": math.nan, "rates": [(math.inf, 1.5)], "name": "长城"})

    def refused(constant: str) -> float:
        raise AssertionError(constant)

    told = json.loads(capsys.readouterr().out, parse_constant=refused)
    assert told == {"p99": None, "rates": [[None, 1.5]], "name": "长城"}


def test_an_error_escapes_what_would_control_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    complain("the column \x1b[2J长城\udcff is unknown\nknown are: text")
    assert capsys.readouterr().err == (
        "embedfleet: error: the column \\x1b[2J长城\\udcff is unknown\nknown are: text\n"
    )
