"""Files that an operator names, whatever stands there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from embedfleet.runtime.text_files import expect_writable, read_key, read_text, write_file
from embedfleet.vocabulary import SettingError


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_marks_and_line_ends_of_other_systems_are_no_part_of_a_text(
    tmp_path: Path, mark: bytes, end: bytes
) -> None:
    file = tmp_path / "file"
    file.write_bytes(mark + b"a = 1" + end + b"b = 2" + end)
    assert read_text(file, "it") == "a = 1\nb = 2\n"
    file.write_bytes(mark + b"secret" + end)
    assert read_key(file, "it") == "secret"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("/dev/zero", "it has more than 16777216 bytes"),
        ("missing", "No such file or directory"),
        (".", "Is a directory"),
        ("utf-16", r"it is not valid UTF-8 \(byte 0\)"),
        ("looped", "Too many levels of symbolic links"),
    ],
)
def test_an_unreadable_text_file_is_reported_in_one_line(
    tmp_path: Path, name: str, why: str
) -> None:
    (tmp_path / "utf-16").write_bytes("a = 1".encode("utf-16"))
    (tmp_path / "looped").symlink_to("looped")
    with pytest.raises(SettingError, match=why) as raised:
        read_text(tmp_path / name, "the settings file", SettingError)
    assert "\n" not in raised.value.message


UNWRITABLE = [
    ("nowhere/file", "No such file or directory"),
    (".", "Is a directory"),
    ("text/file", "Not a directory"),
    ("looped", "Too many levels of symbolic links"),
    ("x" * 300, "File name too long"),
]


@pytest.mark.parametrize(("name", "why"), UNWRITABLE)
def test_what_can_not_be_written_is_refused_beforehand_and_when_it_is_written(
    tmp_path: Path, name: str, why: str
) -> None:
    (tmp_path / "text").write_text("a", encoding="utf-8")
    (tmp_path / "looped").symlink_to("looped")
    told = f"can't be written: {why}$"
    with pytest.raises(SettingError, match=told):
        expect_writable(tmp_path / name, SettingError)
    with pytest.raises(SettingError, match=told):
        write_file(tmp_path / name, b"b", SettingError)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["looped", "text"]


def test_expecting_to_write_changes_nothing(tmp_path: Path) -> None:
    """Neither a file, nor a link that leads nowhere yet, nor a pipe that nobody reads."""
    (tmp_path / "text").write_text("a", encoding="utf-8")
    (tmp_path / "link").symlink_to("aim")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.iterdir())
    for name in ("text", "link", "pipe", "new"):
        expect_writable(tmp_path / name)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "text").read_text("utf-8") == "a"
    assert (tmp_path / "link").is_symlink()


def test_a_file_is_written_where_it_stands(tmp_path: Path) -> None:
    """Behind its link and with its permissions; a full disk is told with the name of the file."""
    (tmp_path / "aim").write_bytes(b"before")
    (tmp_path / "aim").chmod(0o640)
    (tmp_path / "link").symlink_to("aim")
    write_file(tmp_path / "link", b"after")
    assert (tmp_path / "aim").read_bytes() == b"after"
    assert (tmp_path / "aim").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "link").is_symlink()

    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(SettingError, match=r"full can't be written: No space left on device$"):
        write_file(tmp_path / "full", b"after", SettingError)
    assert (tmp_path / "full").is_char_device()
