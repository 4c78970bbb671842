"""The files of a model: which ones a replica hands to its gateway, and whether they have changed.

With the small ones a gateway tokenises and validates requests for a model whose weights it never
sees.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from embedfleet.models.sentence_transformers import TRANSFORMER_FILES
from embedfleet.models.weights import INDEX, weight_files
from embedfleet.vocabulary import ModelError


class _State(NamedTuple):
    """The state of a file: a change of it changes one of these."""

    device: int
    inode: int
    size: int
    written_ns: int
    changed_ns: int


SHARED_FILES = {
    "config.json": 1 << 20,
    "tokenizer.json": 64 << 20,
    "tokenizer_config.json": 4 << 20,
    "special_tokens_map.json": 1 << 20,
    "modules.json": 1 << 20,
    "config_sentence_transformers.json": 1 << 20,
    **dict.fromkeys(TRANSFORMER_FILES, 1 << 20),
    "1_Pooling/config.json": 1 << 20,
    "1_LogitScore/config.json": 1 << 20,
    "reranker.json": 1 << 20,
}
"""Names relative to the model directory, and the most bytes that a gateway takes of each; only the
first two must exist. Gemma's tokenizer.json has 33 MiB, XLM-R's 17, Qwen3's 11."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state in which a model's files were, to tell whether they are as they were."""

    directory: Path
    states: dict[str, _State | None]
    """By name; None where there is no file."""

    @classmethod
    def of(cls, directory: Path) -> Snapshot:
        """Take it; without the shards where their index can't be read."""
        weights: list[str] = []
        with contextlib.suppress(ModelError):
            weights = [path.name for path in weight_files(directory)]
        names = (*SHARED_FILES, INDEX, *weights)
        return cls(directory, {name: _state(directory / name) for name in names})

    def age_s(self) -> float:
        """Seconds since a file of the model was written to, or since 1970."""
        written = [state.written_ns for state in self.states.values() if state is not None]
        return time.time() - max(written, default=0) / 1e9

    def changed(self, name: str) -> bool:
        """Whether a file of the model is another one now, was written to, came or went."""
        return _state(self.directory / name) != self.states[name]

    def first_changed(self) -> str | None:
        """The name of a file that changed; None where all are as they were."""
        return next(filter(self.changed, self.states), None)


def _state(path: Path) -> _State | None:
    try:
        found = path.stat()
    except OSError:
        return None
    times = found.st_mtime_ns, found.st_ctime_ns
    return _State(found.st_dev, found.st_ino, found.st_size, *times)
