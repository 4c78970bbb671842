"""Model families: recognised from a configuration, with what follows from the family.

This is all that a gateway needs of a family; `engines/architectures.py` has what engines compute.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from embedfleet.vocabulary import Pooling

_QWEN3_QUERY: Final = (
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
)
"""Qwen3-Embedding's prompt for queries; documents have none."""


_PADDING: Final = 1
"""Id of RoBERTa's padding token, where a configuration names none."""


@dataclass(frozen=True, slots=True)
class Family:
    """Models that are computed alike."""

    name: str
    """For people."""
    model_types: tuple[str, ...]
    """Values of `model_type` in config.json."""
    pooling: Pooling
    """Where no file says it, as sentence-transformers has it."""
    query_prompt: str = ""
    """Prompts where no file has any."""
    offset_positions: bool = False
    """Whether a text's first position is the one behind the padding token's id, as in RoBERTa."""
    brackets: tuple[str, str] | None = None
    """Tokens before and after a text, where tokenizer.json puts none itself."""

    def first_position(self, config: Mapping[str, Any]) -> int:
        """Row of the table of positions at which a text begins."""
        if not self.offset_positions:
            return 0
        padding = config.get("pad_token_id")
        return 1 + (padding if type(padding) is int and padding >= 0 else _PADDING)


QWEN3: Final = Family("Qwen3", ("qwen3",), Pooling.LAST, query_prompt=_QWEN3_QUERY)
BERT: Final = Family("BERT", ("bert",), Pooling.MEAN, brackets=("[CLS]", "[SEP]"))
ROBERTA: Final = Family(
    "XLM-RoBERTa",
    ("xlm-roberta", "roberta"),
    Pooling.MEAN,
    offset_positions=True,
    brackets=("<s>", "</s>"),
)

FAMILIES: Final = (QWEN3, BERT, ROBERTA)

UNKNOWN: Final = Family("unknown", (), Pooling.MEAN)
"""Of models that only third-party engines compute; they know more than is said here."""


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a configuration; UNKNOWN where it is none of FAMILIES.

    A configuration without `model_type`, as early checkpoints have it, is taken for Qwen3's.
    """
    named = config.get("model_type", QWEN3.model_types[0])
    return next((family for family in FAMILIES if named in family.model_types), UNKNOWN)
