"""The forms of the service lie in files as a client of it has them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from embedfleet import Client
from embedfleet.api.formats.vector_forms import rounded
from embedfleet.bulk import dtypes
from embedfleet.bulk.embedding import Embedding
from embedfleet.bulk.errors import BulkError
from embedfleet.cli.command_line import app
from embedfleet.client import EmbedOptions
from tests.bulk.making import json_lines
from tests.contract.computed_in_place import answering

TEXTS = [f"the river {n} runs to the sea" for n in range(20)]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with answering(tmp_path_factory.mktemp("model"), reranker=True) as found:
        yield found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return json_lines(tmp_path / "in.jsonl", [{"text": text} for text in TEXTS])


def bulk(*words: object) -> Result:
    return CliRunner().invoke(app, ["bulk", *map(str, words)])


@pytest.mark.parametrize("dtype", list(dtypes.DTYPES))
def test_files_hold_what_the_service_answers(
    dtype: str, url: str, source: Path, tmp_path: Path
) -> None:
    words = ("--url", url, "--dimensions", 32, "--output-dtype", dtype)
    done = bulk(source, tmp_path / "npy", *words, "--fragment-rows", 7)
    assert done.exit_code == 0, done.output
    options = EmbedOptions(dimensions=32, output_dtype=dtype)  # type: ignore[arg-type]
    with Client(url) as client:
        expected = client.embed_each(TEXTS, options)
    parts = [np.load(tmp_path / "npy" / f"in-0000{n}.npy") for n in range(3)]
    found = np.concatenate(parts)
    assert found.dtype == dtypes.DTYPES[dtype]
    assert np.array_equal(found, expected.vectors)
    manifest = json.loads((tmp_path / "npy" / "_manifest.json").read_text())
    assert manifest["space"]["scale"] == expected.scale
    assert manifest["space"]["dimensions"] == 32
    checked = bulk("verify", source, tmp_path / "npy", "--url", url)
    assert checked.exit_code == 0, checked.output
    assert bulk(source, tmp_path / "lines", *words, "--format", "jsonl").exit_code == 0
    lines = (tmp_path / "lines" / "in-00000.jsonl").read_text().splitlines()
    rows = [json.loads(line)["embedding"] for line in lines]
    assert np.array_equal(np.array(rows, found.dtype), found)


def test_dimensions_that_fill_no_bytes_are_refused_before_anything_is_written(
    url: str, source: Path, tmp_path: Path
) -> None:
    done = bulk(source, tmp_path / "out", "--url", url, "--dimensions", 33, "--dtype", "binary")
    assert done.exit_code == 1
    assert "multiple of 8" in done.stderr
    assert not any((tmp_path / "out").glob("*.npy"))


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 3.0), st.sampled_from(list(dtypes.DTYPES)))
def test_the_cosine_of_rounded_rows_is_about_that_of_the_vectors(
    seed: int, noise: float, dtype: str
) -> None:
    rng = np.random.default_rng(seed)
    one = rng.standard_normal((3, 1024)).astype(np.float32)
    other = (one + noise * rng.standard_normal((3, 1024))).astype(np.float32)
    one, other = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in (one, other))
    expected = np.sum(one * other, axis=1)
    rows: Any = [rounded(m, dtype) for m in (one, other)]  # type: ignore[arg-type]
    found = dtypes.cosines(dtype, *rows)
    assert np.abs(found - expected).max() < (0.3 if "binary" in dtype else 0.02)
    assert (dtypes.cosines(dtype, rows[0], rows[0]) > 0.999).all()


def test_an_adapter_is_refused_with_what_can_be_done() -> None:
    assert Embedding("http://x", 640, dtype="ubinary").columns == 80
    with pytest.raises(BulkError, match="it must be one of float32"):
        Embedding("http://x", 640, dtype="int4")
    with pytest.raises(BulkError, match="Spark takes vectors of float32"):
        Embedding("http://x", 640, dtype="int8").only_floats("Spark")
