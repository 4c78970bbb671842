"""`embedfleet conformance URL`: flags to one run.

Decides what can be typed and where a report goes. Refuses to know checks.
"""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console

from embedfleet.vocabulary import SettingError


def conformance(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="Base URL, as OpenAI's clients take it.")
    ],
    key_file: Annotated[
        Path | None, typer.Option("--key-file", metavar="FILE", help="File with the API key.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="NAME", help="Model; the first that is listed otherwise."),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-tokens",
            metavar="N",
            min=2,
            help="Longest text, in tokens, where the service does not tell it: 8192 for OpenAI.",
        ),
    ] = None,
    extensions: Annotated[
        bool | None,
        typer.Option(
            "--extensions/--no-extensions",
            help="Check what embedfleet promises beyond OpenAI; by default if it is embedfleet.",
        ),
    ] = None,
    only: Annotated[
        str, typer.Option("--only", metavar="WORDS", help="Checks whose name has these words.")
    ] = "",
    timeout_s: Annotated[
        float, typer.Option("--timeout", metavar="S", min=0.1, help="Seconds for each request.")
    ] = 120.0,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the results as JSON.")
    ] = None,
) -> None:
    """Check a service against OpenAI's embeddings API, sentence by sentence.

    Our own, then another one:

        embedfleet conformance http://127.0.0.1:8080/v1

        embedfleet conformance https://api.openai.com/v1 --key-file ~/.openai-key
        --model text-embedding-3-small --max-tokens 8192

    Each check that fails tells what was asked, what was answered and what would be right. The exit
    code is 1 if any failed. The requests are some hundreds, all small but two of 2,048 short texts
    and a few at the longest text's length.
    """
    from embedfleet.conformance.checks import all_checks  # noqa: PLC0415
    from embedfleet.conformance.report import as_json, conforms, line, summary  # noqa: PLC0415
    from embedfleet.conformance.running import Result, run_checks  # noqa: PLC0415
    from embedfleet.conformance.service import introduced  # noqa: PLC0415
    from embedfleet.conformance.transport import connected  # noqa: PLC0415

    console = Console(soft_wrap=True, highlight=False)
    key = _key(key_file)
    checks = [check for check in all_checks() if only in check.name]

    async def run() -> tuple[str, list[Result]]:
        async with connected(url, key=key, timeout_s=timeout_s) as transport:
            service = await introduced(
                transport, model=model, max_tokens=max_tokens, guarded=key is not None
            )
            ours = service.is_embedfleet if extensions is None else extensions
            results = []
            async for result in run_checks(service, checks, extensions=ours):
                console.print(line(result))
                results.append(result)
            return service.model, results

    found, results = asyncio.run(run())
    console.print(summary(results))
    if json is not None:
        told = as_json(results, url=url, model=found, version=version("embedfleet"))
        json.write_bytes(orjson.dumps(told, option=orjson.OPT_INDENT_2))
    raise typer.Exit(0 if conforms(results) else 1)


def _key(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return file.expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"the key file {file} can't be read: {error}") from error
