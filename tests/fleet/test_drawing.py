"""The documented picture of the states is that of the code."""

from pathlib import Path

from embedfleet.fleet.drawing import as_markdown

PAGE = Path(__file__).parents[2] / "docs/states.md"


def test_the_page_is_drawn_from_the_table() -> None:
    """`make docs` writes it anew."""
    assert PAGE.read_text(encoding="utf-8") == as_markdown()
