"""Whatever ends a run, the next one goes on, and the result is that of a run that nothing ended."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from embedfleet.bulk.columns import Columns
from embedfleet.bulk.errors import BulkError
from embedfleet.client import AnswerError, EmbedOptions
from embedfleet.runtime.folders import LocalStore, StoreError
from tests.bulk.making import (
    IN_MEMORY,
    FailingStore,
    KilledError,
    RevealingClient,
    job,
    json_lines,
    ran,
    tree,
    vectors_by_text,
)
from tests.fakes.revealing_service import vector_of

ROWS: list[dict[str, Any]] = [
    *({"text": f"text {n % 11}", "id": n} for n in range(17)),
    {"text": "", "id": "empty"},
    {"id": "none"},
    {"text": "refused", "id": 19},
    *({"text": f"other {n}", "id": n} for n in range(5)),
]
REFUSED = ["refused"]
DISTINCT = {row["text"] for row in ROWS if row.get("text")} - {"refused"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return json_lines(tmp_path / "in.jsonl", ROWS)


async def test_every_row_has_its_vector_or_its_error(source: Path, tmp_path: Path) -> None:
    client, out = RevealingClient(REFUSED), tmp_path / "out"
    progress = await ran(job(source, format="jsonl"), out, client)
    found = vectors_by_text(out)
    assert found.keys() == DISTINCT
    assert all(np.array_equal(row, vector_of(text)) for text, row in found.items())
    assert client.computed == dict.fromkeys(DISTINCT, 1)
    errors = [json.loads(line) for line in (out / "_errors.jsonl").read_text().splitlines()]
    assert [(error["row"], error["code"]) for error in errors] == [
        (17, "empty_string"),
        (18, "missing_text"),
        (19, "context_length_exceeded"),
    ]
    manifest = json.loads((out / "_manifest.json").read_text())
    assert (manifest["rows"], manifest["vectors"], manifest["errors"]) == (25, 22, 3)
    assert (progress.rows, progress.done, progress.errors) == (25, 25, 3)
    assert progress.computed == len(DISTINCT) + 1


async def test_a_second_run_of_the_same_changes_nothing_and_computes_nothing(
    source: Path, tmp_path: Path
) -> None:
    client, out = RevealingClient(REFUSED), tmp_path / "out"
    await ran(job(source), out, client)
    before = tree(out)
    client.computed.clear()
    await ran(job(source), out, client)
    assert tree(out) == before
    assert not client.computed


async def undisturbed(source: Path, out: Path, **options: Any) -> dict[str, bytes]:
    await ran(job(source, **options), out, RevealingClient(REFUSED))
    return tree(out)


@pytest.mark.parametrize("how", ["before", "torn", "after", "full"])
async def test_an_end_at_any_operation_on_files_costs_nothing(
    how: str, source: Path, tmp_path: Path
) -> None:
    expected = await undisturbed(source, tmp_path / "whole")
    for at in itertools.count():
        out, client = tmp_path / f"{how}-{at}", RevealingClient(REFUSED)
        store = FailingStore(out, at, how)
        try:
            await ran(job(source), out, client, store)
        except (KilledError, BulkError):
            assert not (out / "_manifest.json").exists() or how == "after"
            await ran(job(source), out, client)
        assert tree(out) == expected, f"operation {at}"
        assert client.computed == dict.fromkeys(DISTINCT, 1)
        if not store.failed:
            break
    assert at > 20


@given(
    texts=st.lists(st.sampled_from(["a", "b", "c", "d", "", "refused", "é" * 9]), max_size=25),
    rows=st.integers(1, 6),
    ends=st.lists(st.tuples(st.integers(0, 40), st.sampled_from(["before", "torn", "after"]))),
    format_=st.sampled_from(["npy", "jsonl"]),
    dtype=st.sampled_from(["float32", "float16", "int8", "ubinary"]),
)
@settings(max_examples=40, deadline=None)
def test_any_number_of_ends_leaves_the_result_of_none(
    texts: list[str], rows: int, ends: list[tuple[int, str]], format_: str, dtype: str
) -> None:
    if not any(texts):
        texts = [*texts, "a"]

    async def check(folder: Path) -> None:
        source = json_lines(folder / "in.jsonl", [{"text": text} for text in texts])
        wanted = job(source, fragment_rows=rows, format=format_, dtype=dtype)
        await ran(wanted, folder / "whole", RevealingClient(REFUSED))
        client = RevealingClient(REFUSED)
        for at, how in ends:
            store = FailingStore(folder / "out", at, how)
            try:
                await ran(wanted, folder / "out", client, store)
            except KilledError:
                continue
        await ran(wanted, folder / "out", client)
        assert tree(folder / "out") == tree(folder / "whole")
        assert set(client.computed.values()) <= {1}

    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        asyncio.run(check(Path(folder)))


@given(
    before=st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=20),
    after=st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=20),
    rows=st.integers(1, 5),
    ends=st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["before", "after"])), max_size=3),
)
@settings(max_examples=40, deadline=None)
def test_an_update_computes_what_is_new_and_gives_what_a_new_output_would_have(
    before: list[str], after: list[str], rows: int, ends: list[tuple[int, str]]
) -> None:
    async def check(folder: Path) -> None:
        source = json_lines(folder / "in.jsonl", [{"text": text} for text in before])
        client, out = RevealingClient(), folder / "out"
        await ran(job(source, fragment_rows=rows), out, client)
        json_lines(source, [{"text": text} for text in after])
        client.computed.clear()
        wanted = job(source, fragment_rows=rows, update=True)
        for at, how in ends:
            try:
                await ran(wanted, out, client, FailingStore(out, at, how))
            except KilledError:
                continue
        await ran(wanted, out, client)
        assert client.computed.keys() == set(after) - set(before)
        assert set(client.computed.values()) <= {1}
        await ran(job(source, fragment_rows=rows), folder / "new", RevealingClient())
        assert tree(out) == tree(folder / "new")

    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        asyncio.run(check(Path(folder)))


async def test_rows_that_changed_are_refused_unless_they_are_to_be_updated(
    source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    await ran(job(source), out, RevealingClient(REFUSED))
    before = tree(out)
    json_lines(source, [{"text": "new"}, *ROWS[1:]])
    with pytest.raises(BulkError, match=r"1 of its fragments changed .*--update"):
        await ran(job(source), out, RevealingClient(REFUSED))
    assert tree(out) == before


async def test_files_that_left_the_input_leave_the_output_too(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    json_lines(folder / "a.jsonl", [{"text": "a"}])
    json_lines(folder / "b" / "b.jsonl", [{"text": "b"}])
    await ran(job(folder), out, RevealingClient())
    assert (out / "b-b-00000.npy").exists()
    (folder / "b" / "b.jsonl").unlink()
    await ran(job(folder, update=True), out, RevealingClient())
    assert not (out / "b-b-00000.npy").exists()
    assert json.loads((out / "_manifest.json").read_text())["rows"] == 1


async def test_rows_that_failed_are_tried_again_alone(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    await ran(job(source), out, RevealingClient(REFUSED))
    client = RevealingClient()
    await ran(job(source), out, client)
    assert not client.computed
    await ran(job(source, retry_errors=True), out, client)
    assert client.computed == {"refused": 1}
    await ran(job(source), tmp_path / "new", RevealingClient())
    assert tree(out) == tree(tmp_path / "new")


async def test_an_output_that_was_damaged_is_mended(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    expected = await undisturbed(source, out)
    (out / "in-00001.npy").unlink()
    (out / "in-00002.npy").write_bytes(b"short")
    await ran(job(source), out, RevealingClient(REFUSED))
    assert tree(out) == expected


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"dtype": "float16"}, "dtype is 'float32', now 'float16'"),
        ({"format": "jsonl"}, "format is 'npy', now 'jsonl'"),
        ({"dtype": "int8"}, "dtype is 'float32', now 'int8'"),
        ({"options": EmbedOptions(8)}, "dimensions is 16, now 8"),
        ({"options": EmbedOptions(input_type="query")}, "input_type is none, now 'query'"),
        ({"columns": Columns(id="id")}, "id is none, now 'id'"),
    ],
)
async def test_an_output_of_another_kind_is_not_gone_on_with(
    change: dict[str, Any], complaint: str, source: Path, tmp_path: Path
) -> None:
    await ran(job(source), tmp_path / "out", RevealingClient(REFUSED))
    with pytest.raises(BulkError, match=complaint):
        await ran(job(source, **change), tmp_path / "out", RevealingClient(REFUSED))


async def test_another_model_of_the_same_name_is_noticed(source: Path, tmp_path: Path) -> None:
    await ran(job(source), tmp_path / "out", RevealingClient(REFUSED))
    with pytest.raises(BulkError, match="another model of the same name"):
        await ran(job(source), tmp_path / "out", RevealingClient(REFUSED, salt="x"))


async def test_a_folder_that_holds_something_else_is_left_alone(
    source: Path, tmp_path: Path
) -> None:
    out, client = tmp_path / "out", RevealingClient()
    for name in ("thesis.pdf", "photos/summer.jpg", "x/.y.0123abcd.tmp"):
        (out / name).parent.mkdir(parents=True)
        (out / name).write_bytes(b"")
        before = tree(out)
        with pytest.raises(BulkError, match=r"is not empty .* it holds (thesis|photos/|x/)"):
            await ran(job(source), out, client)
        assert tree(out) == before
        assert not list(out.glob("_ledger*"))
        shutil.rmtree(out)
    assert not client.computed


async def test_what_a_folder_holds_before_anybody_writes_there_is_no_reason_to_refuse_it(
    source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (out / "lost+found").mkdir(parents=True)
    (out / ".gitignore").write_bytes(b"*")
    await ran(job(source), out, RevealingClient(REFUSED))
    assert (out / ".gitignore").read_bytes() == b"*"


async def test_two_runs_do_not_write_at_one_place(source: Path, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "out")
    with pytest.raises(StoreError, match="another process is writing there"):
        await ran(job(source), tmp_path / "out", RevealingClient())
    store.close()
    await ran(job(source), tmp_path / "out", RevealingClient(REFUSED))


async def test_a_corpus_without_the_column_of_texts_is_refused_first(tmp_path: Path) -> None:
    source = json_lines(tmp_path / "in.jsonl", [{"title": "t", "body": "a"}])
    said = "no row has a text: is `text` the column .* the first row has: body, title"
    with pytest.raises(BulkError, match=said):
        await ran(job(source), tmp_path / "out", RevealingClient())


async def test_a_corpus_without_the_id_column_is_refused_with_its_name(tmp_path: Path) -> None:
    source = json_lines(tmp_path / "in.jsonl", [{"text": "a"}, {"text": "b"}])
    asked = job(source, columns=Columns(id="key"))
    with pytest.raises(BulkError, match="`key` is neither a string nor a whole number"):
        await ran(asked, tmp_path / "out", RevealingClient())


async def test_vectors_take_the_name_of_no_other_column(tmp_path: Path) -> None:
    source = json_lines(tmp_path / "in.jsonl", [{"text": "a", "embedding": 1}])
    with pytest.raises(BulkError, match="has a column embedding already"):
        await ran(job(source, format="jsonl"), tmp_path / "out", RevealingClient())
    source = json_lines(tmp_path / "rows.jsonl", [{"text": "a", "row": 1}])
    with pytest.raises(BulkError, match="has a column row already"):
        await ran(job(source, format="jsonl"), tmp_path / "out", RevealingClient())
    with_id = job(source, format="jsonl", columns=Columns(id="row", carry=None))
    assert (await ran(with_id, tmp_path / "out", RevealingClient())).errors == 0


async def test_an_output_beside_its_input_is_no_input_of_the_next_run(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    json_lines(folder / "a.jsonl", [{"text": "a"}])
    wanted, client = job(folder, format="jsonl"), RevealingClient()
    for _ in range(2):
        assert (await ran(wanted, folder / "out", client)).rows == 1
    assert client.computed == {"a": 1}


async def test_fields_that_no_row_has_and_dimensions_that_no_vector_has_are_refused_first(
    source: Path, tmp_path: Path
) -> None:
    wanted = job(source, format="jsonl", columns=Columns(carry=("id", "absent")))
    with pytest.raises(BulkError, match="no row has a field absent"):
        await ran(wanted, tmp_path / "out", RevealingClient())

    class Ignoring(RevealingClient):
        async def embed(self, text: str, **_: object) -> NDArray[np.float32]:
            return await super().embed(text)

    wanted = job(source, options=EmbedOptions(dimensions=8))
    with pytest.raises(BulkError, match="answers vectors of 16 dimensions where 8 are asked for"):
        await ran(wanted, tmp_path / "out", Ignoring())
    assert not [name for name in tree(tmp_path / "out") if "-" in name]


class Growing(RevealingClient):
    """A service that answers longer vectors from its second call on."""

    async def embed_each(self, texts: Any, options: Any = None, **more: Any) -> Any:
        found = await super().embed_each(texts, options, arrived=None)
        if len(self.computed) > len(texts):
            return replace(found, vectors=np.tile(found.vectors, 2))
        return found


async def test_vectors_of_another_length_end_the_run_and_what_was_computed_stays(
    source: Path, tmp_path: Path
) -> None:
    with pytest.raises(AnswerError, match="it serves another model"):
        await ran(job(source), tmp_path / "out", Growing())
    client = RevealingClient()
    await ran(job(source), tmp_path / "out", client)
    await ran(job(source), tmp_path / "whole", RevealingClient())
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


async def test_ids_and_vectors_lie_beside_each_other(tmp_path: Path) -> None:
    source = json_lines(tmp_path / "in.jsonl", [{"text": "a", "k": "x"}, {"text": "b", "k": 2}])
    out = tmp_path / "out"
    await ran(job(source, columns=Columns(id="k"), dtype="float16"), out, RevealingClient())
    assert np.load(out / "in-00000.ids.npy").tolist() == ["x", "2"]
    found = np.load(out / "in-00000.npy")
    assert found.dtype == np.float16
    assert np.array_equal(found[1], vector_of("b").astype(np.float16))


async def test_another_space_is_noticed_and_a_missing_one_is_ignored(
    source: Path, tmp_path: Path
) -> None:
    clients = [RevealingClient(REFUSED) for _ in range(4)]
    for client, space in zip(clients, [None, "a", "a", "b"], strict=True):
        client.space = space
    for number, out in enumerate(["told", "untold"]):
        await ran(job(source), tmp_path / out, clients[1 - number])
    await ran(job(source), tmp_path / "told", clients[2])
    await ran(job(source), tmp_path / "untold", clients[2])
    with pytest.raises(BulkError, match="fingerprint is 'a', now 'b'"):
        await ran(job(source), tmp_path / "told", clients[3])
