"""Embedding space ids, to store beside vectors in an index.

Vectors with the same id are comparable, whoever computed them and when. The id is a fingerprint of
everything that determines a vector except its text: weights and configuration (pooling included),
tokenizer, the model's prompts, and precision class. Queries and documents of a model share a
space; shortened vectors belong to that of the full ones and are compared with vectors of the same
dimensions.
"""

from __future__ import annotations

from hashlib import blake2b

import orjson

from embedfleet.api.served_model import UNKNOWN, Promise
from embedfleet.vocabulary import ModelIdentity

_BYTES = 16
_SCHEME = "embedfleet space 1"


def space_id(identity: ModelIdentity, promise: Promise) -> str | None:
    """The id as 32 hexadecimal digits; None where nobody can tell the weights."""
    if promise.revision.startswith(UNKNOWN):
        return None
    decided = [
        _SCHEME,
        promise.revision,
        identity.tokenizer,
        identity.width,
        sorted(identity.prompts.items()),
        promise.precision,
    ]
    return blake2b(orjson.dumps(decided), digest_size=_BYTES).hexdigest()


class Spaces:
    """The ids of the models that are served."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[ModelIdentity, Promise, str | None]] = {}

    def of(self, identity: ModelIdentity, promise: Promise | None) -> str | None:
        """As `space_id`; None too while it is not known what a pool promises."""
        if promise is None:
            return None
        known = self._known.get(id(identity))
        if known is None or known[0] is not identity or known[1] is not promise:
            known = (identity, promise, space_id(identity, promise))
            self._known[id(identity)] = known
        return known[2]
