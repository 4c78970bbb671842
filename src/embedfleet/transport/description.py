"""A replica's description at `GET /v1/replica`: its fields, their bounds and their JSON.

Descriptions come from untrusted processes, so decoding enforces the bounds: names and fingerprints
are never used as paths, and numbers can't overflow what is computed from them.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from embedfleet.transport.frames import MOST_WIDTH, VERSION
from embedfleet.transport.untrusted import MOST_PAGE_BYTES, parsed
from embedfleet.vocabulary import ModelIdentity, Precision, ReplicaError, Task, UnfitReplicaError

ANNOUNCEMENT = "embedfleet replica listening on "
"""Begins the one line that a replica process writes on standard output; its address follows.
Whoever started the process waits for it."""

_PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*\Z"

Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=256, pattern=_PRINTABLE)]
"""One line."""

Fingerprint: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{8,128})?\Z")]
"""Hexadecimal digits: what is compared, and nothing that could be a path. Empty where there is
nothing to take one of."""

Prompt: TypeAlias = Annotated[str, msgspec.Meta(max_length=16_384)]

Tokens: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]

MOST_SECONDS = 86_400.0

Seconds: TypeAlias = Annotated[float, msgspec.Meta(ge=0.0, le=MOST_SECONDS)]


class ReplicaDescription(msgspec.Struct, frozen=True, kw_only=True):
    """One replica, in its own words."""

    name: Name
    served_names: Annotated[list[Name], msgspec.Meta(max_length=64)]
    revision: Fingerprint
    tokenizer: Fingerprint
    width: Annotated[int, msgspec.Meta(ge=1, le=MOST_WIDTH)]
    max_tokens: Count
    vocabulary: Count
    prompts: Annotated[dict[Name, Prompt], msgspec.Meta(max_length=16)]
    task: Task = Task.EMBED
    precision: Precision
    device: Name
    batch_tokens: Count
    """Tokens of a batch that fills its engine."""
    window: Tokens
    """Tokens of work that a gateway may have outstanding here."""
    cost: tuple[Seconds, Seconds, Seconds]
    """Seconds of a batch as measured here: per batch, per token, per squared token."""
    draining: bool
    batches: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    """Measured batches that `cost` was learned from."""
    busy_s: Annotated[float, msgspec.Meta(ge=0.0, le=1e12)] | None = None
    """Seconds that it has computed since it started; None where they are not counted."""
    oldest_batch_s: Seconds | None = None
    """How long its oldest batch has been computing; None while none is, or if not reported."""
    oldest_batch_predicted_s: Seconds | None = None
    """Within which it should have ended; None where nothing was measured yet."""
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
            task=self.task,
        )


class _Spoken(msgspec.Struct):
    """The field that says how to read the others."""

    wire: int


_version_decoder = msgspec.json.Decoder(_Spoken)
_decoder = msgspec.json.Decoder(ReplicaDescription)


def encode_description(description: ReplicaDescription) -> bytes:
    return msgspec.json.encode(description)


def decode_description(body: bytes) -> ReplicaDescription:
    """ReplicaError when the answer is not that of a replica, or overruns a bound; UnfitReplicaError
    when the replica speaks another version of the wire.
    """
    if len(body) > MOST_PAGE_BYTES:
        raise ReplicaError(f"a description of {len(body)} bytes, more than {MOST_PAGE_BYTES}")
    what = "not a description of an embedfleet replica"
    spoken = parsed(what, _version_decoder.decode, body).wire
    if spoken != VERSION:
        raise UnfitReplicaError(
            f"the replica speaks wire version {spoken}, this gateway {VERSION}: "
            "run the same release of embedfleet on both sides"
        )
    return parsed(what, _decoder.decode, body)
