"""Verifies an output against its ledger, and samples of it against the service."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from embedfleet.bulk import dtypes, ledger
from embedfleet.bulk.columns import Columns
from embedfleet.bulk.errors import BulkError
from embedfleet.bulk.fragments import Fragment, Limits, cut, hash_of
from embedfleet.bulk.ledger import Manifest, Record, Run
from embedfleet.bulk.output_folder import read_fragment
from embedfleet.bulk.reading import rows_of
from embedfleet.bulk.sources import found
from embedfleet.client import AsyncClient, EmbedOptions
from embedfleet.runtime.folders import Store


@dataclass(frozen=True, slots=True)
class Finding:
    """The result for a fragment; an empty complaint if nothing is wrong."""

    fragment: str
    complaint: str = ""
    checked: int = 0
    """Vectors that were recomputed."""
    least_cosine: float = 1.0
    """Between those and the output's."""


async def verify(
    inputs: Sequence[str],
    store: Store,
    client: AsyncClient,
    *,
    sample: int,
    rng: Random,
    input_format: str | None = None,
) -> list[Finding]:
    """Check the files of each fragment, and recompute `sample` of its vectors.

    Raises BulkError if there is no complete output, and the client's errors.
    """
    try:
        run = msgspec.json.decode(store.read(ledger.RUN), type=Run)
        manifest = msgspec.json.decode(store.read(ledger.MANIFEST), type=Manifest)
    except FileNotFoundError as error:
        raise BulkError(
            f"{store.address} holds no complete output: {Path(str(error.filename)).name} is missing"
        ) from error
    client.model = run.space.model
    await client.served_model()
    left = {entry.fragment: entry for entry in manifest.fragments}
    findings = []
    with tempfile.TemporaryDirectory(prefix="embedfleet-") as scratch:
        for fragment in _fragments(inputs, run, input_format, store.address):
            if left.pop(fragment.name, None) is None:
                findings.append(Finding(fragment.name, "its rows are new in the input"))
                continue
            data = store.read(ledger.record_name(fragment.name))
            record = msgspec.json.decode(data, type=Record)
            read = read_fragment(store, record, run, Path(scratch))
            findings.append(await _verified(fragment, record, run, read, client, sample, rng))
    findings += [Finding(name, "its rows are no longer in the input") for name in left]
    return findings


async def _verified(
    fragment: Fragment,
    record: Record,
    run: Run,
    read: tuple[list[bytes], NDArray[Any]] | None,
    client: AsyncClient,
    sample: int,
    rng: Random,
) -> Finding:
    if read is None:
        return Finding(fragment.name, "its files are missing, or not what was written")
    if ledger.digest_of(fragment.digest, record.types) != record.digest:
        return Finding(fragment.name, "its rows changed in the input")
    hashes, vectors = read
    texts = {hash_of(text): text for text in fragment.rows.texts if text is not None}
    places = sorted(rng.sample(range(len(hashes)), min(sample, len(hashes))))
    space = run.space
    options = EmbedOptions(
        space.dimensions,
        space.input_type,
        space.instruction,
        space.truncate,
        dtypes.asked_of_service(space.dtype),
    )
    again = await client.embed_each([texts[hashes[at]] for at in places], options)
    if again.errors:
        return Finding(fragment.name, "texts that had a vector are refused now", len(places))
    if not places:
        return Finding(fragment.name)
    if again.scale != space.scale:
        told = f"integers are of the scale {space.scale}, and {again.scale} now"
        return Finding(fragment.name, told, len(places))
    least = float(np.min(dtypes.cosines(space.dtype, vectors[places], again.vectors)))
    complaint = "" if least >= ledger.LEAST_COSINE else "its vectors are of another space"
    return Finding(fragment.name, complaint, len(places), least)


def _fragments(
    inputs: Sequence[str], run: Run, input_format: str | None, output: str
) -> Iterator[Fragment]:
    form = run.form
    columns = Columns(form.text, form.id, form.carry)
    for source in found(inputs, input_format, output):
        rows = rows_of(source, columns)
        yield from cut(source.name, source.stem, rows, Limits(form.fragment_rows))
