"""What the end of a call, and a single text's failure in it, mean for texts.

Decides whose fault a failure is. Refuses to know what is done about it.
"""

from __future__ import annotations

from asyncio import CancelledError

from embedfleet.gateway.dispatch import Ending
from embedfleet.vocabulary import (
    CallerError,
    DeadlineError,
    EmbedfleetError,
    ReplicaLostError,
    ReplicaUnreachableError,
    VectorError,
)

TEXT_ERRORS: dict[str, type[EmbedfleetError]] = {
    "invalid_vector": VectorError,
    "deadline_exceeded": DeadlineError,
    "ids_not_text": CallerError,
}
"""Failures that are the text's own. Any other is the replica's: the text stays unanswered in its
call, and so goes to another replica when the call ends."""


def ending_of(error: BaseException | None) -> Ending:
    """What an error that ended a call says of the texts that it left."""
    if isinstance(error, ReplicaUnreachableError):
        return Ending.UNREACHED
    lost = isinstance(error, ReplicaLostError | CancelledError)
    return Ending.LOST if lost else Ending.FAILED
