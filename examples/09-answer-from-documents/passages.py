"""What this Python's standard library says of itself, in short passages, as JSON lines.

    python passages.py passages.jsonl

A passage is (a part of) the docstring of a public module, class or function, under its full name.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

LIBRARY = Path(sysconfig.get_path("stdlib"))
NOT_FOR_READERS = {"idlelib", "site-packages", "test", "tests", "turtledemo"}
GONE = {"asynchat", "asyncore", "cgi", "cgitb", "crypt", "distutils", "imp", "lib2to3", "mailcap"}
GONE |= {"nntplib", "pipes", "smtpd", "sndhdr", "telnetlib", "uu", "xdrlib"}
"""From later Pythons: nobody should be told to use them."""
LONGEST = 800
"""Characters of a passage: a vector stands for one thing, and a page is about many."""
SHORTEST = 40


def documented(tree: ast.Module, module: str) -> Iterator[tuple[str, str]]:
    """Full name and docstring of whatever is public in a module."""
    waiting: list[tuple[str, ast.AST]] = [(module, tree)]
    while waiting:
        name, node = waiting.pop(0)
        if text := ast.get_docstring(node):  # type: ignore[arg-type]
            yield name, text
        for each in ast.iter_child_nodes(node):
            kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
            if isinstance(each, kinds) and not each.name.startswith("_"):
                waiting.append((f"{name}.{each.name}", each))


def pieces(text: str) -> Iterator[str]:
    """Paragraphs together, as many as fit into a passage; one that is too long by itself is cut."""
    held = ""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if held and len(held) + len(paragraph) > LONGEST:
            yield held
            held = ""
        held = f"{held}\n\n{paragraph}" if held else paragraph[:LONGEST]
    if held:
        yield held


def passages() -> Iterator[dict[str, str]]:
    """A row for each passage, in the order of the files."""
    for file in sorted(LIBRARY.rglob("*.py")):
        path = file.relative_to(LIBRARY).with_suffix("")
        parts = [part for part in path.parts if part != "__init__"]
        if (NOT_FOR_READERS | GONE) & set(parts) or any(part.startswith("_") for part in parts):
            continue
        try:
            tree = ast.parse(file.read_bytes())
        except SyntaxError:
            continue  # some files are there to be wrong
        for name, text in documented(tree, ".".join(parts)):
            for number, piece in enumerate(pieces(text)):
                if len(piece) >= SHORTEST:
                    # The name is a part of the text: many docstrings do not say what they are of.
                    yield {"id": f"{name}#{number}", "name": name, "text": f"{name}: {piece}"}


def main() -> None:
    """Write the file; a name that is defined twice has its first passages."""
    seen: set[str] = set()
    with Path(sys.argv[1]).open("w", encoding="utf-8") as lines:
        for row in passages():
            if row["id"] not in seen:
                seen.add(row["id"])
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(f"{len(seen)} passages in {sys.argv[1]}")


if __name__ == "__main__":
    main()
