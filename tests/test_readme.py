"""The README: short enough for a newcomer, and the same in both languages."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENGLISH = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)]+)\)")
IN_EACH_LANGUAGE = {"README.md", "README.zh-CN.md"}


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
    links = LINK.findall(section)
    return Counter(re.sub(r"-zh\.png$", ".png", link) for link in links) - Counter(IN_EACH_LANGUAGE)


def words_of_code(section: str) -> Counter[str]:
    return Counter(re.findall(r"`([^`\n]+)`", section))


def figures(section: str) -> Counter[str]:
    """Every number of the prose and the tables, as written; those of names (int8) stay out.

    Chinese counts in ten thousands: 1570 万 are 15.7 million.
    """
    plain = re.sub(r"`[^`\n]+`", "", LINK.sub("]", section))
    plain = re.sub(r"(\d+) 万", lambda found: f"{int(found[1]) / 100:g} million", plain)
    return Counter(re.findall(r"(?<![A-Za-z\d.,])(?:\d[\d,.]*\d|\d)", plain))


def test_the_readme_is_short() -> None:
    assert len(ENGLISH.splitlines()) <= 200
    assert len(CHINESE.splitlines()) <= 200


def test_both_languages_have_the_same_sections_code_tables_and_pictures() -> None:
    assert levels(ENGLISH) == levels(CHINESE)
    assert code(ENGLISH) == code(CHINESE)
    for pattern in (r"^\|.*\|$", r"^!\[", r"^- "):
        english, chinese = (re.findall(pattern, text, re.MULTILINE) for text in (ENGLISH, CHINESE))
        assert len(english) == len(chinese), pattern


@pytest.mark.parametrize("section", range(len(sections(ENGLISH))))
def test_a_section_has_the_same_links_commands_and_figures_in_both_languages(section: int) -> None:
    english, chinese = sections(ENGLISH)[section], sections(CHINESE)[section]
    assert targets(english) == targets(chinese)
    assert words_of_code(english) == words_of_code(chinese)
    assert figures(english) == figures(chinese)


@pytest.mark.parametrize("text", [ENGLISH, CHINESE], ids=["English", "Chinese"])
def test_what_the_readme_links_to_exists(text: str) -> None:
    missing = {link for link in LINK.findall(text) if not (ROOT / link).exists()}
    assert not missing


def test_a_figure_or_a_command_that_changed_in_one_language_is_noticed() -> None:
    assert figures("15.7 million") == figures("1570 万")
    assert figures("p99 341 ms") != figures("p99 342 毫秒")
    assert code("```\nmake serve  # go\n```") != code("```\nmake test  # 运行\n```")
    assert code("```\nmake serve  # go\n```") == code("```\nmake serve  # 运行\n```")
