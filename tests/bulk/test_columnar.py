"""Parquet and Arrow, where the extra is installed."""

from __future__ import annotations

import datetime as dt
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfleet.bulk.columns import Columns, ColumnTypes, Names
from embedfleet.bulk.errors import BulkError
from embedfleet.bulk.fragments import Limits, cut, without
from embedfleet.bulk.reading import rows_of
from embedfleet.bulk.sources import found
from embedfleet.bulk.writing import files_of, vectors_in
from tests.bulk.making import IN_MEMORY, RevealingClient, job, json_lines, ran, tree
from tests.fakes.revealing_service import vectors_of

pa = pytest.importorskip("pyarrow", reason="the extra `bulk` is not installed")
pq = pytest.importorskip("pyarrow.parquet")

from embedfleet.bulk.columnar import ArrowRows  # noqa: E402  an extra

TEXTS = [f"text {n}" for n in range(2500)]


def a_table(count: int = len(TEXTS)) -> Any:
    texts: list[str | None] = list(TEXTS[:count])
    texts[3] = None
    return pa.table(
        {
            "key": pa.array(range(100, 100 + count), pa.int32()),
            "text": pa.array(texts, pa.large_string()),
            "at": pa.array(
                [dt.datetime(2026, 1, 1, tzinfo=dt.UTC)] * count, pa.timestamp("ns", "UTC")
            ),
            "tags": pa.array([["x", None]] * count, pa.list_(pa.string())),
        }
    )


def written(path: Path, table: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=700)
    else:
        make = pa.ipc.new_file if path.suffix == ".arrow" else pa.ipc.new_stream
        with make(str(path), table.schema) as sink:
            sink.write_table(table, max_chunksize=900)
    return path


def read(out: Path) -> Any:
    return pa.concat_tables([pq.read_table(each) for each in sorted(out.glob("*.parquet"))])


@pytest.mark.parametrize("name", ["in.parquet", "in.arrow", "in.ipc"])
async def test_columns_keep_their_types_and_vectors_are_lists_of_a_fixed_size(
    name: str, tmp_path: Path
) -> None:
    source, out = written(tmp_path / name, a_table()), tmp_path / "out"
    columns = Columns(id="key", carry=None)
    wanted = job(source, columns=columns, format="parquet", fragment_rows=1000)
    await ran(wanted, out, RevealingClient())
    found = read(out)
    assert found.num_rows == len(TEXTS) - 1
    expected = a_table().filter(pa.compute.is_valid(a_table()["text"]))
    for column in ("text", "at", "tags"):
        assert found[column].equals(expected[column].cast(found[column].type))
        assert found.schema.field(column).type == a_table().schema.field(column).type
    assert str(found.schema.field("embedding").type) == "fixed_size_list<element: float>[16]"
    flat = found["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, 16)
    assert np.array_equal(flat, vectors_of(expected["text"].to_pylist()))
    before = tree(out)
    await ran(wanted, out, (client := RevealingClient()))
    assert not client.computed
    assert tree(out) == before


async def test_an_update_takes_known_vectors_out_of_parquet(tmp_path: Path) -> None:
    source, out = written(tmp_path / "in.parquet", a_table(60)), tmp_path / "out"
    options: dict[str, Any] = {"format": "parquet", "dtype": "float16", "fragment_rows": 16}
    await ran(job(source, **options), out, RevealingClient())
    written(
        source,
        pa.concat_tables([a_table(1).replace_schema_metadata(), a_table(60)])
        if False
        else pa.concat_tables([pa.table(a_table(60).slice(59, 1)), a_table(60).slice(0, 59)]),
    )
    client = RevealingClient()
    await ran(job(source, **options, update=True), out, client)
    assert not client.computed
    await ran(job(source, **options), tmp_path / "new", RevealingClient())
    assert tree(out) == tree(tmp_path / "new")


async def test_only_columns_that_are_wanted_are_carried(tmp_path: Path) -> None:
    source, out = written(tmp_path / "in.parquet", a_table(10)), tmp_path / "out"
    columns = Columns(carry=("tags",))
    await ran(job(source, columns=columns, format="parquet"), out, RevealingClient())
    assert read(out).schema.names == ["row", "tags", "embedding"]
    none = job(source, columns=Columns(), format="jsonl")
    await ran(none, tmp_path / "none", RevealingClient())
    assert (tmp_path / "none" / "in-00000.jsonl").read_bytes().startswith(b'{"row":0,"embedding"')


async def test_fields_of_json_become_columns_of_one_type_in_every_file(tmp_path: Path) -> None:
    rows = [
        {"text": "a", "n": None, "s": None, "mixed": 1, "deep": {"x": 1}, "f": 1},
        {"text": "b", "n": None, "s": None, "mixed": 2, "deep": None, "f": 2},
        {"text": "c", "n": 3, "s": "x", "mixed": "y", "deep": [1], "f": 2.5},
    ]
    source, out = json_lines(tmp_path / "in.jsonl", rows), tmp_path / "out"
    await ran(job(source, format="parquet", fragment_rows=2), out, RevealingClient())
    found = read(out)
    assert found["n"].to_pylist() == [None, None, 3]
    assert found["f"].to_pylist() == [1.0, 2.0, 2.5]
    assert found["mixed"].to_pylist() == ["1", "2", '"y"']
    assert found["deep"].to_pylist() == ['{"x":1}', None, "[1]"]


async def test_columns_of_any_type_are_carried_or_refused_by_their_names(tmp_path: Path) -> None:
    texts = ["a", "b", None]
    columns: dict[str, Any] = {
        "large": pa.array(texts, pa.large_string()),
        "dictionary": pa.array(texts).dictionary_encode(),
        "view": pa.array(texts, pa.string_view()),
        "nested": pa.array([{"p": [1]}, {"p": []}, None]),
        "nothing": pa.nulls(3),
        "time": pa.array([0, 1, None], pa.timestamp("us", "UTC")),
        "decimal": pa.array([1, 2, None], pa.decimal128(20, 2)),
        "bytes": pa.array([b"\xff", b"", None], pa.binary_view()),
    }
    source = written(tmp_path / "in.parquet", pa.table(columns))
    for text in ("large", "dictionary", "view"):
        for form in ("parquet", "jsonl"):
            out = tmp_path / f"{text}-{form}"
            carried = Columns(text, carry=None if form == "parquet" else ("nested", "time"))
            wanted = job(source, format=form, columns=carried)
            found = await ran(wanted, out, RevealingClient())
            assert (found.rows, found.errors, found.computed) == (3, 1, 2)
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    with pytest.raises(BulkError, match="there are 2 columns text"):
        await ran(job(written(tmp_path / "t.parquet", twice)), tmp_path / "o", RevealingClient())


async def test_invalid_parquet_and_absent_columns_are_reported(tmp_path: Path) -> None:
    broken = tmp_path / "in.parquet"
    broken.write_bytes(b"PAR1 and no more")
    with pytest.raises(BulkError, match=r"in\.parquet.*can't be read"):
        await ran(job(broken), tmp_path / "out", RevealingClient())
    source = written(tmp_path / "b.parquet", a_table(10))
    with pytest.raises(BulkError, match="there is no column body; there are: key, text, at, tags"):
        await ran(job(source, columns=Columns("body")), tmp_path / "out", RevealingClient())


@pytest.mark.parametrize(
    ("dtype", "element", "size"),
    [
        ("float16", "halffloat", 16),
        ("int8", "int8", 16),
        ("uint8", "uint8", 16),
        ("ubinary", "uint8", 2),
    ],
)
async def test_numbers_have_the_type_that_they_are_of(
    dtype: str, element: str, size: int, tmp_path: Path
) -> None:
    source, out = written(tmp_path / "in.parquet", a_table(10)), tmp_path / "out"
    await ran(job(source, format="parquet", dtype=dtype), out, RevealingClient())
    column = read(out).schema.field("embedding")
    assert str(column.type) == f"fixed_size_list<element: {element}>[{size}]"


LEAVES: list[Any] = [
    pa.array([1, 2**62, None], pa.timestamp("ns")),
    pa.array([1, 2, None], pa.timestamp("ns", "UTC")),
    pa.array([2**40, 1, None], pa.timestamp("s")),
    pa.array([1, 2, None], pa.timestamp("s", "Mars/Phobos")),
    pa.array([2**30, 1, None], pa.date32()),
    pa.array([1, 2, None], pa.time64("ns")),
    pa.array([1, 2, None], pa.duration("ns")),
    pa.array([2**62, 2, None], pa.duration("s")),
    pa.array([1, 2**64 - 1, None], pa.uint64()),
    pa.array([b"\xff", b"x", None], pa.binary()),
    pa.array([b"\xff", b"x", None]).view(pa.string()),
    pa.array(["x", "", None], pa.large_string()),
    pa.array(["x", "y", "x"]).dictionary_encode(),
    pa.array([float("nan"), float("inf"), None]),
    pa.array([1, 2, None], pa.decimal128(38, 10)),
    pa.array([True, None, False]),
    pa.nulls(3),
]


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def wrapped(values: Any, how: str) -> Any:
        if how == "list":
            return pa.ListArray.from_arrays([0, 1, 2, 3], values)
        return pa.StructArray.from_arrays([values], names=["field"])

    return st.builds(wrapped, inner, st.sampled_from(["list", "struct"]))


@given(
    st.recursive(st.sampled_from(LEAVES), _nested, max_leaves=3),
    st.sampled_from(["text", "id", "carried"]),
    st.sampled_from(["npy", "jsonl", "parquet"]),
)
@settings(deadline=None)
def test_a_column_of_any_type_is_used_or_refused_by_name(
    column: Any, used_as: str, form: str
) -> None:
    table = pa.table({"text": pa.array(["a", "b", "c"]), "odd": column})
    columns = {
        "text": Columns("odd", carry=()),
        "id": Columns(id="odd", carry=()),
        "carried": Columns(carry=None),
    }[used_as]
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        path = Path(folder) / "in.arrow"
        with pa.ipc.new_file(str(path), table.schema) as sink:
            sink.write_table(table)
        (source,) = found([str(path)])
        told = ""
        try:
            (fragment,) = cut("in.arrow", "in", rows_of(source, columns), Limits())
            rows = without(fragment.rows, fragment.rows.faults)
            vectors = np.ones((len(rows), 2), np.float32)
            kinds = ColumnTypes(columns.id)
            kinds.observe(fragment)
            names, types = Names(columns.id, "embedding"), kinds.types()
            files = {
                name: b"".join(parts)
                for name, parts in files_of("in", form, rows, vectors, names, types)
            }
        except BulkError as error:
            told = str(error)
        if told:
            assert "odd" in told
            return
        assert fragment.digest
        assert len(rows) + len(fragment.rows.faults) == 3
        assert vectors_in(
            form, files, "embedding", np.dtype(np.float32), 2, Path(folder)
        ).shape == (
            len(rows),
            2,
        )


def _one_each(values: Any) -> dict[str, Any]:
    """Columns of two rows, each of which holds one value at some depth."""
    at, keys = pa.array([0, 1, 2], pa.int32()), pa.array(["k", "l"])
    fixed = pa.FixedSizeListArray.from_arrays(values, 1)
    return {
        "itself": values,
        "list": pa.ListArray.from_arrays(at, values),
        "large list": pa.LargeListArray.from_arrays(at.cast(pa.int64()), values),
        "list of a fixed size": fixed,
        "struct": pa.StructArray.from_arrays([values], ["field"]),
        "map to it": pa.MapArray.from_arrays(at, keys, values),
        "map from it": pa.MapArray.from_arrays(at, values, keys),
        "list of structs": pa.ListArray.from_arrays(
            at, pa.StructArray.from_arrays([fixed], ["field"])
        ),
    }


@pytest.mark.parametrize("shape", _one_each(pa.array(["a", "b"])))
def test_the_digest_of_a_dictionary_is_that_of_its_values(shape: str) -> None:
    def digest(values: list[str], indices: list[int]) -> bytes:
        numbers = pa.array(indices, pa.int32())
        encoded = pa.DictionaryArray.from_arrays(numbers, pa.array(values))
        return ArrowRows(pa.table({"c": _one_each(encoded)[shape]})).digest()

    assert digest(["a", "b"], [0, 1]) != digest(["x", "y"], [0, 1])
    assert digest(["a", "b"], [0, 1]) == digest(["b", "a", "unused"], [1, 0])


@pytest.mark.parametrize("shape", _one_each(pa.array(["a", "b"])))
def test_bytes_are_base64_in_json_at_any_depth_and_in_ids(tmp_path: Path, shape: str) -> None:
    column = _one_each(pa.array([b"\xff\xfe", b"text"]))[shape]
    table = pa.table({"text": pa.array(["a", "b"]), "odd": column})
    with pa.ipc.new_file(str(tmp_path / "in.arrow"), table.schema) as sink:
        sink.write_table(table)
    (source,) = found([str(tmp_path / "in.arrow")])
    (rows,) = rows_of(source, Columns(id="odd" if shape == "itself" else None, carry=None))
    names = Names("id", "embedding")
    files = dict(files_of("in", "jsonl", rows, np.ones((2, 2), np.float32), names, {}))
    first, second = b"".join(files["in.jsonl"]).splitlines()
    for line, expected in ((first, b"//4="), (second, b"dGV4dA==")):
        assert line.count(b'"%b"' % expected) == (2 if shape == "itself" else 1)


async def test_times_in_nanoseconds_as_pandas_writes_them_become_text_in_json(
    tmp_path: Path,
) -> None:
    table = pa.table({"text": ["a"], "at": pa.array([1], pa.timestamp("ns"))})
    source, out = written(tmp_path / "in.parquet", table), tmp_path / "out"
    await ran(job(source, format="jsonl"), out, RevealingClient())
    assert json.loads((out / "in-00000.jsonl").read_text())["at"] == "1970-01-01 00:00:00.000000001"


async def test_bad_cells_of_parquet_cost_their_rows_alone(tmp_path: Path) -> None:
    binary = pa.array([b"a", b"\xff", b"c", b"d"])
    table = pa.table(
        {
            "meta": pa.StructArray.from_arrays([binary.view(pa.string())], names=["text"]),
            "id": pa.array([1, 2, None, 4]),
        }
    )
    source, out = written(tmp_path / "in.parquet", table), tmp_path / "out"
    await ran(job(source, columns=Columns("meta.text", "id", ())), out, RevealingClient())
    errors = [json.loads(line) for line in (out / "_errors.jsonl").read_text().splitlines()]
    assert {each["row"]: each["code"] for each in errors} == {1: "invalid_utf8", 2: "missing_id"}
    assert np.load(out / "in-00000.ids.npy").tolist() == [1, 4]
