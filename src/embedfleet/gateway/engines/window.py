"""How much work an engine gets that can't say how much it wants.

Pure. Decides the tokens that may be outstanding there: the setting's, half of it after every
refusal, and slowly more after every answer. Refuses to know calls.
"""

from __future__ import annotations

from dataclasses import dataclass

GROWTH = 1.05
"""Per answer: about fifteen answers undo a refusal."""


@dataclass(slots=True)
class LearnedWindow:
    """Tokens of work that one engine may have outstanding."""

    most_tokens: int
    least_tokens: int
    tokens: int = 0

    def __post_init__(self) -> None:
        self.least_tokens = min(self.least_tokens, self.most_tokens)
        self.tokens = self.most_tokens

    def answered(self) -> int:
        """It answered in time; returns the window."""
        self.tokens = min(self.most_tokens, int(self.tokens * GROWTH) + 1)
        return self.tokens

    def refused(self) -> int:
        """It had too much to do; returns the window."""
        self.tokens = max(self.least_tokens, self.tokens // 2)
        return self.tokens
