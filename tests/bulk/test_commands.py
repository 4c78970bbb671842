"""What is typed, what is printed, and what the exit code says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from embedfleet.cli.command_line import app
from tests.bulk.making import json_lines, tree
from tests.fakes.revealing_service import RevealingService, error, running, vectors_of

TEXTS = [f"text {n}" for n in range(30)]


@pytest.fixture
def service() -> Iterator[RevealingService]:
    with running() as found:
        yield found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return json_lines(tmp_path / "in.jsonl", [{"text": text} for text in TEXTS])


def bulk(*words: object) -> Result:
    return CliRunner().invoke(app, ["bulk", *map(str, words)])


def test_a_corpus_in_vectors_out(service: RevealingService, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = bulk(source, out, "--url", service.url, "--fragment-rows", 10)
    assert done.exit_code == 0, done.output
    assert "30 rows, 0 without a vector; 30 texts computed" in done.stdout
    found = np.concatenate([np.load(out / f"in-0000{n}.npy") for n in range(3)])
    assert np.array_equal(found, vectors_of(TEXTS))
    assert {headers["x-embedfleet-lane"] for headers in service.headers} == {"bulk"}
    again = bulk(source, out, "--url", service.url, "--fragment-rows", 10, "--json")
    assert json.loads(again.stdout)["computed"] == 0


def test_options_may_come_first_and_the_command_may_be_named(
    service: RevealingService, source: Path, tmp_path: Path
) -> None:
    first = bulk("--url", service.url, "--format", "jsonl", source, tmp_path / "a")
    named = bulk("run", source, tmp_path / "b", "--url", service.url, "--format", "jsonl")
    assert (first.exit_code, named.exit_code) == (0, 0)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_a_service_that_is_lost_ends_it_with_what_was_done_kept(
    service: RevealingService, source: Path, tmp_path: Path
) -> None:
    limit = 2 + 3  # the probe, and some requests

    def lost(number: int, _body: dict[str, Any]) -> Any:
        return error(503, "no_replica") if number >= limit else None

    words = (source, tmp_path / "out", "--url", service.url, "--fragment-rows", 5)
    service.fault = lost
    done = bulk(*words, "--retry-timeout", 0)
    assert done.exit_code == 1
    assert "no_replica" in done.stderr
    assert "What was computed is kept" in done.stderr
    assert not (tmp_path / "out" / "_manifest.json").exists()
    service.fault = None
    assert bulk(*words).exit_code == 0
    assert all(service.computed[text] == 1 for text in TEXTS)


def test_verify_names_fragments_that_no_longer_hold(
    service: RevealingService, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    bulk(source, out, "--url", service.url, "--fragment-rows", 10)
    good = bulk("verify", source, out, "--url", service.url)
    assert good.exit_code == 0
    assert "3 fragments, 0 wrong; 6 vectors computed again" in good.stdout
    data = bytearray((out / "in-00001.npy").read_bytes())
    data[-1] ^= 1
    (out / "in-00001.npy").write_bytes(data)
    bad = bulk("verify", source, out, "--url", service.url, "--json")
    assert bad.exit_code == 1
    wrong = {each["fragment"]: each["complaint"] for each in json.loads(bad.stdout)}
    assert wrong == {
        "in-00000": "",
        "in-00001": "its files are missing, or not what was written",
        "in-00002": "",
    }
    service.salt = "another model"
    assert bulk("verify", source, out, "--url", service.url).stdout.count("another space") == 2
    json_lines(source, [{"text": "new"}])
    changed = bulk("verify", source, out, "--url", service.url)
    assert "in-00000: its rows changed in the input" in changed.stdout
    assert "in-00002: its rows are no longer in the input" in changed.stdout


def test_a_plan_estimates_the_run_and_sends_no_request(source: Path, tmp_path: Path) -> None:
    json_lines(source, [{"text": text} for text in [*TEXTS, *TEXTS, ""]])
    done = bulk("plan", source, "--json", "--replicas", 2, "--cost-per-hour", 2)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["rows"], found["faults"], found["distinct"]) == (61, 1, 30)
    assert found["tokens"] == round(sum(map(len, TEXTS)) * 0.3)
    assert not found["counted"]
    assert found["cost"] > 0
    assert "distinct texts" in bulk("plan", source).stdout


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["in.jsonl", "out"], "nothing to compute with: give --url"),
        (["in.jsonl", "--url", "http://127.0.0.1:1"], "give what to read and then where to write"),
        (["in.jsonl", "out", "--format", "xlsx", "--model", "m"], "it takes npy, jsonl, parquet"),
        (["in.jsonl", "out", "--dtype", "f64", "--model", "m"], "it takes float32, float16"),
        (["absent.jsonl", "out", "--url", "http://127.0.0.1:1"], "no such file or folder"),
    ],
)
def test_errors_of_the_settings_are_reported_before_anything_is_started(
    words: list[str], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    json_lines(Path("in.jsonl"), [{"text": "a"}])
    done = bulk(*words)
    assert done.exit_code == 2
    assert complaint in done.stderr
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "words",
    [["--text", "body"], ["--id", "key"], ["--format", "jsonl", "--vector-column", "text"]],
)
def test_a_run_that_is_refused_leaves_no_folder(
    words: list[str], service: RevealingService, source: Path, tmp_path: Path
) -> None:
    done = bulk(source, tmp_path / "new" / "out", "--url", service.url, *words)
    assert done.exit_code != 0, done.output
    assert not (tmp_path / "new").exists()


def test_a_missing_key_is_reported_with_the_flag_that_gives_one(
    service: RevealingService, source: Path, tmp_path: Path
) -> None:
    words = [source, tmp_path / "out", "--url", service.url, "--fragment-rows", 5]
    service.fault = lambda _number, _body: error(401, "invalid_api_key")
    done = bulk(*words)
    assert done.exit_code == 1
    assert "status 401" in done.stderr
    assert "asked without a key: --key-file FILE takes one" in done.stderr
    assert not (tmp_path / "out").exists()
    (tmp_path / "key").write_text("a-key\n")
    service.fault = lambda number, _body: error(401, "invalid_api_key") if number >= 4 else None
    done = bulk(*words, "--key-file", tmp_path / "key")
    assert f"with the key in {tmp_path / 'key'}: --key-file takes another" in done.stderr
    assert "What was computed is kept" in done.stderr


def test_an_unreachable_address_is_reported_at_once_without_a_retry_timeout(
    source: Path, tmp_path: Path
) -> None:
    done = bulk(source, tmp_path / "out", "--url", "http://127.0.0.1:1", "--retry-timeout", 0)
    assert done.exit_code == 1
    assert "http://127.0.0.1:1" in done.stderr
