"""An output that is a dataset of Lance: its data files are those of an undisturbed run, byte for
byte, and its latest version lists them, whatever ended runs before.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfleet.bulk.columns import Columns
from embedfleet.bulk.errors import BulkError
from embedfleet.bulk.running import run
from embedfleet.runtime.folders import store_at
from tests.bulk.making import (
    IN_MEMORY,
    FailingStore,
    KilledError,
    RevealingClient,
    job,
    json_lines,
    ran,
    tree,
)
from tests.fakes.revealing_service import running, vector_of, vectors_of

lance = pytest.importorskip(
    "lance",
    reason="pylance (217 MB) is not installed; `make clusters` does it, where `make test-slow` "
    "runs the tests of Lance",
)
pa = pytest.importorskip("pyarrow", reason="the extra `bulk` is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="the extra `bulk` is not installed")

REFUSED = ["refused"]
ROWS: list[dict[str, Any]] = [
    *({"text": f"text {n % 7}", "id": n} for n in range(9)),
    *({"text": "refused", "id": n} for n in range(9, 12)),
    {"text": "", "id": 12},
    *({"text": f"other {n}", "id": n, "note": None if n % 2 else "é" * n} for n in range(13, 18)),
]
DISTINCT = {row["text"] for row in ROWS} - {"refused", ""}


def lasting(out: Path) -> dict[str, bytes]:
    """All but the versions of a dataset, in which the time is written."""
    return {name: data for name, data in tree(out).items() if name[:2] not in {"_v", "_t"}}


def versions(out: Path) -> list[int]:
    return [each["version"] for each in lance.dataset(str(out)).versions()]


def check_same(out: Path, whole: Path) -> None:
    assert lasting(out) == lasting(whole)
    found, expected = lance.dataset(str(out)), lance.dataset(str(whole))
    assert found.schema == expected.schema
    assert found.to_table().equals(expected.to_table())
    assert len(versions(out)) == 1
    assert len(list((out / "_transactions").iterdir())) == 1
    listed = {f"data/{one.path}" for each in found.get_fragments() for one in each.data_files()}
    assert listed == {name for name in tree(out) if name.startswith("data/")}


async def test_columns_keep_their_types_and_vectors_are_lists_of_a_fixed_size(
    tmp_path: Path,
) -> None:
    rng = Random(1)
    words = [f"word{n}" for n in range(500)]
    count = 3000
    texts = [f"{n} {' '.join(rng.choices(words, k=rng.randint(1, 40)))}" for n in range(count)]
    table = pa.table(
        {
            "key": pa.array(range(count), pa.int32()),
            "text": pa.array(texts, pa.large_string()),
            "class": pa.array([f"class {n % 7}" for n in range(count)]),
            "when": pa.array(range(count), pa.timestamp("us", "UTC")),
            "tags": pa.array([rng.choices(words, k=3) if n % 4 else None for n in range(count)]),
            "deep": pa.array([{"a": n, "b": [texts[n]]} if n % 5 else None for n in range(count)]),
            "pairs": pa.array(
                [[(texts[n], n)] for n in range(count)], pa.map_(pa.string(), pa.int64())
            ),
        }
    )
    source = tmp_path / "in.parquet"
    pq.write_table(table, source)
    for out in ("one", "another"):
        wanted = job(
            source, format="lance", fragment_rows=1000, columns=Columns(id="key", carry=None)
        )
        await ran(wanted, tmp_path / out, RevealingClient())
    check_same(tmp_path / "one", tmp_path / "another")
    dataset = lance.dataset(str(tmp_path / "one"))
    assert dataset.to_table().drop_columns("embedding").equals(table)
    kind = dataset.schema.field("embedding").type
    assert kind == pa.list_(pa.float32(), 16)
    assert not dataset.schema.field("text").metadata
    found = dataset.to_table()["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, 16)
    assert np.array_equal(found, vectors_of(texts))
    before = tree(tmp_path / "one")
    await ran(wanted, tmp_path / "one", (client := RevealingClient()))
    assert not client.computed
    assert tree(tmp_path / "one") == before


@pytest.mark.parametrize(
    ("dtype", "number", "width"),
    [
        ("float32", "float", 16),
        ("float16", "halffloat", 16),
        ("int8", "int8", 16),
        ("uint8", "uint8", 16),
        ("binary", "int8", 2),
        ("ubinary", "uint8", 2),
    ],
)
async def test_neighbours_of_every_dtype_are_found(
    dtype: str, number: str, width: int, tmp_path: Path
) -> None:
    source, out = json_lines(tmp_path / "in.jsonl", ROWS), tmp_path / "out"
    await ran(job(source, format="lance", dtype=dtype), out, RevealingClient(REFUSED))
    dataset = lance.dataset(str(out))
    assert (
        str(dataset.schema.field("embedding").type) == f"fixed_size_list<item: {number}>[{width}]"
    )
    rows = dataset.to_table().to_pylist()
    query = np.array(
        rows[3]["embedding"], dataset.schema.field("embedding").type.value_type.to_pandas_dtype()
    )
    if dtype in {"float32", "float16", "ubinary"}:
        metric = "hamming" if dtype == "ubinary" else "cosine"
        nearest = {"column": "embedding", "q": query, "k": 1, "metric": metric}
        assert dataset.to_table(nearest=nearest)["text"].to_pylist() == [rows[3]["text"]]


@pytest.mark.parametrize("how", ["before", "torn", "after", "full"])
async def test_an_end_at_any_operation_on_files_costs_nothing(how: str, tmp_path: Path) -> None:
    source = json_lines(tmp_path / "in.jsonl", ROWS)
    wanted = job(source, format="lance", fragment_rows=3)
    await ran(wanted, tmp_path / "whole", RevealingClient(REFUSED))
    for at in itertools.count():
        out, client = tmp_path / f"{how}-{at}", RevealingClient(REFUSED)
        store = FailingStore(out, at, how)
        try:
            await ran(wanted, out, client, store)
        except (KilledError, BulkError):
            await ran(wanted, out, client)
        check_same(out, tmp_path / "whole")
        assert client.computed == dict.fromkeys(DISTINCT, 1)
        if not store.failed:
            break
    assert at > 20


@given(
    before=st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=12),
    after=st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=12),
    rows=st.integers(1, 5),
    ends=st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["before", "after"])), max_size=3),
)
@settings(max_examples=15, deadline=None)
def test_an_update_gives_what_a_new_output_would_have_and_readers_see_one_of_the_two(
    before: list[str], after: list[str], rows: int, ends: list[tuple[int, str]]
) -> None:
    async def check(folder: Path) -> None:
        source = json_lines(folder / "in.jsonl", [{"text": text} for text in before])
        client, out = RevealingClient(), folder / "out"
        options: dict[str, Any] = {"format": "lance", "fragment_rows": rows}
        await ran(job(source, **options), out, client)
        json_lines(source, [{"text": text} for text in after])
        client.computed.clear()
        wanted = job(source, **options, update=True)
        for at, how in ends:
            try:
                await ran(wanted, out, client, FailingStore(out, at, how))
            except KilledError:
                texts = lance.dataset(str(out)).to_table()["text"].to_pylist()
                assert texts in (before, after)
        await ran(wanted, out, client)
        assert client.computed.keys() == set(after) - set(before)
        assert set(client.computed.values()) <= {1}
        await ran(job(source, **options), folder / "new", RevealingClient())
        check_same(out, folder / "new")

    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        asyncio.run(check(Path(folder)))


async def test_rows_that_failed_are_tried_again_and_damaged_files_are_mended(
    tmp_path: Path,
) -> None:
    source, out = json_lines(tmp_path / "in.jsonl", ROWS), tmp_path / "out"
    wanted = job(source, format="lance", fragment_rows=3)
    await ran(wanted, out, RevealingClient(REFUSED))
    assert lance.dataset(str(out)).count_rows() == 14
    for each in sorted((out / "data").iterdir())[:2]:
        each.write_bytes(b"short")
    await ran(wanted, out, (client := RevealingClient()))
    assert not client.computed.keys() & {"refused"}
    again = job(source, format="lance", fragment_rows=3, retry_errors=True)
    await ran(again, out, (client := RevealingClient()))
    assert client.computed == {"refused": 1}
    await ran(wanted, tmp_path / "new", RevealingClient())
    check_same(out, tmp_path / "new")


async def test_a_corpus_that_is_refused_whole_is_a_dataset_without_rows(tmp_path: Path) -> None:
    source = json_lines(tmp_path / "in.jsonl", [{"text": "refused"}])
    await ran(job(source, format="lance"), tmp_path / "out", RevealingClient(REFUSED))
    dataset = lance.dataset(str(tmp_path / "out"))
    assert dataset.count_rows() == 0
    assert dataset.schema.names == ["row", "text", "embedding"]


async def test_an_index_outlives_a_run_that_changes_nothing(tmp_path: Path) -> None:
    source = json_lines(tmp_path / "in.jsonl", [{"text": f"text {n}"} for n in range(300)])
    out, wanted = tmp_path / "out", job(source, format="lance", fragment_rows=100)
    await ran(wanted, out, RevealingClient())
    dataset = lance.dataset(str(out))
    dataset.create_index("embedding", "IVF_FLAT", num_partitions=2, metric="cosine")
    before = tree(out)
    await ran(wanted, out, RevealingClient())
    assert tree(out) == before
    nearest = {"column": "embedding", "q": vector_of("text 7"), "k": 1}
    found = lance.dataset(str(out)).to_table(nearest=nearest, columns=["text"])
    assert found["text"].to_pylist() == ["text 7"]
    json_lines(source, [{"text": f"text {n}"} for n in range(150)])
    await ran(job(source, format="lance", fragment_rows=100, update=True), out, RevealingClient())
    assert lance.dataset(str(out)).describe_indices() == []
    assert lance.dataset(str(out)).count_rows() == 150


async def test_versions_that_have_a_tag_are_not_taken_away(tmp_path: Path) -> None:
    source, out = json_lines(tmp_path / "in.jsonl", ROWS), tmp_path / "out"
    await ran(job(source, format="lance"), out, RevealingClient(REFUSED))
    dataset = lance.dataset(str(out))
    dataset.tags.create("published", dataset.version)
    json_lines(source, ROWS[1:])
    before = tree(out)
    wanted = job(source, format="lance", update=True)
    with pytest.raises(BulkError, match=r"has tags or branches of Lance \(published\)"):
        await ran(wanted, out, RevealingClient(REFUSED))
    assert tree(out) == before
    dataset.tags.delete("published")
    await ran(wanted, out, RevealingClient(REFUSED))
    assert lance.dataset(str(out)).count_rows() == 13


@pytest.mark.parametrize(
    ("column", "told"), [("a.b", r"field a\.b cannot contain"), ("_rowid", "reserved name")]
)
async def test_columns_that_lance_can_not_hold_are_reported_before_anything_is_computed(
    column: str, told: str, tmp_path: Path
) -> None:
    source = json_lines(tmp_path / "in.jsonl", [{"text": "a", column: 1}])
    client = RevealingClient()
    with pytest.raises(BulkError, match=told) as raised:
        await ran(job(source, format="lance"), tmp_path / "out", client)
    assert "rust" not in str(raised.value)
    assert not client.computed
    assert tree(tmp_path / "out") == {}


async def test_files_with_other_columns_are_reported_before_anything_is_computed(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    pq.write_table(pa.table({"text": ["a"], "n": pa.array([1], pa.int32())}), folder / "a.parquet")
    pq.write_table(pa.table({"n": pa.array([1], pa.int64()), "text": ["b"]}), folder / "b.parquet")
    told = r"n is int32 in a\.parquet, int64 in b\.parquet; --carry chooses columns"
    client = RevealingClient()
    with pytest.raises(BulkError, match=told):
        await ran(job(folder, format="lance"), tmp_path / "out", client)
    assert not client.computed
    pq.write_table(pa.table({"n": pa.array([1], pa.int32()), "text": ["b"]}), folder / "b.parquet")
    json_lines(folder / "c.jsonl", [{"text": "c"}])
    with pytest.raises(BulkError, match=r"n is int32 in a\.parquet, absent in c\.jsonl"):
        await ran(job(folder, format="lance"), tmp_path / "out", client)
    wanted = job(folder, format="lance", columns=Columns(carry=("text",)))
    await ran(wanted, tmp_path / "out", client)
    table = lance.dataset(str(tmp_path / "out")).to_table()
    assert table["text"].to_pylist() == ["a", "b", "c"]


@pytest.mark.parametrize("carry", [(), None])
@pytest.mark.parametrize("format_", ["lance", "parquet"])
async def test_ids_are_of_one_type_in_all_files(
    format_: str, carry: tuple[str, ...] | None, tmp_path: Path
) -> None:
    rows = [{"text": f"t{n}", "k": key} for n, key in enumerate([1, 2, "x", 2**63, 5, 6])]
    source, out = json_lines(tmp_path / "in.jsonl", rows), tmp_path / "out"
    columns = Columns(id="k", carry=carry)
    await ran(job(source, format=format_, fragment_rows=2, columns=columns), out, RevealingClient())
    if format_ == "lance":
        table = lance.dataset(str(out)).to_table()
    else:
        table = pa.concat_tables([pq.read_table(each) for each in sorted(out.glob("*.parquet"))])
    expected = ["1", "2", '"x"' if carry is None else "x", str(2**63), "5", "6"]
    assert table["k"].to_pylist() == expected


async def test_a_dataset_elsewhere_is_written_by_the_driver_of_its_address(tmp_path: Path) -> None:
    source, out = json_lines(tmp_path / "in.jsonl", ROWS), tmp_path / "out"
    wanted = job(source, format="lance", fragment_rows=3)
    await ran(wanted, tmp_path / "whole", RevealingClient(REFUSED))
    store, scratch = store_at(f"local://{out}"), tmp_path / "scratch"
    for rows in (ROWS[1:], ROWS):
        json_lines(source, rows)
        client: Any = RevealingClient(REFUSED)
        wanted = job(source, format="lance", fragment_rows=3, update=True)
        await run(wanted, client, store, scratch)
    check_same(out, tmp_path / "whole")
    assert versions(out) == [2]
    assert tree(scratch) == {}


@pytest.mark.slow
def test_kills_at_any_moment_leave_the_dataset_of_an_undisturbed_run(tmp_path: Path) -> None:
    texts = [f"text {n}" for n in range(4000)]
    source = json_lines(tmp_path / "in.jsonl", [{"text": text} for text in [*texts, *texts[::9]]])
    words = ["--format", "lance", "--fragment-rows", "50"]

    def begun(out: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "embedfleet", "bulk", str(source), str(out)]
        return subprocess.Popen([*command, "--url", service.url, *words], stdout=subprocess.DEVNULL)

    with running() as service:
        assert begun(tmp_path / "whole").wait(300) == 0
        share = len(service.headers) // 10
        rng, killed, out = Random(2), 0, tmp_path / "out"
        while True:
            process, known = begun(out), len(service.headers)
            enough = known + rng.randint(1, max(1, share))
            deadline = time.monotonic() + 300
            while process.poll() is None and len(service.headers) < enough:
                assert time.monotonic() < deadline
                time.sleep(0.005)
            if killed == 6 or process.poll() is not None:
                break
            time.sleep(rng.random() / 50)  # any moment will do
            process.kill()
            process.wait(60)
            killed += 1
        assert process.wait(300) == 0
    check_same(out, tmp_path / "whole")
    assert killed >= 2


def test_the_query_of_the_documentation_finds_what_was_asked(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "bulk.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(import lance\n.*?)```", page, re.DOTALL)
    source = json_lines(tmp_path / "in.jsonl", [{"text": f"text {n}"} for n in range(300)])
    asyncio.run(ran(job(source, format="lance"), tmp_path / "vectors", RevealingClient()))

    class Client:
        def embed(self, text: str, **_: object) -> Any:
            return vector_of("text 5")

    code = re.sub(r"from embedfleet import Client\n", "", code)
    code = code.replace('"vectors"', repr(str(tmp_path / "vectors")))
    found: dict[str, Any] = {"Client": lambda *_: Client()}
    exec(compile(code, "bulk.md", "exec"), found)  # noqa: S102  our own page
    assert found["found"]["text"].to_pylist()[0] == "text 5"
