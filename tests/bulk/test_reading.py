from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfleet.bulk.errors import BulkError
from embedfleet.bulk.fragments import DictRows, Limits, Rows, cut
from embedfleet.bulk.reading import Columns, rows_of
from embedfleet.bulk.sources import found, kind_of


def read(path: Path, columns: Columns | None = None) -> Rows:
    """All rows of one file, together."""
    (source,) = found([str(path)])
    return Rows.joined(list(rows_of(source, columns or Columns(carry=None))))


def codes(rows: Rows) -> dict[int, str]:
    return {at: why.code for at, why in rows.faults.items()}


def test_json_lines_are_objects_or_strings_and_what_is_neither_has_a_reason(
    tmp_path: Path,
) -> None:
    path = tmp_path / "in.jsonl"
    lines = [
        b'\xef\xbb\xbf{"text":"a","n":1}',
        b'"b"',
        b"",
        b"[1]",
        b"{",
        b'{"text":3}',
        b'{"text":null}',
        b'{"text":"\\ud800"}',
        b'{"text":"\xff"}',
        b'{"text":"last"}',
    ]
    path.write_bytes(b"\r\n".join(lines))
    rows = read(path)
    assert rows.texts == ["a", "b", None, None, None, None, None, None, "last"]
    assert codes(rows) == {
        2: "invalid_type",
        3: "invalid_json",
        4: "invalid_type",
        5: "missing_text",
        6: "invalid_json",
        7: "invalid_json",
    }
    assert rows.ids == list(range(9))
    assert isinstance(rows.carried, DictRows)
    assert rows.carried.rows[0] == {"text": "a", "n": 1}


def test_ids_and_some_columns_are_taken_where_they_are_named(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"body":"a","key":"k1","x":1,"y":2}\n{"body":"b","x":3}\n')
    rows = read(path, Columns("body", "key", ("x",)))
    assert rows.ids[0] == "k1"
    assert codes(rows) == {1: "missing_id"}
    assert isinstance(rows.carried, DictRows)
    assert rows.carried.rows[0] == {"x": 1}


def test_csv_is_read_by_its_header_with_quotes_and_lines_within(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(b'key,text\r\n1,"two\nlines, and ""quotes"""\r\n2,\r\n3,caf\xe9\r\n')
    rows = read(path, Columns(id="key", carry=None))
    assert rows.texts == ['two\nlines, and "quotes"', None, None]
    assert codes(rows) == {1: "empty_string", 2: "invalid_utf8"}
    assert rows.ids == ["1", "2", "3"]
    tabs = tmp_path / "in.tsv"
    tabs.write_text("text\tn\na, b\t1\n")
    assert read(tabs).texts == ["a, b"]


def test_a_column_that_a_csv_lacks_is_told_with_those_it_has(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("body,key\na,1\n")
    with pytest.raises(BulkError, match="there is no column text; there are: body, key"):
        read(path)
    with pytest.raises(BulkError, match="there is no column other"):
        read(path, Columns("body", carry=("other",)))


def test_every_line_of_a_text_file_is_a_row(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(b"one\n\ntwo \r\n\xff\nend")
    rows = read(path, Columns())
    assert rows.texts == ["one", None, "two ", None, "end"]
    assert codes(rows) == {1: "empty_string", 3: "invalid_utf8"}


@pytest.mark.parametrize(
    ("end", "compress"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
)
def test_compressed_files_are_told_by_their_names(end: str, compress: Any, tmp_path: Path) -> None:
    path = tmp_path / f"in.txt{end}"
    path.write_bytes(compress(b"a\nb\n"))
    assert read(path).texts == ["a", "b"]
    path.write_bytes(compress(b"a\nb\n" * 1000)[:-9])
    with pytest.raises(BulkError, match=r"in\.txt.*can't be read"):
        read(path)


def test_folders_and_patterns_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt.gz", "sub/c.jsonl", "notes.pdf", "_manifest.json", ".hidden.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [each.name for each in found([str(tmp_path)])] == ["a.txt.gz", "b.txt", "sub/c.jsonl"]
    assert [each.name for each in found([f"{tmp_path}/*.txt"])] == ["b.txt"]
    assert [each.stem for each in found([f"{tmp_path}/**/*.jsonl"])] == ["sub-c"]
    with pytest.raises(BulkError, match="there is no such file or folder"):
        found([str(tmp_path / "absent")])
    with pytest.raises(BulkError, match="unknown file name extension"):
        found([str(tmp_path / "notes.pdf")])
    assert found([str(tmp_path / "notes.pdf")], "text")[0].format == "text"


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("a/x.txt", "b/x.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(BulkError, match="would have the same name in the output"):
        found([str(tmp_path / "a" / "x.txt"), str(tmp_path / "b" / "x.txt")])


def test_addresses_of_other_file_systems_are_read_too() -> None:
    import fsspec  # noqa: PLC0415

    system = fsspec.filesystem("memory")
    system.pipe_file("/corpus/a.txt", b"a\n")
    system.pipe_file("/corpus/sub/b.txt.gz", gzip.compress(b"b\n"))
    try:
        sources = found(["memory://corpus"])
        assert [each.name for each in sources] == ["a.txt", "sub/b.txt.gz"]
        texts = [next(rows_of(each, Columns())).texts for each in sources]
        assert texts == [["a"], ["b"]]
        with pytest.raises(BulkError, match="no such file"):
            found(["memory://absent"])
        with pytest.raises(BulkError, match="can't be read"):
            found(["nonsense://x"])
    finally:
        system.rm("/corpus", recursive=True)


def test_formats_are_detected_by_file_name_extension() -> None:
    assert kind_of("A.JSONL.GZ") == ("jsonl", "gzip")
    assert kind_of("x.parquet") == ("parquet", None)
    assert kind_of("x.json") == (None, None)


@given(
    texts=st.lists(st.text(max_size=30) | st.none(), max_size=60),
    rows=st.integers(1, 20),
    size=st.integers(1, 200),
    block=st.integers(1, 13),
)
@settings(deadline=None)
def test_fragments_hold_every_row_once_in_order_and_do_not_depend_on_how_they_were_read(
    texts: list[str | None], rows: int, size: int, block: int
) -> None:
    def blocks(length: int) -> list[Rows]:
        found = []
        for start in range(0, len(texts), length):
            part = texts[start : start + length]
            fields = DictRows([{"n": start + at} for at in range(len(part))])
            sizes = [len((each or "").encode("utf-8", "surrogatepass")) for each in part]
            ids = list(range(start, start + len(part)))
            found.append(Rows(start, part, ids, fields, sizes))
        return found

    fragments = list(cut("in", "in", blocks(block), Limits(rows, size)))
    again = list(cut("in", "in", blocks(60), Limits(rows, size)))
    assert [each for one in fragments for each in one.rows.texts] == texts
    assert [each for one in fragments for each in one.rows.ids] == list(range(len(texts)))
    assert [one.name for one in fragments] == [f"in-{at:05d}" for at in range(len(fragments))]
    assert [one.digest for one in fragments] == [one.digest for one in again]
    assert len({one.digest for one in fragments}) == len(fragments)
    for one in fragments:
        assert len(one.rows) <= rows
        assert len(one.rows) == 1 or sum(one.rows.sizes) <= size


def test_a_row_that_changes_in_anything_that_is_put_out_changes_its_fragment(
    tmp_path: Path,
) -> None:
    def digest(row: dict[str, Any]) -> str:
        path = tmp_path / "in.jsonl"
        path.write_text(json.dumps(row) + "\n")
        return next(cut("in", "in", [read(path, Columns(id="k", carry=None))], Limits())).digest

    row = {"text": "a", "k": 1, "x": None}
    seen = {
        digest(row),
        digest(row | {"text": "b"}),
        digest(row | {"k": 2}),
        digest({**row, "x": 0}),
    }
    assert len(seen) == 4
    assert digest(row) in seen
