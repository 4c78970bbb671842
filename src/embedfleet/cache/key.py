"""Cache keys: two texts share a key if everything that determines their vector is equal."""

from __future__ import annotations

from dataclasses import dataclass, fields
from hashlib import blake2b

import numpy as np

from embedfleet.vocabulary import PackedText, Precision, TextOrIds, Truncation

KEY_BYTES = 32
"""256 bits: collisions can't be found, not even on purpose."""

_SCHEME = b"embedfleet vector 4"
"""Changes with the meaning of a field, and with the way in which keys are made."""

_TEXT, _IDS = b"text", b"ids."

_IDS_AT_ONCE = 16_384
"""Ids are hashed as 64-bit integers, whatever they are held as; so many at a time."""


@dataclass(frozen=True, slots=True)
class VectorIdentity:
    """All that determines a text's vector, beside the text. Every field goes into the key.

    What a caller asks for beyond it (`dimensions`, `encoding_format`) is derived from the vector.
    """

    pool: str
    """The first name of the pool. Pools share no vectors: what else is here, a replica says of
    itself, and one pool's replicas must not answer for another's. Gateways with the same
    configuration give a pool the same name."""
    revision: str
    """Fingerprint of the weights."""
    precision: Precision
    """The class that the pool promises; never that of the replica which computed it."""
    tokenizer: str
    """Fingerprint of the tokenizer."""
    before: tuple[int, ...]
    """Ids of the tokens that are computed before prompt and text."""
    after: tuple[int, ...]
    """Likewise behind them. Files beside the tokenizer's decide on both, and so do versions of this
    program."""
    pooling: str
    """Which states of a text become its vector; a revision that was configured says nothing of
    it."""
    width: int
    max_tokens: int
    """Where a text that is too long is cut, or refused."""
    prompt: str
    """What stands before the text, word for word; two ways to ask for it are one prompt."""
    truncate: Truncation
    """Which end of a text that is too long is cut; where none is, it has no vector."""


class Keys:
    """Keys of texts under one identity."""

    __slots__ = ("_state", "identity")

    def __init__(self, identity: VectorIdentity) -> None:
        self.identity = identity
        # The identity is hashed once; each text goes on from a copy of that state.
        self._state = blake2b(_part(_SCHEME), digest_size=KEY_BYTES)
        for field in fields(identity):
            self._state.update(_part(field.name.encode()))
            self._state.update(_part(_spelled(getattr(identity, field.name))))

    def of(self, text: TextOrIds) -> bytes:
        """The key of a text or of its token ids; a text that spells ids is not those ids.

        Half a surrogate pair, which no tokenizer takes, has a key like any other text.
        """
        state = self._state.copy()
        if isinstance(text, str):
            state.update(_TEXT + text.encode("utf-8", "surrogatepass"))
        elif isinstance(text, PackedText):
            state.update(_TEXT)
            for piece in text.pieces:
                state.update(piece)
        else:
            state.update(_IDS)
            for start in range(0, len(text), _IDS_AT_ONCE):
                state.update(np.array(text[start : start + _IDS_AT_ONCE], "<i8").tobytes())
        return state.digest()


def _spelled(value: object) -> bytes:
    """A field's value with its type, so that `1`, `"1"` and `True` differ."""
    return f"{type(value).__name__}:{value}".encode("utf-8", "surrogatepass")


def _part(content: bytes) -> bytes:
    """With its length, so that nothing can move from one part to the next."""
    return len(content).to_bytes(8, "little") + content
