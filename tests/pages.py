"""The pages, their code blocks, and the commands in them, as a Markdown parser finds them."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import typer
import typer.core
from markdown_it import MarkdownIt
from markdown_it.token import Token

from embedfleet.cli.command_line import app

ROOT = Path(__file__).parents[1]
PROGRAMS = {
    *("buildah", "cd", "curl", "docker", "embedfleet", "git", "helm", "kubectl", "make"),
    *("mmdebstrap", "pip", "python", "python3", "run", "vllm"),
}
"""What an indented block that has no language begins its lines with."""


def pages() -> list[Path]:
    """Every page that is read as a page, wherever it lies."""
    folders = ("docs", "deploy", "examples", "benchmarks", "training", "src")
    return sorted(
        [*ROOT.glob("*.md"), *(page for each in folders for page in (ROOT / each).rglob("*.md"))]
    )


@dataclass(frozen=True)
class Block:
    """A code block: where it begins, its language (empty where none is named), its text."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def commands(self) -> list[str]:
        """What a reader types, a line each, without prompts, outputs and continuations."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language == "console" or self.text.startswith("$ "):
            return [line[2:] for line in lines if line.startswith("$ ")]
        if self.language in {"sh", "bash"}:
            return [line for line in lines if line.strip() and not line.startswith("#")]
        joined = [line for line in _quoted_lines(lines) if line.strip()]
        return joined if joined and all(map(_is_command, joined)) else []


UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""What the parser of command lines raises; typer has no name for it."""
COMMAND_LINE = typer.main.get_command(app)


def parsed(words: list[str]) -> None:
    """Have the real parser read a command line of ours, and run nothing. Raises UsageError."""
    command = COMMAND_LINE
    context, rest = None, words[1:]
    while True:
        context = command.make_context(command.name or words[0], list(rest), parent=context)
        if not isinstance(command, typer.core.TyperGroup):
            return
        rest = [*context._protected_args, *context.args]
        if not rest:
            context.fail("Missing command.")
        _, found, rest = command.resolve_command(context, rest)
        assert found is not None
        command = found


def tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text("utf-8"))


def blocks(page: Path) -> Iterator[Block]:
    for token in tokens(page):
        if token.type in {"fence", "code_block"}:
            assert token.map
            yield Block(page, token.map[0] + 1, token.info.strip(), token.content)


def simple_commands(line: str) -> list[list[str]]:
    """The words of each command of a shell line; assignments before it and redirections are left
    out, and so is the output of `…`, which stands for what the reader has.
    """
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    skipped = False
    for word in lexer:
        if set(word) <= set("();|&"):
            found.append([])
        elif set(word) <= set("<>"):
            skipped = True
        elif skipped:
            skipped = False
        elif found[-1] or not re.match(r"[A-Za-z_]+=", word):
            found[-1].append(word)
    return [words for words in found if words]


def headings(page: Path) -> list[str]:
    """The anchors of a page, as GitHub and the site make them."""
    parsed = tokens(page)
    titles = [
        "".join(part.content for part in (text.children or []) if part.type != "html_inline")
        for opening, text in itertools.pairwise(parsed)
        if opening.type == "heading_open"
    ]
    slugs = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
    earlier = [slugs[:place].count(slug) for place, slug in enumerate(slugs)]
    return [
        f"{slug}-{times}" * bool(times) or slug for slug, times in zip(slugs, earlier, strict=True)
    ]


def links(page: Path) -> Iterator[str]:
    """The targets of links and pictures."""
    for token in tokens(page):
        for part in token.children or []:
            target = part.attrs.get("href") or part.attrs.get("src")
            if isinstance(target, str):
                yield target


def _quoted_lines(lines: list[str]) -> Iterator[str]:
    """Lines joined where a quotation goes on in the next."""
    waiting = ""
    for line in lines:
        waiting = f"{waiting}\n{line}" if waiting else line
        if waiting.count("'") % 2 == 0:
            yield waiting
            waiting = ""
    if waiting:
        yield waiting


def _is_command(line: str) -> bool:
    words = [word for word in line.split() if not re.match(r"[A-Za-z_]+=", word)]
    return bool(words) and Path(words[0]).name in PROGRAMS
