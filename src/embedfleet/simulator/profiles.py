"""Profiles of simulated replicas: speed, start-up time, failure rate."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

from embedfleet.runtime.text_files import read_text
from embedfleet.vocabulary import SettingError
from embedfleet.work import CostModel


@dataclass(frozen=True, slots=True)
class Profile:
    """One kind of replica. The defaults are those of the published comparison."""

    per_batch_s: float = 4e-3
    """Seconds that any batch takes."""
    tokens_per_s: float = 16_000.0
    """Tokens computed per second beside that."""
    per_squared_token_s: float = 0.0
    """Seconds per squared token count of a text: attention."""
    batch_tokens: int = 16_384
    """Most tokens of a batch; a single longer text runs alone."""
    window_batches: float = 2.0
    """Batches of work that may be outstanding, as a replica grants them: one computes, one is
    next."""
    start_s: float = 120.0
    """Seconds from the order to the first traffic."""
    start_spread: float = 0.0
    """Standard deviation of the logarithm of the start-up time."""
    wake_s: float = 5.0
    """Seconds from standby to the first traffic."""
    life_s: float = math.inf
    """Mean seconds until a replica dies and is started anew."""

    @property
    def cost(self) -> CostModel:
        """The shared cost model with this replica's figures."""
        return CostModel(self.per_batch_s, 1.0 / self.tokens_per_s, self.per_squared_token_s)

    @property
    def window_tokens(self) -> int:
        return round(self.window_batches * self.batch_tokens)

    @property
    def most_per_s(self) -> float:
        """Tokens per second in full batches."""
        return self.batch_tokens / (self.per_batch_s + self.batch_tokens / self.tokens_per_s)


def read(path: Path) -> Profile:
    """Read a TOML file of the fields above; what it leaves out has its default."""
    try:
        given = tomllib.loads(read_text(path, "the profile", SettingError))
    except (ValueError, RecursionError) as error:
        raise SettingError(f"{path} is not valid TOML: {error}") from error
    known = {each.name for each in fields(Profile)}
    for name, value in given.items():
        if name not in known:
            raise SettingError(f"{path}: {name} is unknown; known are {', '.join(sorted(known))}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise SettingError(f"{path}: {name} is {value!r}, not a number of at least 0")
        if name in {"tokens_per_s", "batch_tokens", "window_batches", "life_s"} and not value:
            raise SettingError(f"{path}: {name} must be above 0")
    return Profile(**given)
