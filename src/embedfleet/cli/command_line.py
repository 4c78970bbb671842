"""The command line: parses flags, loads the settings and calls the function behind the command.

Types, ranges and help texts come from the settings catalogue. What a command needs is imported only
when it runs, so `--help` stays fast.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from textwrap import dedent, indent
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from embedfleet.cli import flags
from embedfleet.cli import simulator as commands
from embedfleet.cli.autoscale import autoscale
from embedfleet.cli.bulk import bulk
from embedfleet.cli.cache import cache
from embedfleet.cli.conformance import conformance
from embedfleet.cli.deploy import app as deploying
from embedfleet.cli.engines import engines
from embedfleet.cli.entry_points import Calls, calls
from embedfleet.cli.fleet import fleet
from embedfleet.cli.keys import keys
from embedfleet.cli.printing import AsJson, complain, show, show_json, table
from embedfleet.cli.status import status
from embedfleet.runtime.settings import (
    Settings,
    as_markdown,
    as_toml,
    effective,
    load,
    trace,
)
from embedfleet.runtime.telemetry.logs import open_standard_streams
from embedfleet.runtime.text_files import reason
from embedfleet.vocabulary import SettingError, SetupError

API_KEYS = "EMBEDFLEET_API_KEYS"
SERVERS = {"serve", "gateway", "replica"}
"""Commands that take signals themselves."""


class _Refusing(TyperGroup):
    """Turn an error of a flag or of set-up into one line on stderr and exit code 2, and one of a
    file that no command expected into one line and exit code 1: a replica that ends so is started
    again.
    """

    def __init__(self, *args: Any, **extra: Any) -> None:
        super().__init__(*args, **extra)
        _keep_lines(self)

    def make_context(self, *args: Any, **extra: Any) -> Any:
        with _in_one_line():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        with _in_one_line():
            return super().invoke(ctx)


def _keep_lines(command: Any) -> None:
    """Let the help of a command and of those below it show examples as they are typed, and lists
    of commands the whole first sentence: what is cut or broken can't be copied.
    """
    if command.help:
        first, *others = command.help.split("\n\n")
        command.short_help = " ".join(first.split())
        command.help = "\n\n".join([first, *map(_as_typed, others)])
    for below in getattr(command, "commands", {}).values():
        _keep_lines(below)


def _as_typed(paragraph: str) -> str:
    """A paragraph of help that keeps its lines if it is an example: what can be typed."""
    example = dedent(paragraph)
    if not example.startswith(("embedfleet ", "EMBEDFLEET_", "kubectl ")):
        return paragraph
    return "\b\n" + indent(example, "    ")  # `\b` on a line of its own ends wrapping


@contextmanager
def _in_one_line() -> Iterator[None]:
    try:
        yield
    except TyperException as error:
        context = getattr(error, "ctx", None)
        if context and error.format_message() == context.get_help():  # a group without a command
            typer.echo(error.format_message(), err=True)
            raise typer.Exit(error.exit_code) from error
        said = " ".join(error.format_message().split())
        command = getattr(context, "command_path", "embedfleet")
        stop = "" if said.endswith((".", "?")) else "."
        complain(f"{said[:1].lower()}{said[1:]}{stop} See `{command} --help`.")
        raise typer.Exit(error.exit_code) from error
    except SetupError as error:
        complain(str(error))
        raise typer.Exit(2) from error
    except OSError as error:
        if error.filename is None:
            raise
        complain(f"{error.filename}: {reason(error)}")
        raise typer.Exit(1) from error
    except (MemoryError, RuntimeError) as error:
        told = _exhausted(error)
        if told is None:
            raise
        complain(told)
        raise typer.Exit(1) from error


def _exhausted(error: MemoryError | RuntimeError) -> str | None:
    """Which resource of the machine ran out; None where the error is another."""
    if isinstance(error, MemoryError):
        return f"not enough memory{f': {error}' if str(error) else ''}"
    if str(error) == "can't start new thread":
        return (
            "no thread can be started: there is no memory for it, or the limit of processes is "
            "reached (ulimit -u, TasksMax=, pids.max)"
        )
    return None


app = typer.Typer(
    cls=_Refusing,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Text embeddings as one dependable service: an OpenAI-compatible endpoint in front of a "
    "fleet of engine replicas.\n\n"
    "Start with `embedfleet serve builtin`: it needs no GPU and downloads nothing.",
)
golden = typer.Typer(
    no_args_is_help=True, help="Make the reference vectors that every replica must reproduce."
)
model_commands = typer.Typer(no_args_is_help=True, help="Download models to this machine.")


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,
) -> None:
    if show_version:
        typer.echo(f"embedfleet {version('embedfleet')}")
        raise typer.Exit
    context.obj = context.obj or calls(_api_keys())


@app.command()
def serve(
    context: typer.Context,
    model: flags.Models = None,
    replicas: flags.Replicas = None,
    min_replicas: flags.MinReplicas = None,
    max_replicas: flags.MaxReplicas = None,
    host: flags.GatewayHost = None,
    port: flags.GatewayPort = None,
    admin_port: flags.AdminPort = None,
    served_name: flags.ServedNames = None,
    engine: flags.Engine = None,
    device: flags.Device = None,
    dtype: flags.Dtype = None,
    max_tokens: flags.MaxTokens = None,
    keys_file: flags.KeysFile = None,
    api_key: flags.ApiKeys = None,
    log_level: flags.LogLevel = None,
    config: flags.ConfigFile = None,
) -> None:
    """Serve models from this machine: a gateway and the replicas of each, in one command.

        embedfleet serve builtin

    A model from the hub, under the name that your clients request:

        embedfleet serve Qwen/Qwen3-Embedding-0.6B --served-name embeddings

    As many replicas as the load needs, instead of a fixed number:

        embedfleet serve builtin --min-replicas 1 --max-replicas 4
    """
    chosen = {
        "pools.model": model[0] if model and len(model) == 1 else model or None,
        "pools.replicas": replicas,
        "autoscaling.enabled": None if min_replicas is max_replicas is None else "true",
        "autoscaling.min_replicas": min_replicas,
        "autoscaling.max_replicas": max_replicas,
        "pools.served_names": served_name or None,
        "gateway.host": host,
        "gateway.port": port,
        "admin.port": admin_port,
        "pools.engine": engine,
        "engine.device": device,
        "engine.dtype": dtype,
        "engine.max_tokens": max_tokens,
        "access.keys_file": keys_file,
        "log.level": log_level,
    }
    raise typer.Exit(_calls(context).gateway(_settings(config, chosen), tuple(api_key or ())))


@app.command()
def replica(
    context: typer.Context,
    model: flags.Model = None,
    host: flags.ReplicaHost = None,
    port: flags.ReplicaPort = None,
    device: flags.Device = None,
    dtype: flags.Dtype = None,
    max_tokens: flags.MaxTokens = None,
    log_level: flags.LogLevel = None,
    config: flags.ConfigFile = None,
    file_only: flags.FileOnly = False,
) -> None:
    """Run one replica: a single engine behind HTTP, for a gateway elsewhere.

    On each machine that computes:

        embedfleet replica Qwen/Qwen3-Embedding-0.6B --host 0.0.0.0 --port 9000

    then `embedfleet gateway --replica http://that-machine:9000` in front.
    """
    chosen = {
        "pools.model": model,
        "replica.host": host,
        "replica.port": port,
        "engine.device": device,
        "engine.dtype": dtype,
        "engine.max_tokens": max_tokens,
        "log.level": log_level,
    }
    raise typer.Exit(_calls(context).replica(_settings(config, chosen, file_only=file_only)))


@app.command()
def gateway(
    context: typer.Context,
    replica: flags.ReplicaUrls = None,
    model: flags.TokenizerDir = None,
    host: flags.GatewayHost = None,
    port: flags.GatewayPort = None,
    admin_port: flags.AdminPort = None,
    served_name: flags.ServedNames = None,
    keys_file: flags.KeysFile = None,
    api_key: flags.ApiKeys = None,
    log_level: flags.LogLevel = None,
    config: flags.ConfigFile = None,
) -> None:
    """Run only the gateway, in front of replicas that run elsewhere.

    It loads no model and needs little memory:

        embedfleet gateway --replica http://10.0.0.5:9000

    Give `--replica` once for each of them.
    """
    chosen = {
        "pools.replica_urls": replica or None,
        "pools.tokenizer_dir": model,
        "pools.served_names": served_name or None,
        "gateway.host": host,
        "gateway.port": port,
        "admin.port": admin_port,
        "access.keys_file": keys_file,
        "log.level": log_level,
    }
    settings = _settings(config, chosen)
    if not settings.pools:
        raise SettingError(
            "no replicas given: use --replica URL once for each, or a [[pools]] table in the "
            "settings file; `embedfleet serve MODEL` starts replicas of its own"
        )
    raise typer.Exit(_calls(context).gateway(settings, tuple(api_key or ())))


@app.command("config")
def show_config(
    config: flags.ConfigFile = None,
    toml: Annotated[bool, typer.Option("--toml", help="Print a complete settings file.")] = False,
    docs: Annotated[
        bool, typer.Option("--docs", help="Print the documentation of every setting (Markdown).")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the effective settings and where each of them came from.

    What would a start right here, with this file and these variables, use?

        EMBEDFLEET_GATEWAY_PORT=9000 embedfleet config --config embedfleet.toml

    A complete file to start from:

        embedfleet config --toml > embedfleet.toml
    """
    if docs:
        typer.echo(as_markdown(), nl=False)
        return
    settings, provenance = trace(flags.read(config), os.environ, {})
    if toml:
        typer.echo(as_toml(settings), nl=False)
        return
    found = effective(settings, provenance)
    if as_json:
        show_json([asdict(row) for row in found])
        return
    rows = table("setting", "value", "from")
    for row in found:
        rows.add_row(row.path, row.value, row.source, style="dim" * (row.source == "default"))
    show(rows)


@golden.command("make")
def make_golden(
    context: typer.Context,
    model: flags.NamedModel,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="File to write.")],
    config: flags.ConfigFile = None,
) -> None:
    """Make golden vectors with the reference engine (f32).

    Do it once for each model revision, on a machine you trust; replicas must then reproduce them
    before they get traffic. Beside the model's weights the file is found by its name:

        embedfleet golden make ./my-model -o ./my-model/golden.safetensors
    """
    engine = _settings(config, {"engine.dtype": "f32"}).engine
    _calls(context).make_golden(model, output, engine)


@model_commands.command("fetch")
def fetch_model(
    context: typer.Context,
    model: flags.NamedModel,
    as_json: AsJson = False,
) -> None:
    """Download a model ahead of time and print its directory.

        embedfleet model fetch Qwen/Qwen3-Embedding-0.6B

    Only the files that are needed; broken connections are resumed, and files that are whole are
    kept from one try to the next.
    """
    found = _calls(context).fetch(model)
    if as_json:
        told = {"name": found.name, "revision": found.revision, "directory": found.directory}
        show_json(told)
        return
    if found.revision is not None:
        typer.echo(f"{found.name}@{found.revision}", err=True)
    typer.echo(found.directory)


app.command()(status)
app.add_typer(autoscale, name="autoscale")
app.add_typer(fleet, name="fleet")
app.add_typer(bulk, name="bulk")
app.add_typer(cache, name="cache")
app.add_typer(keys, name="keys")
app.add_typer(golden, name="golden")
app.add_typer(model_commands, name="model")
app.command()(engines)
app.add_typer(deploying, name="deploy")
app.command()(conformance)
commands.register(app)


def _settings(
    config: Path | None, chosen: Mapping[str, object], *, file_only: bool = False
) -> Settings:
    return load(flags.read(config), {} if file_only else os.environ, chosen)


def _api_keys() -> tuple[str, ...] | None:
    """The keys in the environment, taken out of it: no process that starts from here gets them."""
    given = os.environ.pop(API_KEYS, None)
    return None if given is None else tuple(filter(None, map(str.strip, given.split(","))))


def _calls(context: typer.Context) -> Calls:
    return context.obj  # type: ignore[no-any-return]


OUTPUT_IS_LOST = {errno.ENOSPC, errno.EDQUOT, errno.EIO}
"""Nobody will read what was printed, and must learn that from the exit code."""
MACHINE_IS_FULL = {errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN}
"""No fault of the program: memory, open files or processes ran out."""


def main() -> None:
    """Run the command line; output that can't be written is an error like others."""
    open_standard_streams()
    if SERVERS.isdisjoint(sys.argv[1:2]):
        # What shows progress ends its display.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        try:
            app(prog_name="embedfleet")
        except SystemExit as ended:
            if isinstance(ended.__context__, BrokenPipeError):  # rich and typer end with 1 for it
                raise ended.__context__ from None
            raise
        finally:
            sys.stdout.flush()
    except OSError as error:
        if error.errno == errno.EPIPE:
            code = 0  # the reader of the pipe closed it
        elif error.errno in OUTPUT_IS_LOST:
            complain(f"standard output: {error.strerror}")
            code = 1
        elif error.errno in MACHINE_IS_FULL:
            complain(reason(error))
            code = 1
        else:
            raise
        # What is still buffered would fail once more at the end of the interpreter.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(code)
