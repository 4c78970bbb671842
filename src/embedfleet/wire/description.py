"""What a replica says of itself at `GET /v1/replica`.

Decides the fields and their JSON. Refuses to know what a gateway makes of them.
"""

from __future__ import annotations

import msgspec

from embedfleet.vocabulary import ModelIdentity, Precision, ReplicaError
from embedfleet.wire.frames import UNREADABLE, VERSION

ANNOUNCEMENT = "embedfleet replica listening on "
"""Begins the one line that a replica process writes on standard output; its address follows.
Whoever started the process waits for it."""


class ReplicaDescription(msgspec.Struct, frozen=True, kw_only=True):
    """One replica, in its own words."""

    name: str
    served_names: list[str]
    revision: str
    tokenizer: str
    width: int
    max_tokens: int
    vocabulary: int
    prompts: dict[str, str]
    precision: Precision
    device: str
    batch_tokens: int
    """Tokens of a batch that fills its engine."""
    window: int
    """Tokens of work that a gateway may have outstanding here."""
    cost: tuple[float, float, float]
    """Seconds of a batch as measured here: per batch, per token, per squared token."""
    draining: bool
    batches: int = 0
    """Measured batches that `cost` was learned from."""
    busy_s: float | None = None
    """Seconds that it has computed since it started; None where nobody counts them."""
    wire: int = VERSION

    @property
    def identity(self) -> ModelIdentity:
        return ModelIdentity(
            name=self.name,
            revision=self.revision,
            tokenizer=self.tokenizer,
            width=self.width,
            max_tokens=self.max_tokens,
            vocabulary=self.vocabulary,
            prompts=self.prompts,
        )


_decoder = msgspec.json.Decoder(ReplicaDescription)


def encode_description(description: ReplicaDescription) -> bytes:
    return msgspec.json.encode(description)


def decode_description(body: bytes) -> ReplicaDescription:
    """ReplicaError when the answer is not that of a replica of this wire version."""
    try:
        description = _decoder.decode(body)
    except UNREADABLE as error:
        raise ReplicaError(f"no description of an embedfleet replica: {error}") from error
    if description.wire != VERSION:
        raise ReplicaError(
            f"the replica speaks wire version {description.wire}, this gateway {VERSION}: "
            "run the same release of embedfleet on both sides"
        )
    return description
