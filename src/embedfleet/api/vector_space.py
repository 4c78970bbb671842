"""Embedding space ids, to store beside vectors in an index.

Vectors with the same id are comparable, wherever and whenever they were computed. The id is a
fingerprint of everything that determines a vector except its text: weights and configuration,
pooling, tokenizer, the tokens around each text, the model's prompts, and precision class, but not
of truncation. Queries and documents of a model share a space; shortened vectors belong to that of
the full ones and are compared with vectors of the same dimensions.
"""

from __future__ import annotations

from hashlib import blake2b

import orjson

from embedfleet.api.served_model import UNKNOWN, ModelVersion, ServedModel
from embedfleet.models.description import Template
from embedfleet.vocabulary import ModelIdentity

_BYTES = 16
_SCHEME = "embedfleet space 2"


def space_id(
    identity: ModelIdentity,
    version: ModelVersion,
    template: Template,
    pooling: str,
) -> str | None:
    """The id as 32 hexadecimal digits; None where the weights' fingerprint is unknown.

    Pooling and the tokens around a text go in by themselves: a configured revision, or that of a
    third-party engine, does not cover them.
    """
    if version.revision.startswith(UNKNOWN):
        return None
    decided = [
        _SCHEME,
        version.revision,
        identity.tokenizer,
        identity.width,
        sorted(identity.prompts.items()),
        version.precision,
        template.before,
        template.after,
        pooling,
    ]
    return blake2b(orjson.dumps(decided), digest_size=_BYTES).hexdigest()


class Spaces:
    """The ids of the models that are served."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[ServedModel, ModelVersion, str | None]] = {}

    def of(self, model: ServedModel) -> str | None:
        """As `space_id`; None also while the version of the pool's model is not known."""
        version = model.version()
        if version is None:
            return None
        known = self._known.get(id(model))
        if known is None or known[0] is not model or known[1] is not version:
            found = space_id(model.identity, version, model.encoder.template, model.pooling)
            known = self._known[id(model)] = (model, version, found)
        return known[2]
