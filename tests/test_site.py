"""The documentation as a site: pages have their places, links lead somewhere, all is local."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = ROOT / ".venv-site" / "bin"
INDEX = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")


def test_the_index_lists_every_page_once_by_its_purpose() -> None:
    listed = re.findall(r"^- \[[^\]]+\]\(([^)]+)\): .", INDEX, re.MULTILINE)
    assert len(listed) == len(set(listed))
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages <= set(listed)
    assert {each for each in listed if not (ROOT / "docs" / each).exists()} == set()
    assert re.findall(r"^## (.+)$", INDEX, re.MULTILINE)[:4] == [
        *("Tutorials", "How-to guides", "Reference", "Explanation"),
    ]


class Loaded(HTMLParser):
    """What a browser loads for a page without anybody's click."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in {"script", "img", "iframe", "source"}:
            self.addresses.append(given.get("src") or "")
        if tag == "link" and given.get("rel") != "canonical":
            self.addresses.append(given.get("href") or "")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What is kept in the repository, so that nothing here is built over somebody's site."""
    left_out = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "node_modules")
    return Path(shutil.copytree(ROOT, tmp_path / "repository", ignore=left_out))


def built(repository: Path) -> subprocess.CompletedProcess[str]:
    if not (TOOLS / "mkdocs").exists():
        pytest.skip("`make site` installs MkDocs")
    stage = [str(TOOLS / "python"), "docs/site/staging.py"]
    build = [str(TOOLS / "mkdocs"), "build", "--config-file", "docs/site/.mkdocs.yml"]
    for command in (stage, build):
        done = subprocess.run(
            command,
            cwd=repository,
            env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
            timeout=300,
            check=False,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        if done.returncode:
            break
    return done


@pytest.mark.slow
def test_the_site_is_built_strictly_and_loads_nothing_from_elsewhere(copy: Path) -> None:
    done = built(copy)
    assert done.returncode == 0, done.stdout[-3000:]
    pages = sorted((copy / "build" / "site").rglob("*.html"))
    assert len(pages) > 50
    for page in pages:
        parser = Loaded()
        parser.feed(page.read_text(encoding="utf-8"))
        assert parser.addresses, page
        foreign = [each for each in parser.addresses if re.match(r"(?:[a-z]+:)?//", each)]
        assert not foreign, (page, foreign)
        if 'class="mermaid"' in page.read_text(encoding="utf-8"):
            assert any("mermaid" in each for each in parser.addresses), page


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("[a page](nowhere.md)", "nowhere.md"),
        ("[an anchor](cache.md#nowhere)", "nowhere"),
    ],
)
def test_a_link_to_nothing_fails(copy: Path, wrong: str, said: str) -> None:
    page = copy / "docs" / "models.md"
    page.write_text(f"{page.read_text(encoding='utf-8')}\n{wrong}\n", encoding="utf-8")
    done = built(copy)
    assert done.returncode != 0
    assert said in done.stdout
