"""`embedfleet keys`: what can be typed, and what is printed of a secret."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from embedfleet.cli.command_line import app
from embedfleet.cli.entry_points import Calls
from embedfleet.cli.keys import moment
from embedfleet.transport.access import KeyRing
from embedfleet.transport.access.key_file import load
from embedfleet.transport.access.records import KeyFileError
from embedfleet.vocabulary import Lane, UnauthorizedError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def typed(words: list[str], **environment: str) -> Result:
    cleared: dict[str, str | None] = {
        key: None for key in os.environ if key.startswith("EMBEDFLEET_")
    }
    wide = {"COLUMNS": "300"}
    return CliRunner().invoke(app, words, obj=Calls(), env=cleared | wide | environment)


def created(file: Path, *words: str) -> str:
    result = typed(["keys", "create", "--file", str(file), "--name", "search", *words])
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def test_a_new_key_is_printed_alone_and_once_and_opens_what_it_should(file: Path) -> None:
    key = created(file)
    assert key not in file.read_text()
    assert key.rpartition("-")[2] not in file.read_text()
    opened = KeyRing(load(file)).open(f"Bearer {key}")
    assert opened.key == load(file)[0].id


def test_every_limit_can_be_given(file: Path) -> None:
    words = ["--tokens-per-minute", "1000", "--requests-per-minute", "60", "--lane", "bulk"]
    words += ["--concurrent-texts", "64", "--model", "a", "--model", "b"]
    created(file, *words, "--expires", "2027-06-30", "--comment", "nightly job")
    (record,) = load(file)
    limits = (record.tokens_per_minute, record.requests_per_minute, record.concurrent_texts)
    assert limits == (1000, 60, 64)
    assert (record.lane, record.models) == (Lane.BULK, ("a", "b"))
    assert (record.name, record.comment) == ("search", "nightly job")
    assert record.expires == datetime(2027, 7, 1, tzinfo=UTC)


def test_the_list_shows_everything_but_secrets(file: Path) -> None:
    key = created(file, "--tokens-per-minute", "100000", "--comment", "nightly job")
    listed = typed(["keys", "list"], EMBEDFLEET_ACCESS_KEYS_FILE=str(file)).stdout
    assert key.split("-")[1] in listed
    assert "100,000" in listed
    assert "nightly job" in listed
    assert "active" in listed
    assert key.split("-")[2] not in listed
    assert load(file)[0].digest not in listed


@pytest.mark.parametrize("by", ["id", "key"])
def test_a_revoked_key_stays_in_the_list_and_opens_nothing(file: Path, by: str) -> None:
    key, other = created(file), created(file)
    named = key if by == "key" else key.split("-")[1]
    ended = typed(["keys", "revoke", "--json", "--file", str(file), named])
    assert ended.exit_code == 0
    assert json.loads(ended.stdout)["state"] == "revoked"
    ring = KeyRing(load(file))
    with pytest.raises(UnauthorizedError, match="revoked"):
        ring.open(f"Bearer {key}")
    ring.open(f"Bearer {other}")
    assert "revoked" in typed(["keys", "list", "--file", str(file)]).stdout
    unknown = typed(["keys", "revoke", "--file", str(file), "nobody"])
    assert "there is no key with the id nobody; there are: " in unknown.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["revoke", "nobody"], "can't be read"),
        (["create", "--name", "a", "--expires", "soon"], '"soon" is neither a day'),
        (["create", "--name", "a", "--expires", "9999-12-31"], '"9999-12-31" is neither a day'),
        (["create", "--name", ""], "this makes no key"),
        (["list"], "can't be read"),
    ],
)
def test_a_mistake_is_one_line_of_output_and_changes_nothing(
    file: Path, words: list[str], said: str
) -> None:
    result = typed(["keys", words[0], "--file", str(file), *words[1:]])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("embedfleet: error: ")
    assert said in line
    assert not file.exists()


def test_a_list_in_a_pipe_is_whole_and_so_is_json(file: Path) -> None:
    key = created(file, "--comment", "a long comment about what this key is for " * 3)
    narrow = typed(["keys", "list", "--file", str(file)], COLUMNS="80").stdout
    key_id, secret = key.split("-")[1:]
    assert key_id in narrow
    assert ("a long comment about what this key is for " * 3).strip() in narrow
    (shown,) = json.loads(typed(["keys", "list", "--file", str(file), "--json"]).stdout)
    assert (shown["id"], shown["state"], shown["name"]) == (key_id, "active", "search")
    assert secret not in json.dumps(shown)
    assert "digest" not in shown


def test_a_new_key_as_json_has_the_key_once(file: Path) -> None:
    shown = json.loads(created(file, "--json"))
    assert KeyRing(load(file)).open(f"Bearer {shown['key']}").key == shown["id"]


@pytest.mark.parametrize("expires", ["2020-01-01", "0d", "0000d"])
def test_a_key_that_would_never_open_anything_is_refused(file: Path, expires: str) -> None:
    words = ["keys", "create", "--file", str(file), "--name", "a", "--expires", expires]
    assert typed(words).exit_code == 2
    assert not file.exists()


def test_a_key_that_could_not_be_printed_is_not_created(file: Path) -> None:
    """A full disk behind standard output."""
    words = ["keys", "create", "--file", str(file), "--name", "a"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "embedfleet", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode != 0
    assert "No space left on device), so no key was made" in done.stderr
    assert "Traceback" not in done.stderr
    assert not file.exists()


@pytest.mark.parametrize("place", ["/proc/keys.json", "/dev/full", "/no/keys.json", "/dev"])
def test_a_key_that_can_not_be_kept_is_not_printed(place: str) -> None:
    result = typed(["keys", "create", "--file", place, "--name", "a"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("embedfleet: error: ")


def test_a_key_may_end_some_days_from_now() -> None:
    now = datetime(2026, 11, 22, 12, tzinfo=UTC)
    assert moment("90d", now) == datetime(2027, 2, 20, 12, tzinfo=UTC)
    with pytest.raises(KeyFileError):
        moment("2027-13-01", now)
