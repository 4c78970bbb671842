"""The file of keys on disk: private, whole, and changed by one at a time."""

from __future__ import annotations

import os
import secrets
import stat
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from embedfleet.transport.access.key_file import Records, change, load
from embedfleet.transport.access.keys import mint
from embedfleet.transport.access.records import KeyFileError, KeyRecord, record_of


def new() -> KeyRecord:
    return record_of(mint(secrets.token_bytes), "search", datetime.now(UTC))


def test_a_change_to_a_missing_file_makes_it_for_its_owner_alone(tmp_path: Path) -> None:
    path, record = tmp_path / "keys.json", new()
    before = os.umask(0)
    try:
        change(path, lambda keys: (*keys, record))
    finally:
        os.umask(before)
    assert load(path) == (record,)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
def test_a_file_stays_its_owners_when_root_changes_it(tmp_path: Path) -> None:
    """Or the service, which runs as somebody less, could not read it any more."""
    path = tmp_path / "keys.json"
    change(path, lambda _: (new(),))
    os.chown(path, 12345, 23456)
    change(path, lambda keys: (*keys, new()))
    told = path.stat()
    assert (told.st_uid, told.st_gid, stat.S_IMODE(told.st_mode)) == (12345, 23456, 0o600)


def test_a_symbolic_link_to_the_keys_file_is_kept(tmp_path: Path) -> None:
    path, link = tmp_path / "keys.json", tmp_path / "link.json"
    link.symlink_to(path)
    change(link, lambda _: (new(),))
    assert link.is_symlink()
    assert load(link) == load(path)


def test_a_change_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path, record = tmp_path / "keys.json", new()
    change(path, lambda _: (record,))

    def fail(keys: Records) -> Records:
        raise KeyFileError("no")

    with pytest.raises(KeyFileError, match=r"^no$"):
        change(path, fail)
    assert load(path) == (record,)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("existed", [True, False])
def test_a_change_that_is_not_confirmed_leaves_the_file_as_it_was(
    tmp_path: Path, existed: bool
) -> None:
    path = tmp_path / "keys.json"
    before = (new(),) if existed else ()
    if existed:
        change(path, lambda _: before)
    seen: list[Records] = []

    def fail() -> None:
        seen.append(load(path))
        raise KeyFileError("no")

    with pytest.raises(KeyFileError, match=r"^no$"):
        change(path, lambda keys: (*keys, new()), confirm=fail)
    assert len(seen[0]) == len(before) + 1
    assert (load(path) if existed else path.exists()) == (before or False)
    assert list(tmp_path.iterdir()) == [path] * existed


def test_changes_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    records = [new() for _ in range(8)]
    threads = [
        threading.Thread(target=change, args=(path, lambda keys, one=one: (*keys, one)))
        for one in records
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {record.id for record in load(path)} == {record.id for record in records}


def test_a_file_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with pytest.raises(KeyFileError, match=f"{path} can't be read: No such file"):
        load(path)
    path.write_text("{")
    with pytest.raises(KeyFileError, match=f"{path}: not a valid keys file"):
        load(path)
    with pytest.raises(KeyFileError, match="can't be written: No such file"):
        change(tmp_path / "none" / "keys.json", lambda keys: keys)


def test_a_named_pipe_instead_of_the_file_is_refused_and_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "keys.json")
    with pytest.raises(KeyFileError, match="not a regular file"):
        load(tmp_path / "keys.json")


def test_a_world_writable_file_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys.json"
    change(file, lambda _: ())
    file.chmod(0o666)
    load(file)
    assert "is writable by other users" in caplog.text
