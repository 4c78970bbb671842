"""Files that an operator names, whatever stands there."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedfleet.runtime.text_files import read_key, read_text
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
        ("utf-16", r"it is no text in UTF-8 \(byte 0\)"),
        ("looped", "Too many levels of symbolic links"),
    ],
)
def test_what_is_no_text_is_told_in_one_line(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "utf-16").write_bytes("a = 1".encode("utf-16"))
    (tmp_path / "looped").symlink_to("looped")
    with pytest.raises(SettingError, match=why) as raised:
        read_text(tmp_path / name, "the settings file", SettingError)
    assert "\n" not in raised.value.message
