"""`embedfleet engines`: print the command that starts a third-party engine, a reason per flag."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from embedfleet.cli.flags import number
from embedfleet.cli.printing import AsJson, show, show_json, table
from embedfleet.fleet.providers.engine_commands import (
    ENGINES,
    GGUF,
    Flag,
    Launch,
    command,
    shell,
    words,
)
from embedfleet.models.reranker import called_reranker
from embedfleet.vocabulary import Pooling, SettingError

USES = {
    "sglang": "a GPU or several; FP8; the fastest of these for long texts",
    "vllm": "a GPU or several; FP8; what many already run",
    "tei": "one GPU a process, float16; small and quick to start",
    "llamacpp": "GGUF files; processors, Macs, any GPU",
}
"""What each is taken for."""

DEFAULTS = Launch("")


MemoryShare = Annotated[
    float,
    typer.Option(
        "--memory-share",
        metavar="X",
        help="Share of GPU memory, 0.05 to 0.98.",
        parser=number(0.05, 0.98),
    ),
]
Host = Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on.")]
Port = Annotated[int, typer.Option("--port", metavar="PORT", help="TCP port.", min=1, max=65_535)]


def engines(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Engine: sglang, vllm, tei or llamacpp.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="MODEL",
            help="Directory or hub id; for llamacpp a GGUF file, or the hub id of a repository of "
            "some.",
            show_default="Qwen/Qwen3-Embedding-4B",
        ),
    ] = None,
    gpus: Annotated[
        int, typer.Option("--gpus", metavar="N", help="GPUs of one replica.", min=0)
    ] = 1,
    memory_share: MemoryShare = DEFAULTS.memory_share,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", metavar="N", help="Longest text, in tokens.", min=2)
    ] = DEFAULTS.max_tokens,
    fp8: Annotated[bool, typer.Option("--fp8", help="Compute linear layers in FP8.")] = False,  # noqa: FBT002
    host: Host = DEFAULTS.host,
    port: Port = DEFAULTS.port,
    as_json: AsJson = False,  # noqa: FBT002
) -> None:
    """Print how to start an engine that you already have, with the reason for each flag.

        embedfleet engines sglang --model Qwen/Qwen3-Embedding-8B --gpus 2

    Attach it to a gateway, which finds out by itself what runs there:

        embedfleet gateway --model ./qwen3 --replica http://127.0.0.1:30000
    """
    if name is None:
        _list(as_json=as_json)
        return
    if name not in ENGINES:
        raise SettingError(f"unknown engine {name}; there are {', '.join(ENGINES)}")
    usual = GGUF if name == "llamacpp" else "Qwen/Qwen3-Embedding-4B"
    named = model or usual
    # Of other models the engine reads it in the model's files.
    pooling = Pooling.LAST if "qwen3" in named.lower() else None
    launch = Launch(named, port, host, gpus, memory_share, max_tokens, fp8, pooling)
    if called_reranker(named):
        published = "qwen3-reranker" in named.lower() and "seq-cls" not in named.lower()
        launch = replace(launch, reranks=True, generates=published)
    _print(command(name, launch), as_json=as_json)


def _print(flags: list[Flag], *, as_json: bool) -> None:
    if as_json:
        show_json({"command": words(flags), "reasons": [asdict(flag) for flag in flags]})
        return
    typer.echo(shell(flags))
    rows = Table(box=None, pad_edge=False, show_header=False)
    for flag in flags:
        rows.add_row(" ".join(flag.words), flag.reason)
    Console(stderr=True, soft_wrap=True).print(rows)


def _list(*, as_json: bool) -> None:
    if as_json:
        show_json(USES)
        return
    rows = table("engine", "for")
    for name, use in USES.items():
        rows.add_row(name, use)
    show(rows)
