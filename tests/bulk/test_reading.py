from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfleet.bulk.columns import Columns
from embedfleet.bulk.errors import BulkError
from embedfleet.bulk.fragments import DictRows, Limits, Rows, cut
from embedfleet.bulk.reading import rows_of
from embedfleet.bulk.sources import found, kind_of
from tests.bulk.making import IN_MEMORY


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


def test_a_column_that_a_csv_lacks_is_reported_with_those_it_has(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("body,key\na,1\n")
    with pytest.raises(BulkError, match="there is no column text; there are: body, key"):
        read(path)
    with pytest.raises(BulkError, match="there is no column other"):
        read(path, Columns("body", carry=("other",)))
    path.write_text("text,key,key\na,1,2\n")
    assert read(path, Columns()).texts == ["a"]
    for columns in (Columns(id="key"), Columns(carry=None)):
        with pytest.raises(BulkError, match="there are 2 columns key"):
            read(path, columns)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "txt"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_named_with_what_converts_it(tmp_path: Path, suffix: str, encoding: str) -> None:
    file = tmp_path / f"in.{suffix}"
    file.write_bytes("\ufefftext\r\nbread\r\n".encode(encoding))
    with pytest.raises(BulkError, match="UTF-16; convert it: iconv"):
        read(file)


def test_a_list_in_json_is_refused_with_what_makes_lines_of_it(tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text('[{"text": "a"}]')
    with pytest.raises(BulkError, match=r"jq -c '\.\[\]'"):
        found([str(tmp_path / "in.json")])


def test_every_line_of_a_text_file_is_a_row(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(b"one\n\ntwo \r\n\xff\nend")
    rows = read(path, Columns())
    assert rows.texts == ["one", None, "two ", None, "end"]
    assert codes(rows) == {1: "empty_string", 3: "invalid_utf8"}


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
with contextlib.suppress(ImportError):
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    COMPRESSIONS[".zst"] = zstd.compress


@pytest.mark.parametrize("end", COMPRESSIONS)
def test_compressed_files_are_recognised_by_name_and_may_have_several_parts(
    end: str, tmp_path: Path
) -> None:
    path = tmp_path / f"in.txt{end}"
    path.write_bytes(COMPRESSIONS[end](b"a\nb\n") + COMPRESSIONS[end](b"c\n"))
    assert read(path).texts == ["a", "b", "c"]


@pytest.mark.parametrize("end", COMPRESSIONS)
@given(share=st.floats(0, 1))
@settings(max_examples=15, deadline=None)
def test_a_compressed_file_that_is_cut_off_anywhere_is_refused(end: str, share: float) -> None:
    whole = COMPRESSIONS[end]("".join(f"row {n}\n" for n in range(3000)).encode())
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        path = Path(folder) / f"in.txt{end}"
        path.write_bytes(whole[: 1 + int(share * (len(whole) - 2))])
        with pytest.raises(BulkError, match=r"in\.txt.*can't be read"):
            read(path)


def test_empty_files_of_any_format_have_no_rows(tmp_path: Path) -> None:
    for end in ("jsonl", "txt", "csv", "tsv"):
        path = tmp_path / f"in.{end}"
        path.write_bytes(b"")
        assert list(rows_of(found([str(path)])[0], Columns())) == []


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)),
    st.integers(1, 50),
    st.booleans(),
)
def test_lines_do_not_depend_on_how_many_bytes_are_read_at_once(
    texts: list[str], at_once: int, ends: bool
) -> None:
    lines = [json.dumps({"text": text}, ensure_ascii=False).encode() for text in texts]
    with (
        tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        path = Path(folder) / "in.jsonl"
        path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines) + (b"\n" if ends else b""))
        patch.setattr("embedfleet.bulk.reading.BYTES_AT_ONCE", at_once)
        blocks = list(rows_of(found([str(path)])[0], Columns()))
    assert [text for rows in blocks for text in rows.texts] == texts
    assert [number for rows in blocks for number in rows.ids] == list(range(len(texts)))
    assert [size for rows in blocks for size in rows.sizes] == list(map(len, lines))


def test_a_line_without_an_end_takes_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedfleet.bulk.reading.LARGEST_FIELD", 1000)
    monkeypatch.setattr("embedfleet.bulk.reading.BYTES_AT_ONCE", 64)
    path = tmp_path / "in.txt"
    path.write_bytes(b"a\n" + b"x" * 5000 + b"\nb\n" + b"y" * 1001)
    rows = read(path)
    assert rows.texts == ["a", None, "b", None]
    assert codes(rows) == {1: "line_too_long", 3: "line_too_long"}


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


def test_names_of_any_length_and_links_are_taken_as_they_are_or_refused(tmp_path: Path) -> None:
    root, far = tmp_path / "in", tmp_path / "far"
    for path in (root / "a" / f"{'n' * 240}.txt", far / "b.txt"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (root / "far").symlink_to(far)
    (root / "again").symlink_to(far)
    (root / "loop").symlink_to(tmp_path)
    (root / "a" / "loop").symlink_to(root)
    names = [each.name for each in found([str(root)])]
    assert names == [f"a/{'n' * 240}.txt", "again/b.txt"]
    assert max(len(each.stem) for each in found([str(root)])) <= 200
    (root / "gone.txt").symlink_to(tmp_path / "absent")
    with pytest.raises(BulkError, match=r"gone\.txt is a link to .*absent, which does not exist"):
        found([str(root)])


def test_what_lies_in_the_output_is_no_input(tmp_path: Path) -> None:
    for name in ("a.jsonl", "out/a-00000.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    out = str(tmp_path / "out")
    assert [each.name for each in found([str(tmp_path)], None, out)] == ["a.jsonl"]
    assert [each.name for each in found([f"{tmp_path}/**/*.jsonl"], None, out)] == ["a.jsonl"]
    with pytest.raises(BulkError, match="holds nothing but the output"):
        found([out], None, out)


@pytest.mark.parametrize("name", ["", "-"])
def test_standard_input_and_empty_names_are_refused(name: str) -> None:
    with pytest.raises(BulkError, match=r"read once|is empty"):
        found([name])


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


@pytest.mark.parametrize("delimiter", [",", ";", "|", "\t"])
def test_a_csv_is_read_by_the_delimiter_that_its_header_has_the_columns_by(
    delimiter: str, tmp_path: Path
) -> None:
    path = tmp_path / "in.csv"
    rows = [["key", "text", "a,b"], ["1", '"x; y|z,\t"', "1,5"], ["2", "second", ""]]
    path.write_text(
        "\r\n"
        + "".join(
            delimiter.join(f'"{x}"' if '"' not in x else x for x in row) + "\r\n" for row in rows
        )
    )
    found_rows = read(path, Columns("text", "key", None))
    assert found_rows.texts == ["x; y|z,\t", "second"]
    assert found_rows.ids == ["1", "2"]
    assert isinstance(found_rows.carried, DictRows)
    assert found_rows.carried.rows[0]["a,b"] == "1,5"


def test_rows_of_a_csv_with_more_fields_than_its_header_are_not_cut(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("key,text\n1,hello, world\n2,fine\n3,fine,\n4\n")
    rows = read(path)
    assert rows.texts == [None, "fine", "fine", None]
    assert codes(rows) == {0: "invalid_csv", 3: "missing_text"}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('key,text\n1,ok\n2,"a" b\n', "row that begins in line 3"),
        ('key,text\n1,"two\nlines"\n2,"never closed\n3,c\n', "row that begins in line 4"),
        ("key,text,größe\n1,ok,2\n", "the header is not valid UTF-8"),
    ],
)
def test_a_csv_that_is_refused_says_where(content: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(BulkError, match=told):
        read(path)


def test_a_path_leads_into_objects_unless_a_field_has_its_very_name(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    rows = [
        {"meta": {"text": "a", "at": {"id": "k1"}}, "n": 1},
        {"meta.text": "b", "meta": {"text": "not this", "at": {"id": 2}}},
        {"meta": "no object"},
        {"meta": {"text": "d", "at": {"id": True}}},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found_rows = read(path, Columns("meta.text", "meta.at.id", ("n", "meta.at")))
    assert found_rows.texts == ["a", "b", None, None]
    assert found_rows.ids[:2] == ["k1", 2]
    assert codes(found_rows) == {2: "missing_id", 3: "missing_id"}
    assert isinstance(found_rows.carried, DictRows)
    assert found_rows.carried.rows[0] == {"n": 1, "meta.at": {"id": "k1"}}


def test_an_id_that_would_make_all_ids_of_a_file_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f'{{"text":"a","id":"{"x" * n}"}}\n' for n in (8192, 8193)))
    assert codes(read(path, Columns(id="id"))) == {1: "invalid_id"}
