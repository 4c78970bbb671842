"""`embedfleet conformance URL`: check a service against OpenAI's embeddings API."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer
from rich.console import Console

from embedfleet.cli.flags import number
from embedfleet.runtime.text_files import expect_writable, read_key, write_file
from embedfleet.vocabulary import SettingError

if TYPE_CHECKING:
    from embedfleet.conformance.running import Result


Url = Annotated[str, typer.Argument(metavar="URL", help="Base URL, as for OpenAI's clients.")]
KeyFile = Annotated[
    Path | None, typer.Option("--key-file", metavar="FILE", help="File that holds the API key.")
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="NAME", help="Model to request; by default the first that is listed."
    ),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        "--max-tokens",
        metavar="N",
        min=2,
        help="Longest text, in tokens, if the service does not report it: 8192 for OpenAI.",
    ),
]
Extensions = Annotated[
    bool | None,
    typer.Option(
        "--extensions/--no-extensions",
        help="Also check embedfleet's extensions; by default, only if the service is embedfleet.",
    ),
]
Only = Annotated[
    str,
    typer.Option(
        "--only", metavar="WORDS", help="Run only checks whose names contain these words."
    ),
]
Timeout = Annotated[
    float,
    typer.Option(
        "--timeout", metavar="S", parser=number(0.1, 86_400), help="Seconds for each request."
    ),
]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the results as JSON.")
]


def conformance(
    url: Url,
    key_file: KeyFile = None,
    model: Model = None,
    max_tokens: MaxTokens = None,
    extensions: Extensions = None,
    only: Only = "",
    timeout_s: Timeout = 120.0,
    json: JsonFile = None,
) -> None:
    """Check that a service conforms to OpenAI's embeddings API.

        embedfleet conformance http://127.0.0.1:8080/v1

    OpenAI itself, with a key:

        embedfleet conformance https://api.openai.com/v1 --key-file key.txt

    Each check that fails tells what was asked, what was answered and what would be right. The exit
    code is 1 if any failed. Some hundreds of requests are sent, all small but one of 2,048 short
    texts and a few of the longest text's length.
    """
    from embedfleet.conformance.report import (  # noqa: PLC0415
        as_json,
        conforms,
        line,
        summary,
        worth_a_line,
    )

    if json is not None:
        expect_writable(json)
    console = Console(soft_wrap=True, highlight=False)
    asked = Asked(url, _key(key_file), model, max_tokens, extensions, only, timeout_s)

    def tell(result: Result) -> None:
        if worth_a_line(result):
            console.print(line(result))

    found, results = asyncio.run(asked.answered(tell))
    if not results:
        raise SettingError(f'no check has "{only}" in its name')
    console.print(summary(results))
    if json is not None:
        told = as_json(results, url=url, model=found, version=version("embedfleet"))
        write_file(json, orjson.dumps(told, option=orjson.OPT_INDENT_2))
    raise typer.Exit(0 if conforms(results) else 1)


@dataclass(frozen=True, slots=True)
class Asked:
    """One run, with its options."""

    url: str
    key: str | None
    model: str | None
    max_tokens: int | None
    extensions: bool | None
    only: str
    timeout_s: float

    async def answered(self, tell: Callable[[Result], None]) -> tuple[str, list[Result]]:
        """Run the checks; give the model that was asked and how each check ended."""
        from embedfleet.conformance.checks import checks_for  # noqa: PLC0415
        from embedfleet.conformance.running import run_checks  # noqa: PLC0415
        from embedfleet.conformance.service import introduced  # noqa: PLC0415
        from embedfleet.conformance.transport import connected  # noqa: PLC0415

        async with connected(self.url, key=self.key, timeout_s=self.timeout_s) as transport:
            service = await introduced(
                transport,
                model=self.model,
                max_tokens=self.max_tokens,
                guarded=self.key is not None,
            )
            checks = [check for check in checks_for(service) if self.only in check.name]
            ours = service.is_embedfleet if self.extensions is None else self.extensions
            results = []
            async for result in run_checks(service, checks, extensions=ours):
                tell(result)
                results.append(result)
            return service.model, results


def _key(file: Path | None) -> str | None:
    return None if file is None else read_key(file, "the key file", SettingError)
