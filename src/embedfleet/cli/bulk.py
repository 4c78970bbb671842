"""`embedfleet bulk`: embed a corpus, plan a run, verify its output."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Collection, Coroutine, Iterator
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

from embedfleet.cli.flags import number
from embedfleet.cli.printing import AsJson, complain, show, show_json, table
from embedfleet.runtime.text_files import read_key
from embedfleet.vocabulary import Lane, SetupError, counted

Result = TypeVar("Result")


class _RunByDefault(TyperGroup):
    """`bulk IN OUT` is `bulk run IN OUT`."""

    default = "run"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, "-h", "--help"}:
            args = [self.default, *args]
        return super().parse_args(ctx, args)


bulk = typer.Typer(
    cls=_RunByDefault,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Embed a corpus from files to files, computing each text once.\n\n"
    "    embedfleet bulk documents.jsonl vectors --model builtin\n\n"
    "Start it again after any interruption: it resumes where it stopped.",
)

Inputs = Annotated[
    list[str],
    typer.Argument(metavar="IN…", help="Files, folders, glob patterns, or URLs of object storage."),
]
Url = Annotated[
    str | None, typer.Option("--url", metavar="URL", help="The service that computes the vectors.")
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="With --url, the model's name at the service; without it, the model to serve from "
        "this machine.",
    ),
]
Replicas = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Replicas to start on this machine, without --url."),
]
KeyFile = Annotated[
    Path | None,
    typer.Option("--key-file", metavar="FILE", help="File that holds the API key for the service."),
]
Text = Annotated[
    str, typer.Option("--text", metavar="NAME", help="Column or field that holds the text.")
]
Id = Annotated[
    str | None,
    typer.Option(
        "--id",
        metavar="NAME",
        help="Column or field that holds the id. By default, rows are numbered.",
    ),
]
Carry = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES|all|none",
        help="Other columns to copy to the output. By default all, and none for npy.",
    ),
]
InputFormat = Annotated[
    str | None,
    typer.Option(metavar="FORMAT", help="Format of input files whose names do not tell it."),
]
LaneName = Annotated[
    str,
    typer.Option(
        "--lane",
        metavar="interactive|bulk",
        help="Lane in which requests wait; bulk gives way to interactive ones.",
    ),
]
RetryTimeout = Annotated[
    float,
    typer.Option(
        parser=number(0), metavar="S", help="Seconds for which a failed request is retried."
    ),
]


Paths = Annotated[
    list[str],
    typer.Argument(
        metavar="IN… OUT", help="Input files, folders or glob patterns, then the output folder."
    ),
]
Format = Annotated[
    str, typer.Option("--format", metavar="npy|jsonl|parquet|lance", help="Output format.")
]
Dimensions = Annotated[
    int | None,
    typer.Option(
        min=1, max=1 << 20, metavar="N", help="Dimensions of the vectors; by default all."
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        "--output-dtype",
        metavar="float32|float16|int8|uint8|binary|ubinary",
        help="Number format of the vectors. The scale of integers is in `_manifest.json`.",
    ),
]
InputType = Annotated[
    str | None,
    typer.Option(
        metavar="query|document", help="What the texts are, for models with a prompt for each."
    ),
]
Instruction = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Instruction to put before each text.")
]
Truncate = Annotated[
    bool,
    typer.Option(help="Cut texts that are longer than the model allows, instead of refusing them."),
]
VectorColumn = Annotated[str, typer.Option(metavar="NAME", help="Name of the column of vectors.")]
FragmentRows = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Maximum number of rows of an output file.")
]
Update = Annotated[bool, typer.Option(help="Compute the rows that changed since the last run.")]
RetryErrors = Annotated[bool, typer.Option(help="Retry rows that failed in an earlier run.")]
PlannedReplicas = Annotated[
    int, typer.Option("--replicas", min=1, metavar="N", help="Number of replicas.")
]
Gpus = Annotated[int, typer.Option(min=0, metavar="N", help="GPUs of one replica.")]
CostPerHour = Annotated[
    float, typer.Option(parser=number(0), metavar="P", help="Price of one GPU for an hour.")
]
ProfileFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Measured speed of a replica (TOML).")
]
Scratch = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Local folder for vectors of files in progress."),
]


@bulk.command()
def run(
    paths: Paths,
    url: Url = None,
    model: Model = None,
    replicas: Replicas = None,
    key_file: KeyFile = None,
    text: Text = "text",
    id_: Id = None,
    carry: Carry = None,
    format_: Format = "npy",
    dimensions: Dimensions = None,
    dtype: Dtype = "float32",
    input_type: InputType = None,
    instruction: Instruction = None,
    truncate: Truncate = False,
    vector_column: VectorColumn = "embedding",
    fragment_rows: FragmentRows = None,
    input_format: InputFormat = None,
    update: Update = False,
    retry_errors: RetryErrors = False,
    lane: LaneName = "bulk",
    retry_timeout: RetryTimeout = 600.0,
    scratch: Scratch = None,
    as_json: AsJson = False,
) -> None:
    """Embed a corpus into a folder, or resume a run that was interrupted.

        embedfleet bulk docs/*.parquet vectors --url http://127.0.0.1:8080

    With replicas that are started for it, and a column and an id of your own:

        embedfleet bulk docs.jsonl vectors --model builtin --text body --id key

    Rows that failed are in `_errors.jsonl`; `_manifest.json` is written when all is done.
    """
    from embedfleet.client import EmbedOptions  # noqa: PLC0415

    *inputs, out = _several(paths)
    _one_of("--lane", lane, tuple(Lane))
    options = EmbedOptions(dimensions, input_type, instruction, truncate)
    chosen = {
        "inputs": inputs, "format": format_, "dtype": dtype, "vector": vector_column,
        "fragment_rows": fragment_rows, "input_format": input_format, "update": update,
        "retry_errors": retry_errors, "options": options,
    }  # fmt: skip
    job = _job(chosen, text, id_, carry)
    with _service(url, model, replicas, key_file) as (address, key):
        client: dict[str, Any] = {"model": model if url else None, "api_key": key, "lane": lane}
        client |= {"retry_timeout_s": retry_timeout}
        _run(job, out, scratch, address, client, key_file, as_json)


@bulk.command()
def verify(
    paths: Paths,
    url: Url = None,
    model: Model = None,
    replicas: Replicas = None,
    key_file: KeyFile = None,
    sample: Annotated[
        int, typer.Option(min=0, metavar="N", help="Vectors of each fragment to compute again.")
    ] = 2,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the sample.")] = 0,
    input_format: InputFormat = None,
    as_json: AsJson = False,
) -> None:
    """Verify an output: check its files and compute a sample of its vectors again.

        embedfleet bulk verify docs.jsonl vectors --url http://127.0.0.1:8080

    Reports fragments that are damaged, belong to other rows than the input's, or come from
    another model than the service's. The exit code is 1 if there are any.
    """
    from embedfleet.bulk.verifying import verify as verified  # noqa: PLC0415
    from embedfleet.client import AsyncClient  # noqa: PLC0415
    from embedfleet.runtime.folders import store_at  # noqa: PLC0415

    *inputs, out = _several(paths)
    _expect_format(input_format)
    with _service(url, model, replicas, key_file) as (address, key):

        async def check() -> Any:
            async with AsyncClient(address, api_key=key, lane="bulk") as client:
                store = store_at(out, alone=False)
                rng = Random(seed)
                return await verified(
                    inputs, store, client, sample=sample, rng=rng, input_format=input_format
                )

        findings = _waited(check(), key_file=key_file)
    wrong = [each for each in findings if each.complaint]
    checked = sum(each.checked for each in findings)
    if as_json:
        show_json([asdict(each) for each in findings])
    else:
        for each in wrong:
            typer.echo(f"{each.fragment}: {each.complaint} (cosine {each.least_cosine:.3f})")
        typer.echo(
            f"{counted(len(findings), 'fragment')}, {len(wrong):,} wrong; "
            f"{counted(checked, 'vector')} computed again"
        )
    if wrong:
        raise typer.Exit(1)


@bulk.command()
def plan(
    inputs: Inputs,
    url: Url = None,
    model: Model = None,
    key_file: KeyFile = None,
    text: Text = "text",
    input_format: InputFormat = None,
    replica_profile: ProfileFile = None,
    replicas: PlannedReplicas = 1,
    gpus: Gpus = 1,
    cost_per_hour: CostPerHour = 0.0,
    as_json: AsJson = False,
) -> None:
    """Estimate texts, tokens, time and cost without computing anything.

        embedfleet bulk plan docs.jsonl --replica-profile h200.toml --replicas 8

    With --url, the service's tokenizer counts a sample; without it, tokens are estimated from
    bytes. The profile is that of `embedfleet plan`.
    """
    from embedfleet.bulk.estimating import estimate  # noqa: PLC0415
    from embedfleet.simulator import profiles  # noqa: PLC0415

    _expect_format(input_format)
    _expect_address(url)
    profile = profiles.Profile() if replica_profile is None else profiles.read(replica_profile)
    work = estimate(
        inputs,
        text=text,
        input_format=input_format,
        url=url,
        model=model,
        api_key=_key(key_file),
        tokens_per_s=profile.most_per_s * replicas,
    )
    found = _waited(work, key_file=key_file)
    cost = found.seconds / 3600 * replicas * gpus * cost_per_hour
    if as_json:
        show_json(asdict(found) | {"cost": cost})
        return
    rows = table("what", "value")
    rows.show_header = False
    rows.add_row("rows", f"{found.rows:,} ({found.faults:,} without a text)")
    rows.add_row("distinct texts", f"{found.distinct:,}")
    rows.add_row("tokens", f"{found.tokens:,} ({'counted' if found.counted else 'estimated'})")
    rows.add_row("time", f"{found.seconds:,.0f} s with {counted(replicas, 'replica')}")
    if cost_per_hour:
        rows.add_row("cost", f"{cost:,.2f}")
    show(rows)


def _job(chosen: dict[str, Any], text: str, id_: str | None, carry: str | None) -> Any:
    from embedfleet.bulk import dtypes, writing  # noqa: PLC0415
    from embedfleet.bulk.columns import Columns  # noqa: PLC0415
    from embedfleet.bulk.running import Job  # noqa: PLC0415

    _one_of("--format", chosen["format"], writing.FORMATS)
    writing.refuse_absent_extra(chosen["format"])
    _expect_format(chosen["input_format"])
    _one_of("--dtype", chosen["dtype"], tuple(dtypes.DTYPES))
    return Job(columns=Columns(text, id_, _carried(carry, chosen["format"])), **chosen)


def _several(paths: list[str]) -> list[str]:
    if len(paths) < 2:
        raise SetupError("give what to read and then where to write: IN… OUT")
    if paths[-1] in {"", "-"}:
        raise SetupError("the output is a folder: its name is neither empty nor -")
    return paths


def _run(
    job: Any,
    out: str,
    scratch: Path | None,
    url: str,
    options: dict[str, Any],
    key_file: Path | None,
    as_json: bool,  # noqa: FBT001
) -> None:
    from embedfleet.bulk.reporting import reporting, summary  # noqa: PLC0415
    from embedfleet.bulk.running import run as ran  # noqa: PLC0415
    from embedfleet.client import AsyncClient  # noqa: PLC0415
    from embedfleet.runtime.folders import LocalStore, store_at  # noqa: PLC0415

    async def work() -> Any:
        store = store_at(out)
        if scratch is None and isinstance(store, LocalStore):
            place = store.path / "_ledger"
        else:
            name = hashlib.sha256(out.encode()).hexdigest()[:16]
            place = (scratch or Path.home() / ".cache" / "embedfleet" / "bulk") / name
        try:
            async with AsyncClient(url, **options) as client:
                with reporting() as watch:
                    return await ran(job, client, store, place, watch)
        finally:
            store.close()

    kept = "What was computed is kept: start again to go on."
    found = summary(_waited(work(), kept, key_file=key_file))
    if as_json:
        show_json(found)
        return
    typer.echo(
        f"{out}: {counted(found['rows'], 'row')}, {found['errors']:,} without a vector; "
        f"{counted(found['computed'], 'text')} computed in {found['seconds']:,.1f} s "
        f"({found['texts_per_s']:,.0f}/s, {found['tokens_per_s']:,.0f} tokens/s)"
    )


def _waited(work: Coroutine[Any, Any, Result], kept: str = "", *, key_file: Path | None) -> Result:
    """What a coroutine gives; a service that fails ends the command with exit code 1. Where another
    try may succeed, a line tells what was `kept` until then; where it takes another key, how one is
    given.
    """
    import uvloop  # noqa: PLC0415

    from embedfleet.client import ClientError, RefusedError  # noqa: PLC0415

    try:
        return uvloop.run(work)
    except KeyboardInterrupt:
        if kept:
            typer.echo(kept, err=True)
        raise
    except ClientError as error:
        refused = error if isinstance(error, RefusedError) else None
        keyless = refused is not None and refused.http_status in {401, 403}
        complain(f"{error} {_how_to_give_a_key(key_file)}" if keyless else str(error))
        if kept and (keyless or refused is None):
            typer.echo(kept, err=True)
        raise typer.Exit(1) from error


def _how_to_give_a_key(file: Path | None) -> str:
    if file is None:
        return "The command asked without a key: --key-file FILE takes one from a file."
    return f"The command asked with the key in {file}: --key-file takes another."


@contextlib.contextmanager
def _service(
    url: str | None, model: str | None, replicas: int | None, key_file: Path | None
) -> Iterator[tuple[str, str | None]]:
    """The address to ask and the key to ask with: a service that runs, or one for this command."""
    if url is None and model is None:
        raise SetupError(
            "nothing to compute with: give --url for a running service, or --model to start one "
            "for this run"
        )
    _expect_address(url)
    if url is not None:
        if replicas is not None:
            raise SetupError(
                "--replicas applies only with --model: a service at --url has its own replicas"
            )
        yield url, _key(key_file)
        return
    from embedfleet.bulk.private_fleet import private_fleet  # noqa: PLC0415

    with private_fleet(model or "", replicas) as (address, key):
        yield address, key


def _key(file: Path | None) -> str | None:
    return None if file is None else read_key(file, "the key file")


def _expect_format(name: str | None) -> None:
    from embedfleet.bulk.sources import FORMATS  # noqa: PLC0415

    _one_of("--input-format", name, sorted(set(FORMATS.values())))


def _expect_address(url: str | None) -> None:
    from embedfleet.client.wire import base_of  # noqa: PLC0415

    try:
        if url is not None:
            base_of(url)
    except ValueError as error:
        raise SetupError(f"--url: {error}") from error


def _carried(carry: str | None, format_: str) -> tuple[str, ...] | None:
    if carry is None:
        return () if format_ == "npy" else None
    if carry in {"all", "none"}:
        return None if carry == "all" else ()
    return tuple(filter(None, carry.split(",")))


def _one_of(flag: str, value: str | None, possible: Collection[str]) -> None:
    if value is not None and value not in possible:
        raise SetupError(f"{flag} is {value}; it takes {', '.join(possible)}")
