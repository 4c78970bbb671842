"""Whatever lies where a command expects a file, what it says is one line, and never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.main import get_command

from embedfleet.cli.command_line import app

NOWHERE = "http://127.0.0.1:1"

UNFIT = [
    b"",
    b"\xff\xfe\x00\x80",
    b"[1, 2, 3]",
    b'{"a": 1, "text": "\\ud800"}\n',
    b"[" * 100_000,
    b"a = " + b"[" * 100_000,
    b"[gateway]\nport = " + b"1" * 10_000,
]
"""What files hold: nothing, no text, JSON of another kind, and what parsers give up at."""

COMMANDS = [
    f"status --admin {NOWHERE} --key-file FILE",
    "status --config FILE",
    f"conformance {NOWHERE} --key-file FILE",
    "simulate FILE",
    "simulate --recorded FILE",
    "plan --texts-per-day 1000 --tokens 20 --p99 1s --replica-profile FILE",
    f"autoscale record FILE --admin {NOWHERE}",
    f"cache warm FILE --model m --admin {NOWHERE}",
    "keys list --file FILE",
    "keys revoke x --file FILE",
    "golden make FILE -o FILE",
    "model fetch FILE",
    "bulk plan FILE --input-format jsonl",
    "bulk plan FILE --input-format csv",
    "bulk plan FILE --text a",
    f"bulk run FILE FILE --url {NOWHERE} --retry-timeout 0",
    f"bulk verify FILE FILE --url {NOWHERE}",
]


def unfit(folder: Path) -> list[str]:
    """Names of what no command can use as its file."""
    paths = []
    for number, held in enumerate(UNFIT):
        paths.append(folder / f"{number}")
        paths[-1].write_bytes(held)
    (folder / "a folder of ünïcode").mkdir()
    names = [str(path) for path in [*paths, folder / "a folder of ünïcode"]]
    return [*names, f"{paths[0]}/below", "x" * 300, "~nobody-of-this-name/x", "/dev/null"]


@pytest.mark.parametrize("words", COMMANDS)
def test_every_unfit_file_is_an_error_in_one_line(
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    command = get_command(app)
    for file in unfit(tmp_path):
        typed = [word.replace("FILE", file) for word in words.split()]
        with pytest.raises(SystemExit) as ended:
            command(typed)
        assert ended.value.code in {0, 1, 2}, typed
        assert "[Errno" not in capsys.readouterr().err, typed


WRITERS = [
    "golden make builtin -o FILE",
    "simulate TRACE --policy static-2 --json FILE",
    "keys create --name me --file FILE",
    "deploy kubernetes --engine cpu --model builtin --image a/b@sha256:DIGEST -o FILE/below",
]
"""Of `conformance --json` a test is with those of its service."""


@pytest.mark.parametrize("words", WRITERS)
def test_a_file_that_can_not_be_written_is_an_error_in_one_line_that_names_it(
    words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And a link to a device, such as one that is full, is not replaced by a file."""
    command = get_command(app)
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,tokens\n0,100\n1,50\n", encoding="utf-8")
    (tmp_path / "text").touch()
    (tmp_path / "full").symlink_to("/dev/full")
    for file in (tmp_path / "text" / "file", tmp_path / ("x" * 300), tmp_path / "full"):
        typed = [
            word.replace("FILE", str(file)).replace("TRACE", str(trace)).replace("DIGEST", "0" * 64)
            for word in words.split()
        ]
        with pytest.raises(SystemExit) as ended:
            command(typed)
        said = capsys.readouterr().err
        assert ended.value.code in {1, 2}, typed
        assert said.count("\n") == 1, said
        assert str(file) in said or str(file.resolve()) in said, said
    assert (tmp_path / "full").is_symlink()
