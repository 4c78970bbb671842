"""Runs a bulk job: scans the input, computes missing vectors, publishes fragment by fragment."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from embedfleet.bulk import ledger
from embedfleet.bulk.columns import Columns, ColumnTypes, Types, refuse_names
from embedfleet.bulk.computing import Computed, Computing
from embedfleet.bulk.dtypes import asked_of_service
from embedfleet.bulk.duplicates import Duplicates, duplicates_in
from embedfleet.bulk.errors import BulkError
from embedfleet.bulk.fragments import (
    NO_HASH,
    Carried,
    Fault,
    Fragment,
    Limits,
    cut,
)
from embedfleet.bulk.journal import FragmentLog
from embedfleet.bulk.ledger import Form, Planned, Run, Space, Work
from embedfleet.bulk.output_folder import OutputFolder, begun_run
from embedfleet.bulk.reading import of_every_row, rows_of
from embedfleet.bulk.sources import Source, found
from embedfleet.bulk.writing import TYPED
from embedfleet.client import AsyncClient, EmbedOptions
from embedfleet.runtime.background import BoundedTasks
from embedfleet.runtime.folders import Store
from embedfleet.runtime.text_files import reason

if TYPE_CHECKING:
    from embedfleet.bulk.lance_dataset import LanceOutput

PROBE = "embedfleet: does this service compute what it computed before?"
FRAGMENTS_AT_ONCE = 2
"""One is computed while the next is read and the previous one is written."""


@dataclass(frozen=True, slots=True)
class Job:
    """The options of a run."""

    inputs: Sequence[str]
    columns: Columns
    options: EmbedOptions = field(default_factory=EmbedOptions)
    format: str = "npy"
    dtype: str = "float32"
    vector: str = "embedding"
    fragment_rows: int | None = None
    input_format: str | None = None
    update: bool = False
    retry_errors: bool = False

    @property
    def asked(self) -> EmbedOptions:
        """The parameters of every request."""
        return replace(self.options, output_dtype=asked_of_service(self.dtype))


@dataclass(frozen=True, slots=True)
class Survey:
    """What the scan of the input found."""

    planned: list[Planned]
    duplicates: Duplicates
    rows: int
    faults: int
    text_bytes: int
    sample: list[str]
    """Some texts, to estimate tokens from."""
    types: Types
    carried: Sequence[tuple[str, Carried]]
    """Carried columns without rows, of each file where they differ from those of the files before,
    for formats of which all files have the same columns.
    """


@dataclass(slots=True)
class Progress:
    """Progress of a run."""

    reading: bool = True
    """Whether the input is still being scanned; `rows` are those that were seen so far."""
    rows: int = 0
    done: int = 0
    """Rows whose fragment is published."""
    done_before: int = 0
    """Those of them that earlier runs published."""
    answered: int = 0
    """Texts that the service answered during this run."""
    computed: int = 0
    """Texts of published fragments that were computed during this run."""
    tokens: int = 0
    errors: int = 0
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began


OnProgress = Callable[[Progress], None]


def survey(
    sources: Sequence[Source],
    job: Job,
    limits: Limits,
    scratch: Path,
    on_rows: Callable[[int], None] = lambda _: None,
) -> Survey:
    """Scan the input once, keeping only hashes in memory. `on_rows` hears how many rows there were
    so far. Raises BulkError.
    """
    planned: list[Planned] = []
    rows = faults = text_bytes = 0
    fault: Fault | None = None
    sample: list[str] = []
    kinds = ColumnTypes(job.columns.id)
    absent = set(job.columns.carry or ())
    try:
        scratch.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("wb") as file:
            for fragment in fragments(sources, job.columns, limits):
                if not fragment.rows.first:
                    refuse_names(job.vector, job.columns.id, fragment.rows.carried)
                if job.format in TYPED:
                    kinds.observe(fragment)
                if absent:
                    absent -= fragment.rows.carried.names()
                planned.append(Planned(fragment.name, fragment.digest, len(fragment.rows)))
                rows += len(fragment.rows)
                on_rows(rows)
                faults += len(fragment.rows.faults)
                fault = fault or next(iter(fragment.rows.faults.values()), None)
                texts = [each for each in fragment.rows.texts if each is not None]
                file.writelines(key for key in fragment.hashes if key != NO_HASH)
                text_bytes += sum(map(len, texts))
                if len(sample) < 1000:
                    sample += texts[:: max(1, len(texts) // 100)]
        if fault is not None and faults == rows:
            raise BulkError(of_every_row(fault, job.columns, sources))
        if rows and absent:
            raise BulkError(f"no row has a field {min(absent)}; --carry names those to carry along")
        types = kinds.types()
        planned = [replace(each, digest=ledger.digest_of(each.digest, types)) for each in planned]
        return Survey(
            planned, duplicates_in(scratch), rows, faults, text_bytes, sample, types, kinds.carried
        )
    except OSError as error:
        raise BulkError(f"{scratch} can't be written: {reason(error)}") from error
    finally:
        scratch.unlink(missing_ok=True)


def fragments(sources: Sequence[Source], columns: Columns, limits: Limits) -> Iterator[Fragment]:
    """All fragments of the input, in order."""
    for source in sources:
        yield from cut(source.name, source.stem, rows_of(source, columns), limits)


async def run(
    job: Job,
    client: AsyncClient,
    store: Store,
    scratch: Path,
    on_progress: OnProgress = lambda _: None,
) -> Progress:
    """Compute what the output lacks. Raises BulkError, or the client's errors; completed fragments
    are kept, and the next run resumes.

    `scratch` is a folder on this machine for temporary data; a run resumes from the same folder.
    """
    try:
        return await _ran(job, client, store, scratch, on_progress)
    except OSError as error:
        raise BulkError(
            f"{store.address}: {error}; completed work is kept; fix this and run again"
        ) from error
    finally:
        _remove_if_empty(scratch)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


async def _ran(
    job: Job, client: AsyncClient, store: Store, scratch: Path, on_progress: OnProgress
) -> Progress:
    sources = found(job.inputs, job.input_format, store.address)
    begun_run(store)  # a folder that is no output is told before anything is asked or written
    wanted = await wanted_run(job, client)
    space, form = wanted.space, wanted.form
    limits = Limits(form.fragment_rows)
    progress = Progress()

    def on_rows(count: int) -> None:
        progress.rows = count
        on_progress(progress)

    with ThreadPoolExecutor(1, "disk") as disk, ThreadPoolExecutor(1, "input") as reader:
        loop = asyncio.get_running_loop()
        surveyed = await loop.run_in_executor(
            reader, survey, sources, job, limits, scratch / ".survey.tmp", on_rows
        )
        progress.reading = False
        dataset = await loop.run_in_executor(reader, _dataset, surveyed, wanted, Path(scratch))
        output = OutputFolder(store, wanted, Path(scratch), dataset)
        try:
            work = await loop.run_in_executor(disk, _begun, output, job, surveyed)
            whole = (each.rows for each in surveyed.planned if each.name not in work.stale)
            progress.done = progress.done_before = sum(whole)
            on_progress(progress)
            computing = Computing(
                client, job.asked, space.numbers, space.columns, output.journal.get, disk,
                lambda count: _answered(progress, count, on_progress),
            )  # fmt: skip
            publishing = _Publishing(output, computing, surveyed, work, disk, progress, on_progress)
            await publishing.all(fragments(sources, job.columns, limits), reader)
            await loop.run_in_executor(disk, output.finish, surveyed.planned, work)
        finally:
            output.close()
        progress.errors = sum(len(each.errors) for each in output.records.values())
    on_progress(progress)
    return progress


async def wanted_run(job: Job, client: AsyncClient) -> Run:
    """The parameters of a run, from the options and the service. Raises the client's errors."""
    model = await client.served_model()
    client.model = model.name
    if model.knows_bytes:
        client.encoding_format = "bytes"
    probe = await client.embed(
        PROBE,
        dimensions=job.options.dimensions,
        input_type=job.options.input_type,
        instruction=job.options.instruction,
    )
    if job.options.dimensions not in {None, len(probe)}:
        raise BulkError(
            f"the service answers vectors of {len(probe)} dimensions where {job.options.dimensions}"
            " are asked for; it may not know `dimensions`"
        )
    scale: float | None = None
    if job.asked.output_dtype != "float32":  # fails before anything is written if unsupported
        scale = (await client.embed_each([PROBE], job.asked)).scale
    columns = job.columns
    space = Space(
        model=model.name,
        dimensions=len(probe),
        dtype=job.dtype,
        input_type=job.options.input_type,
        instruction=job.options.instruction,
        truncate=job.options.truncate,
        fingerprint=client.space,
        scale=scale,
    )
    row_bytes = space.columns * space.numbers.itemsize
    return Run(
        space=space,
        form=Form(
            format=job.format,
            text=columns.text,
            id=columns.id,
            carry=columns.carry,
            vector=job.vector,
            fragment_rows=Limits.of(row_bytes, job.fragment_rows).rows,
        ),
        probe=probe.tolist(),
    )


def _dataset(surveyed: Survey, wanted: Run, scratch: Path) -> LanceOutput | None:
    if wanted.form.format != "lance":
        return None
    from embedfleet.bulk import lance_dataset  # noqa: PLC0415  an extra

    return lance_dataset.output_of(
        surveyed.carried, surveyed.types, wanted.form, wanted.space, scratch / "lance"
    )


def _begun(output: OutputFolder, job: Job, surveyed: Survey) -> Work:
    return output.begin(
        surveyed.planned,
        surveyed.duplicates,
        update=job.update,
        retry_errors=job.retry_errors,
    )


def _answered(progress: Progress, count: int, on_progress: OnProgress) -> None:
    progress.answered += count
    on_progress(progress)


class _Publishing:
    """Computes and publishes the fragments of a run, two at a time."""

    def __init__(
        self,
        output: OutputFolder,
        computing: Computing,
        surveyed: Survey,
        work: Work,
        disk: ThreadPoolExecutor,
        progress: Progress,
        on_progress: OnProgress,
    ) -> None:
        self._output = output
        self._computing = computing
        self._duplicates = surveyed.duplicates
        self._types = surveyed.types
        self._digests: Mapping[str, str] = {each.name: each.digest for each in surveyed.planned}
        self._stale = work.stale
        self._disk = disk
        self._progress = progress
        self._on_progress = on_progress

    async def all(self, found_: Iterator[Fragment], reader: ThreadPoolExecutor) -> None:
        """Raises what one of them raises, after the others were cancelled."""
        loop = asyncio.get_running_loop()
        async with BoundedTasks(lambda: FRAGMENTS_AT_ONCE) as tasks:
            for _ in self._stale:
                fragment = await loop.run_in_executor(reader, self._next, found_)
                await tasks.start(self._one(fragment))

    def _next(self, found_: Iterator[Fragment]) -> Fragment:
        """The next fragment that is to be computed. Raises BulkError where the input changed."""
        for fragment in found_:
            if fragment.name in self._stale:
                digest = ledger.digest_of(fragment.digest, self._types)
                if digest != self._digests[fragment.name]:
                    break
                return fragment
        raise BulkError("the input changed while it was being read; start again")

    async def _one(self, fragment: Fragment) -> None:
        rows, loop = fragment.rows, asyncio.get_running_loop()
        log = await loop.run_in_executor(self._disk, self._output.journal.log)
        computed = await self._computing.compute(
            rows.texts, fragment.hashes, rows.faults, log.append
        )
        await loop.run_in_executor(self._disk, self._publish, fragment, computed, log)
        self._progress.done += len(rows)
        self._progress.computed += computed.computed
        self._progress.tokens += computed.tokens
        self._progress.errors += len(computed.faults)
        self._on_progress(self._progress)

    def _publish(self, fragment: Fragment, computed: Computed, log: FragmentLog) -> None:
        journal = self._output.journal
        self._output.publish(fragment, computed, self._types)
        again = self._duplicates.among(fragment.hashes)
        kept = [at for at, one in enumerate(again) if one and at not in computed.faults]
        journal.put([fragment.hashes[at] for at in kept], computed.vectors[kept])
        journal.remove_log(log)
