"""Stage the documentation for MkDocs: every page of the index, and whatever those pages link to.

Pages keep their places relative to each other, so that links that are right in the repository are
right on the site. A folder that a page links to gets a list of its files, where it has no README.
The navigation is that of docs/README.md: a section for each heading, a page for each item.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import yaml

ROOT: Final = Path(__file__).parents[2]
INDEX: Final = "docs/README.md"
MERMAID: Final = ROOT / "build/mermaid/dist/mermaid.min.js"
_FENCE: Final = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\]\()([^)\s#]+)(#[^)\s]*)?(\))")


def links(text: str) -> Iterator[str]:
    """Targets of relative links outside code blocks, without their anchors."""
    for found in _LINK.finditer(_FENCE.sub("", text)):
        if not re.match(r"[a-z]+:", found[2]):
            yield found[2]


def sections(index: str) -> dict[str, list[tuple[str, str]]]:
    """Titles and targets of the index's items, by heading."""
    found: dict[str, list[tuple[str, str]]] = {}
    for line in index.splitlines():
        if line.startswith("## "):
            section = found.setdefault(line[3:], [])
        elif item := re.match(r"- \[([^\]]+)\]\(([^)]+)\)", line):
            section.append((item[1], item[2]))
    return found


def resolve(page: str, target: str) -> str:
    """The path within the repository; a folder stands for its README or for a list of its files."""
    path = os.path.normpath(os.path.join(os.path.dirname(page), target))  # noqa: PTH118, PTH120
    if not (ROOT / path).exists() or path.startswith(".."):
        raise SystemExit(f"{page} links to {target}, which does not exist")
    if (ROOT / path).is_dir():
        return f"{path}/README.md"
    return path


def listing(folder: str) -> str:
    """A page that lists a folder's files, with the titles of those that have one."""
    lines = [f"# {folder}", ""]
    for path in sorted((ROOT / folder).iterdir()):
        if path.is_file() and not path.name.startswith((".", "_")):
            title = path.name
            if path.suffix == ".md":
                title = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") or title
            lines.append(f"- [{title}]({path.name})")
    return "\n".join(lines) + "\n"


def staged(page: str, text: str) -> str:
    """The page as MkDocs takes it: links to folders name the page that stands for them."""

    def named(found: re.Match[str]) -> str:
        target = found[2]
        if re.match(r"[a-z]+:", target) or not (ROOT / resolve(page, target)).parent.is_dir():
            return found[0]
        path = resolve(page, target)
        relative = os.path.relpath(path, os.path.dirname(page) or ".")  # noqa: PTH120
        return f"{found[1]}{relative}{found[3] or ''}{found[4]}"

    parts = []
    last = 0
    for fence in _FENCE.finditer(text):
        parts += [_LINK.sub(named, text[last : fence.start()]), fence[0]]
        last = fence.end()
    parts.append(_LINK.sub(named, text[last:]))
    whole = "".join(parts)
    if "```mermaid" not in text:
        return whole
    if not MERMAID.is_file():  # the theme would load it from elsewhere
        return whole.replace("```mermaid", "```text")
    up = "../" * page.count("/")
    return f'{whole}\n<script src="{up}assets/mermaid.min.js"></script>\n'


def stage(destination: Path) -> dict[str, list[tuple[str, str]]]:
    """Write the pages and give the navigation: section, and title and path of each page."""
    shutil.rmtree(destination, ignore_errors=True)
    index = (ROOT / INDEX).read_text(encoding="utf-8")
    navigation = {
        section: [(title, resolve(INDEX, target)) for title, target in items]
        for section, items in sections(index).items()
    }
    waiting = [INDEX, *(page for items in navigation.values() for _, page in items)]
    done: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path in done:
            continue
        done.add(path)
        source, copy = ROOT / path, destination / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix != ".md":
            shutil.copyfile(source, copy)
            continue
        folder = path.removesuffix("/README.md")
        text = source.read_text(encoding="utf-8") if source.is_file() else listing(folder)
        copy.write_text(staged(path, text), encoding="utf-8")
        waiting += [resolve(path, target) for target in links(text)]
    if MERMAID.is_file():
        (destination / "assets").mkdir()
        shutil.copyfile(MERMAID, destination / "assets/mermaid.min.js")
    placed = {path for items in navigation.values() for _, path in items} | {INDEX}
    more = sorted(path for path in done - placed if path.endswith(".md"))
    for path in more:
        first = (destination / path).read_text(encoding="utf-8").partition("\n")[0]
        section = "Decisions" if path.startswith("docs/decisions/") else "Files"
        navigation.setdefault(section, []).append((first.lstrip("# ") or path, path))
    return navigation


def configuration(navigation: dict[str, list[tuple[str, str]]]) -> str:
    """What MkDocs is told beyond mkdocs.yml: where pages have their place."""
    nav = [{"Documentation": INDEX}] + [
        {section: [{title: path} for title, path in items]} for section, items in navigation.items()
    ]
    return yaml.safe_dump({"INHERIT": "mkdocs.yml", "nav": nav}, allow_unicode=True)


def main() -> None:
    """Stage into the folder that mkdocs.yml reads, and write docs/site/.mkdocs.yml."""
    navigation = stage(ROOT / "build/site-source")
    written = ROOT / "docs/site/.mkdocs.yml"
    written.write_text(configuration(navigation), encoding="utf-8")
    pages = sum(map(len, navigation.values()))
    sys.stdout.write(f"{pages} pages staged\n")


if __name__ == "__main__":
    main()
