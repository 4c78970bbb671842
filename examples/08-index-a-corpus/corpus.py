"""The paragraphs of a tree of gettext catalogues (.po), English and translated, as JSON lines.

    python corpus.py python-docs-zh-cn-3.13.tar.xz corpus.jsonl

Python's documentation is translated in such trees: https://github.com/python/python-docs-zh-cn
"""

from __future__ import annotations

import ast
import json
import re
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

ENTRY = re.compile(r'^msgid ((?:".*"\s*)+)^msgstr ((?:".*"\s*)+)', re.MULTILINE)
SHORTEST = 40
"""Shorter ones are headings and names."""


def texts(catalogue: str) -> Iterator[tuple[str, str]]:
    """Original and translation of each entry."""
    for found in ENTRY.finditer(catalogue):
        original, translation = (
            "".join(ast.literal_eval(line) for line in part.splitlines() if line.strip())
            for part in found.groups()
        )
        if len(original) >= SHORTEST:
            yield original, translation


def main() -> None:
    """Write a line for every paragraph of either language."""
    archive, out = map(Path, sys.argv[1:3])
    with tarfile.open(archive) as pages, out.open("w", encoding="utf-8") as lines:
        for member in sorted(pages.getmembers(), key=lambda each: each.name):
            if not member.name.endswith(".po") or (opened := pages.extractfile(member)) is None:
                continue
            page = member.name.removeprefix("./").removesuffix(".po")
            for number, both in enumerate(texts(opened.read().decode())):
                for language, text in zip(("en", "zh"), both, strict=True):
                    if text:
                        row = {"id": f"{page}#{number}.{language}", "page": page, "text": text}
                        lines.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
