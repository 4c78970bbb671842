"""Selects the prompt that precedes each text: from the request and the model's configuration."""

from __future__ import annotations

from embedfleet.models.reranker import pair_prompt
from embedfleet.vocabulary import ModelIdentity, Role


def prompt_for(
    identity: ModelIdentity, role: Role | None, instruction: str | None, query: str | None = None
) -> str:
    """Find the prompt to put before each text of a request, empty if there is none.

    Of a reranker, it is what stands before the documents of a query.

    An instruction takes the place of the role's own prompt, whatever the role; without either a
    text is embedded as it is, which is how Qwen3-Embedding embeds documents.
    """
    if query is not None:
        return pair_prompt(identity.prompts, query, instruction)
    if instruction is not None:
        return instruction_prompt(instruction)
    if role is not None:
        return identity.prompts.get(role.value, "")
    return ""


def instruction_prompt(task: str) -> str:
    """Qwen3-Embedding's form for a task in words; no space follows `Query:`."""
    return f"Instruct: {task}\nQuery:"
