"""Maps model names to pools.

Configured names, and names that follow from a model whose files are on this machine, are assigned
before any replica is asked. A pool whose replicas name its model gets that name only while no other
pool has it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from embedfleet.models.description import ModelDescription
from embedfleet.runtime.settings import Pool as PoolSettings
from embedfleet.vocabulary import SettingError, UnfitReplicaError

log = logging.getLogger(__name__)

UNNAMED = "default"
"""The name of a pool in metrics and logs until its model is known."""


def configured(settings: PoolSettings, model: ModelDescription | None) -> tuple[str, ...]:
    """The configured names of a pool, its own first; none if its replicas name the model."""
    if settings.served_names:
        return settings.served_names
    name = model.identity.name if model is not None else settings.model
    return with_short(name) if name else ()


def with_short(name: str) -> tuple[str, ...]:
    """A model's name, and its last part: `Qwen/Qwen3-Embedding-0.6B` is found without `Qwen/`."""
    short = name.rpartition("/")[2]
    return (name, short) if short and short != name else (name,)


class Names:
    """The names of all pools; owners are pool numbers."""

    def __init__(self, pools: Sequence[tuple[PoolSettings, ModelDescription | None]] = ()) -> None:
        """Claim the configured names. Raises SettingError if two pools have the same."""
        self._owners: dict[str, int] = {}
        for number, (settings, model) in enumerate(pools):
            self.claim(number, configured(settings, model) or (UNNAMED,))

    def claim(self, owner: int, names: Sequence[str]) -> Sequence[str]:
        """Claim configured names. Raises SettingError if another pool has one of them."""
        for name in self._taken(owner, names):
            raise SettingError(
                f"pools[{self._owners[name]}] and pools[{owner}] would both serve the name {name}: "
                "give one of them served_names of its own"
            )
        self._owners.update(dict.fromkeys(names, owner))
        return names

    def offer(self, owner: int, names: Sequence[str]) -> tuple[str, ...]:
        """Claim those names of a replica's model that are free, and return them.

        Raises UnfitReplicaError if the first one belongs to another pool.
        """
        taken = list(self._taken(owner, names))
        if names[0] in taken:
            raise UnfitReplicaError(
                f"it calls its model {names[0]}, which pools[{self._owners[names[0]]}] serves: "
                f"give pools[{owner}] served_names of its own"
            )
        for name in taken:
            log.warning(
                "pools[%d] does not get the name %s, which pools[%d] already has",
                owner,
                name,
                self._owners[name],
            )
        free = tuple(name for name in names if name not in taken)
        self._owners.update(dict.fromkeys(free, owner))
        return free

    def _taken(self, owner: int, names: Sequence[str]) -> Iterator[str]:
        return (name for name in names if self._owners.get(name, owner) != owner)
