"""How an extra is added to the installation that runs: from where that came from."""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from embedfleet.runtime.extras import command, how_to_add

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("origin", "said"),
    [
        (None, "py -m pip install 'embedfleet[cuda]'"),
        (
            {"url": "file:///srv/a%20clone", "dir_info": {"editable": True}},
            "py -m pip install --editable '/srv/a clone[cuda]'",
        ),
        ({"url": "file:///srv/clone", "dir_info": {}}, "py -m pip install '/srv/clone[cuda]'"),
        (
            {"url": "file:///tmp/embedfleet-0.1.0-py3.whl", "archive_info": {}},
            "py -m pip install 'embedfleet[cuda] @ file:///tmp/embedfleet-0.1.0-py3.whl'",
        ),
        (
            {
                "url": "https://git.example.org/embedfleet",
                "vcs_info": {"vcs": "git", "commit_id": "c0ffee"},
            },
            "py -m pip install 'embedfleet[cuda] @ git+https://git.example.org/embedfleet@c0ffee'",
        ),
    ],
)
def test_an_extra_comes_from_where_embedfleet_came_from(
    origin: dict[str, Any] | None, said: str
) -> None:
    assert command("cuda", origin, "py") == said


def test_from_a_clone_the_command_names_the_clone_and_this_python() -> None:
    words = shlex.split(how_to_add("tracing"))
    assert words[:4] == [sys.executable, "-m", "pip", "install"]
    assert words[-1] == f"{ROOT}[tracing]"


def test_every_extra_that_is_asked_for_exists_and_no_message_or_page_names_an_index() -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = set()
    for file in {*(ROOT / "src").rglob("*.py")} - {ROOT / "src/embedfleet/runtime/extras.py"}:
        text = file.read_text(encoding="utf-8")
        asked |= set(re.findall(r'how_to_add\(["\'](\w+)["\']\)', text))
        assert "pip install 'embedfleet[" not in text, file
        assert 'pip install "embedfleet[' not in text, file
    assert asked
    assert asked <= set(known)
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*")]
    for page in pages:
        if page.is_file() and page.suffix != ".pyc":
            assert not re.search(r"pip install '?embedfleet\b", page.read_text("utf-8")), page
