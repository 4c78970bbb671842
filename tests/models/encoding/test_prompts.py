"""Which words stand before a text."""

from __future__ import annotations

import pytest

from embedfleet.models.encoding.prompts import prompt_for
from embedfleet.vocabulary import ModelIdentity, Role

WEB_SEARCH = (
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
)
QWEN = ModelIdentity("m", "", "", 64, 512, 600, {"query": WEB_SEARCH})


def test_without_role_and_instruction_a_text_stays_as_it_is() -> None:
    assert prompt_for(QWEN, None, None) == ""


def test_a_query_gets_the_model_s_prompt() -> None:
    assert prompt_for(QWEN, Role.QUERY, None) == WEB_SEARCH


def test_a_document_gets_no_prompt_unless_the_model_has_one() -> None:
    assert prompt_for(QWEN, Role.DOCUMENT, None) == ""
    other = ModelIdentity("m", "", "", 64, 512, 600, {"document": "passage: "})
    assert prompt_for(other, Role.DOCUMENT, None) == "passage: "


@pytest.mark.parametrize("role", [None, *Role])
def test_an_instruction_takes_the_place_of_the_role_s_prompt(role: Role | None) -> None:
    task = "Given a claim, find documents that refute it"
    assert prompt_for(QWEN, role, task) == f"Instruct: {task}\nQuery:"


def test_the_instruction_of_the_article_works() -> None:
    prompt = prompt_for(QWEN, None, "Represent this document for retrieval:")
    assert prompt == "Instruct: Represent this document for retrieval:\nQuery:"
