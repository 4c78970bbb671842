"""What docs/clients.md shows of clients are lines of the scripts that are tested."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "clients.md"
SCRIPTS = ROOT / "tests" / "sdks" / "contracts"


def test_every_line_that_is_shown_is_one_of_the_script_named_before_it() -> None:
    text = PAGE.read_text(encoding="utf-8")
    shown = 0
    for block in re.finditer(r"```python\n(.*?)```", text, re.DOTALL):
        name = re.findall(r"contracts/(\w+\.py)\)", text[: block.start()])[-1]
        lines = (SCRIPTS / name).read_text(encoding="utf-8").splitlines()
        for line in block[1].splitlines():
            assert line in lines, (name, line)
        shown += 1
    assert shown >= len(list(SCRIPTS.glob("with_*.py"))) - 1


def test_every_script_has_its_place_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for script in SCRIPTS.glob("with_*.py"):
        assert f"contracts/{script.name})" in text
