"""`embedfleet conformance`: what is printed, written and returned."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from embedfleet.cli.conformance import conformance
from embedfleet.conformance.checks import all_checks
from embedfleet.transport.access import KeyRing
from embedfleet.transport.access.records import plain
from embedfleet.transport.asgi import App
from embedfleet.vocabulary import SetupError
from tests.conformance.faults import Spoiling, as_html, of_models
from tests.contract.computed_in_place import answering

KEY = "a-key-of-the-conformance-tests"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with answering(tmp_path_factory.mktemp("model")) as found:
        yield found


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service that wants the key."""
    keys = KeyRing(plain([KEY], datetime.now(UTC), "tests"))
    with answering(tmp_path_factory.mktemp("model"), access=keys) as found:
        yield found


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service that is not embedfleet by its own word, and words errors as HTML."""

    def around(app: App) -> App:
        spoiling = Spoiling(app)
        renamed = of_models(lambda card: card.update(owned_by="others"))
        also = of_models(lambda card: card.update(owned_by="others"), shown=True)
        spoiling.fault = lambda sent: as_html(also(renamed(sent)))
        return spoiling

    with answering(tmp_path_factory.mktemp("model"), around=around) as found:
        yield found


def typed(*words: str) -> Result:
    app = typer.Typer()
    app.command()(conformance)
    return CliRunner().invoke(app, [*words])


def test_a_service_that_keeps_the_contract_gets_exit_code_0(url: str) -> None:
    done = typed(url)
    assert done.exit_code == 0, done.output
    assert "\nfailed  " not in done.output
    assert ("\n" + done.output).count("\npassed  ") == len(all_checks()) - 2  # it asks for no key
    assert "skipped a wrong key is refused\n          the service requires no key" in done.output


def test_the_results_are_written_as_json(url: str, tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    typed(url, "--only", "base64", "--json", str(file))
    found = json.loads(file.read_text())
    assert found["model"] == "bag-of-tokens"
    assert found["counts"] == {"passed": len(found["checks"]), "failed": 0, "skipped": 0}
    assert {each["verdict"] for each in found["checks"]} == {"passed"}
    assert all("base64" in each["name"] for each in found["checks"])


def test_a_failed_check_prints_request_answer_and_expectation(elsewhere: str) -> None:
    done = typed(elsewhere, "--only", "malformed JSON is refused")
    assert done.exit_code == 1
    assert "failed  malformed JSON is refused" in done.output
    assert "asked     POST /embeddings" in done.output
    assert "answered  400 <html>" in done.output
    assert "right     the content type must be application/json, not 'text/html'" in done.output


def test_extensions_are_skipped_elsewhere_unless_asked_for(elsewhere: str) -> None:
    plain_run = typed(elsewhere, "--only", "unknown fields")
    assert "unknown fields" not in plain_run.output
    assert "--extensions checks them" in plain_run.output
    asked = typed(elsewhere, "--only", "unknown fields", "--extensions")
    assert "passed  unknown fields are ignored" in asked.output


def test_extensions_of_our_own_can_be_left_out(url: str) -> None:
    done = typed(url, "--only", "tokenize", "--no-extensions")
    assert "\npassed  " not in f"\n{done.output}"
    assert done.exit_code == 0


def test_a_key_from_a_file_is_accepted_and_shown_nowhere(guarded: str, tmp_path: Path) -> None:
    key, found = tmp_path / "key", tmp_path / "found.json"
    key.write_text(f"{KEY}\n")
    done = typed(guarded, "--key-file", str(key), "--json", str(found))
    assert done.exit_code == 0, done.output
    assert "passed  a wrong key is refused" in done.output
    assert "passed  a missing key is refused" in done.output
    assert "skipped " not in done.output
    assert KEY not in done.output + found.read_text()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["ftp://x"], "is not an address"),
        (["http://127.0.0.1:1"], "no answer"),
        (["http://127.0.0.1:1", "--key-file", "/nowhere/key"], "can't be read"),
    ],
)
def test_an_invalid_request_is_a_setup_error(words: list[str], complaint: str) -> None:
    done = typed(*words)
    assert isinstance(done.exception, SetupError)
    assert complaint in str(done.exception)


def test_a_service_without_models_wants_one_named(guarded: str) -> None:
    done = typed(f"{guarded}/nothing")
    assert isinstance(done.exception, SetupError)
    assert "--model" in str(done.exception)
