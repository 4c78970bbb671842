"""Pages in two languages are the same page; the README is short enough for a newcomer."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = {
    page: tuple((ROOT / name).read_text("utf-8") for name in (f"{page}.md", f"{page}.zh-CN.md"))
    for page in ("README", "docs/from-the-article")
}
"""Each page in English and in Chinese."""
BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)]+)\)")


def sections(text: str) -> list[str]:
    """Title and body of each section, the opening first; a # within a code block is no heading."""
    plain = BLOCK.sub("", text)
    return re.split(r"^(?=#+ )", plain, flags=re.MULTILINE)[1:]


def levels(text: str) -> list[int]:
    return [len(each) - len(each.lstrip("#")) for each in sections(text)]


def code(text: str) -> list[str]:
    """Code blocks without their comments, which are for reading and so in the reader's language."""
    return [re.sub(r"\s+# .*$", "", block, flags=re.MULTILINE) for block in BLOCK.findall(text)]


def targets(section: str) -> Counter[str]:
    return Counter(re.sub(r"-zh(?=\.png$)|\.zh-CN", "", link) for link in LINK.findall(section))


def words_of_code(section: str) -> Counter[str]:
    return Counter(re.findall(r"`([^`\n]+)`", section))


def figures(section: str) -> Counter[str]:
    """Every number of the prose and the tables, as written; those of names (int8) stay out.

    Chinese counts in ten thousands and in their squares: 1570 万 are 15.7 million.
    """
    plain = re.sub(r"`[^`\n]+`", "", LINK.sub("]", section))
    plain = re.sub(r"(\d+) 万", lambda found: f"{int(found[1]) / 100:g} million", plain)
    plain = re.sub(r"([\d.]+) 亿", lambda found: f"{float(found[1]) / 10:g} billion", plain)
    return Counter(re.findall(r"(?<![A-Za-z\d.,])(?:\d[\d,.]*\d|\d)", plain))


def test_the_readme_is_short() -> None:
    for text in PAGES["README"]:
        assert len(text.splitlines()) <= 200


@pytest.mark.parametrize("page", PAGES)
def test_both_languages_have_the_same_sections_code_tables_and_pictures(page: str) -> None:
    english, chinese = PAGES[page]
    assert levels(english) == levels(chinese)
    assert code(english) == code(chinese)
    for pattern in (r"^\|.*\|$", r"^!\[", r"^- "):
        here, there = (re.findall(pattern, text, re.MULTILINE) for text in PAGES[page])
        assert len(here) == len(there), pattern


@pytest.mark.parametrize(
    ("page", "section"),
    [(page, at) for page in PAGES for at in range(len(sections(PAGES[page][0])))],
)
def test_a_section_has_the_same_links_commands_and_figures_in_both_languages(
    page: str, section: int
) -> None:
    english, chinese = (sections(text)[section] for text in PAGES[page])
    assert targets(english) == targets(chinese)
    assert words_of_code(english) == words_of_code(chinese)
    assert figures(english) == figures(chinese)


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_links_to_exists_in_both_languages(page: str) -> None:
    links = {link for text in PAGES[page] for link in LINK.findall(text)}
    assert not {link for link in links if not (ROOT / page).parent.joinpath(link).exists()}


def test_a_figure_or_a_command_that_changed_in_one_language_is_noticed() -> None:
    assert figures("15.7 million") == figures("1570 万")
    assert figures("p99 341 ms") != figures("p99 342 毫秒")
    assert code("```\nmake serve  # go\n```") != code("```\nmake test  # 运行\n```")
    assert code("```\nmake serve  # go\n```") == code("```\nmake serve  # 运行\n```")
