"""The glossary, and the types and errors that every part shares. Read this first.

Imports nothing of ours, does no I/O and reads no clock.

**The request.** A *client* sends a *request* with one or more *texts* to a *gateway*, in the form
of an API *contract* (OpenAI's, Cohere's, …). The gateway validates, tokenises and answers; it never
computes a vector. A text's *encoding* is its token ids, its *vector* the result: an *embedding*, or
for a *reranker* the *score* of a pair. *Tokens* are the unit of work everywhere: queue lengths,
windows, batches and rate limits count tokens, because a text costs what its tokens cost.

**The fleet.** A *replica* is one process with one *engine* and one model. An *engine* turns token
ids into vectors on one device; a *third-party engine* is a server such as vLLM or TEI that takes a
replica's place. A *pool* is all replicas that serve one model at one *precision* and the queue in
front of them; a *fleet* is a pool's table of replicas. A *provider* starts and stops replicas, a
*supervisor* restarts those that exit. A *worker* is one of several gateway processes at one
address; the *primary* is the process that owns their fleet.

**Queue and delivery.** A text waits in its pool's *queue*, in the *lane* (priority class) of its
request, ordered by *urgency*. *Dispatch* binds it late: only when a replica has room in its
*window*, the tokens that may be outstanding there. A *call* carries texts of several requests to
one replica, which answers in *frames*. While a call has a text, it holds a *lease* on it. A *hedge*
is a second lease on a text that is late; the first answer *settles* the text. A text that was
*lost* with its replica is *requeued*, and one that was lost twice is *isolated* to find out whether
it is the cause. *Draining* is finishing accepted work while taking nothing new.

**Batching.** A replica forms a *batch* from the texts that wait whenever its engine is free; there
is no batching timer. A *pass* (forward pass) is one run of the model over some texts of a batch.
The *cost model* predicts the seconds that a batch takes.

**Health.** A *probe* asks a replica to describe itself. A *trial* makes it reproduce the *golden
vectors*, computed once by the reference engine. *Outlier detection* judges replicas by their calls
and *ejects* those that fail, for a time that grows by *backoff*.

**Cache.** A *key* identifies everything that determines a vector; an *entry* is what is stored
under it. A *tier* is a place for entries: memory, or Redis shared by gateways. *Eviction* removes
entries to make room. *Single-flight* computes a text once that several requests want at the same
time.

**Autoscaling.** The autoscaler makes an *observation* of a pool, turns it into a *decision* (the
wanted number of replicas) and applies that to a *target*: local processes or a Deployment. A *term*
is one reason to have replicas; the largest wins. *Stabilisation* limits how fast the number moves.
A replica on *standby* is loaded but gets no traffic. Among several gateways the holder of a *Lease*
(*leader election*) decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

Encoding: TypeAlias = NDArray[np.int32]
"""The token ids of one text, shape [tokens], end-of-text token included."""

Vector: TypeAlias = NDArray[np.float32]
"""The embedding of one text, shape [width], of unit length."""

Vectors: TypeAlias = NDArray[np.float32]
"""Embeddings of several texts, shape [texts, width], rows of unit length."""


SCORE_WIDTH = 2
"""A score p, the probability that a document meets its query, travels as the vector of unit length
(√(1-p), √p). So it goes every way that embeddings go, and is checked as they are: the cosine of two
such vectors is the Bhattacharyya coefficient of the two distributions (Bhattacharyya, 1943)."""


def counted(number: int, noun: str) -> str:
    """A number with its noun, for people: `1 text`, `1,024 texts`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


class Lane(StrEnum):
    """Which of the two kinds of traffic a text belongs to."""

    INTERACTIVE = "interactive"
    """Someone waits for the answer."""
    BULK = "bulk"
    """Indexing and backfills: throughput matters, latency does not."""


class Role(StrEnum):
    """What a text is for; decides the prompt that is put before it."""

    QUERY = "query"
    DOCUMENT = "document"


class Task(StrEnum):
    """What a model is for."""

    EMBED = "embed"
    """A text becomes a vector."""
    RERANK = "rerank"
    """A query and a document, as one text, become a score: see `SCORE_WIDTH`."""


class Pooling(StrEnum):
    """Which of a text's final states become its vector."""

    LAST = "last"
    """That of the last token, which has seen all others."""
    FIRST = "first"
    """That of the first token, `[CLS]` or `<s>`."""
    MEAN = "mean"
    """The mean of all of them."""


class Truncation(StrEnum):
    """What becomes of a text that is too long."""

    NONE = "none"
    """It is refused."""
    START = "start"
    """Its first tokens are cut off."""
    END = "end"
    """Its last tokens are cut off."""


class Outcome(Enum):
    """How a piece of work ended; health, balancing and admission all read the same three."""

    SUCCEEDED = "succeeded"
    IGNORED = "ignored"
    """Says nothing about the replica: cancelled, or the caller's own mistake."""
    DROPPED = "dropped"
    """The replica failed it: lost connection, time-out, wrong or missing vector."""


class Precision(StrEnum):
    """The numeric class of a pool or a replica."""

    F32 = "f32"
    BF16 = "bf16"
    FP8 = "fp8"
    INT8 = "int8"

    @property
    def rank(self) -> int:
        """Closeness to the reference; a replica may join pools of its own rank or lower."""
        return {Precision.F32: 2, Precision.BF16: 1}.get(self, 0)

    @property
    def least_cosine(self) -> float:
        """The smallest cosine to a golden vector (float32 reference) that still counts as right.

        Measured on Qwen3 geometries: float32 engines agree beyond 0.99999, bf16 beyond 0.999,
        8-bit ones on average beyond 0.995; single texts are given a little more room.
        """
        return {Precision.F32: 0.9999, Precision.BF16: 0.998}.get(self, 0.97)

    def may_join(self, pool: Precision) -> bool:
        """Whether a replica of this class may serve a pool that promises class `pool`."""
        return self is pool or self.rank > pool.rank


class ReplicaState(StrEnum):
    """Where a replica is in its life; the moves between states are in `fleet/states.py`."""

    STARTING = "starting"
    """Its process or endpoint exists and does not answer yet."""
    VERIFYING = "verifying"
    """It answers and must reproduce the golden vectors before it gets traffic."""
    READY = "ready"
    """It gets traffic."""
    SUSPECT = "suspect"
    """It fails, and too many others are out for it to go: the last resort, while none is ready."""
    EJECTED = "ejected"
    """It gets no traffic until its ejection ends and it verifies again."""
    DRAINING = "draining"
    """It finishes what it has and gets nothing new."""
    STANDBY = "standby"
    """It is loaded and well, and gets no traffic until it is woken."""
    GONE = "gone"
    """It no longer exists; its texts went back to the queue."""


@dataclass(frozen=True, slots=True, eq=False)
class PackedText:
    """A text of a large request, as UTF-8 in pieces that end between characters.

    One character beyond the basic plane makes a string four times as large as its UTF-8.
    """

    pieces: tuple[bytes, ...]

    def __len__(self) -> int:
        """Bytes, of which a character has one to four."""
        return sum(map(len, self.pieces))

    def __str__(self) -> str:
        return b"".join(self.pieces).decode()

    def isspace(self) -> bool:
        """As `str.isspace`."""
        return bool(self.pieces) and all(piece.decode().isspace() for piece in self.pieces)


Text: TypeAlias = str | PackedText

TextOrIds: TypeAlias = Text | Sequence[int] | Encoding
"""What a vector is computed of: a text, or token ids."""


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """What two replicas must share to be interchangeable, and what callers see."""

    name: str
    """The name by which the model is known, for instance `Qwen/Qwen3-Embedding-0.6B`."""
    revision: str
    """Fingerprint of the weights and configuration (hex), the same wherever they are stored."""
    tokenizer: str
    """Fingerprint of the tokenizer (hex)."""
    width: int
    """Dimensions of a full vector."""
    max_tokens: int
    """Longest text in tokens, end-of-text token included."""
    vocabulary: int
    """Rows of the embedding table; every token id is below it."""
    prompts: dict[str, str] = field(default_factory=dict, hash=False)
    """Prompt by role name; an absent role has no prompt. A reranker has other ones
    (`models/reranker.py`)."""
    task: Task = Task.EMBED
    """What it is for; of a reranker `width` is that of a score."""


# --------------------------------------------------------------------------------------
# Errors, by whose fault they are. Each knows the HTTP status to answer with.
# --------------------------------------------------------------------------------------


class EmbedfleetError(Exception):
    """Anything that embedfleet reports on purpose."""

    status: ClassVar[int] = 500
    """HTTP status to answer with."""
    kind: str = "server_error"
    """OpenAI's `error.type`."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """HTTP headers that belong to the answer."""
    code: str | None = None
    """OpenAI's `error.code`."""
    param: str | None = None
    """The request parameter that is wrong."""
    parts: Sequence[EmbedfleetError] = ()
    """Where several texts of a request are wrong: the error of each."""

    @property
    def message(self) -> str:
        return str(self)


class CallerError(EmbedfleetError):
    """The request is wrong; sending it again unchanged can't help."""

    status = 400
    kind = "invalid_request_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


NAMED_PLACES = 32
"""Most positions that a message lists; the parts of the error have all of them."""


def of_several(errors: Sequence[CallerError]) -> CallerError:
    """One refusal of a request for what is wrong with its texts, in their order: one error as it
    is, several by the first one's words and code, and the places of all.
    """
    first = errors[0]
    if len(errors) == 1:
        return first
    places = [f"`{each.param}`" for each in errors[1 : NAMED_PLACES + 1]]
    more = len(errors) - 1 - len(places)
    listed = ", ".join(places) + (f" and {more} more" if more else "")
    combined = CallerError(
        f"{first.message} {len(errors)} texts are wrong; the others: {listed}.",
        param=first.param,
        code=first.code,
    )
    combined.parts = tuple(errors)
    return combined


class UnauthorizedError(CallerError):
    """Who asks has no key, or one that is unknown, revoked or expired."""

    status = 401
    headers = ((b"www-authenticate", b"Bearer"),)


class ForbiddenError(CallerError):
    """The key is right and does not allow this."""

    status = 403


class UnknownModelError(CallerError):
    status = 404


class UnknownRouteError(CallerError):
    status = 404


class MethodNotAllowedError(CallerError):
    """The path answers, and not to this method."""

    status = 405

    def __init__(self, message: str, *, allowed: Sequence[str]) -> None:
        """`allowed` are the methods that the path does answer; HEAD wherever GET is."""
        super().__init__(message, code="method_not_allowed")
        also = ("HEAD",) if "GET" in allowed else ()
        self.headers = ((b"allow", ", ".join(sorted({*allowed, *also})).encode()),)


class BodyTooLargeError(CallerError):
    status = 413


class HeadersTooLargeError(CallerError):
    status = 431


class SlowClientError(CallerError):
    status = 408


class MediaTypeError(CallerError):
    """The body is of a type, or encoded in a way, that is not understood here."""

    status = 415


class NotImplementedHereError(CallerError):
    """HTTP has it, and this service does not."""

    status = 501


class UnknownVersionError(CallerError):
    """Not HTTP/1."""

    status = 505


class ServiceError(EmbedfleetError):
    """We can't serve it now; the same request may succeed later."""

    status = 503
    retry_after_s: float | None = None
    """When trying again makes sense, in seconds."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class OverloadedError(ServiceError):
    status = 429
    kind = "rate_limit_error"
    code = "overloaded"


def retry_after_s(wait_s: float) -> float:
    """The `Retry-After` in seconds for room that is expected in `wait_s`: between a second and a
    minute, so that clients neither retry constantly nor stay away for long.
    """
    return min(60.0, max(1.0, wait_s))


class RateLimitedError(OverloadedError):
    """The caller's own limit is used up; others may still be served."""

    code = "rate_limit_exceeded"

    def __init__(
        self,
        message: str,
        *,
        kind: str,
        retry_after_s: float | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        """`kind` is what there was too much of: OpenAI has `tokens` and `requests`."""
        super().__init__(message, retry_after_s=retry_after_s)
        self.kind = kind
        self.headers = headers


class NoReplicaError(ServiceError):
    code = "no_replica"


class DrainingError(ServiceError):
    code = "draining"


class DeadlineError(ServiceError):
    status = 504
    code = "deadline_exceeded"


class ReplicaError(EmbedfleetError):
    """A replica failed a text; another one may do better."""

    status = 502
    code = "replica_failed"


class ReplicaLostError(ReplicaError):
    """The connection broke or the process died before the answer was whole."""


class ReplicaUnreachableError(ReplicaLostError):
    """No connection could be made: nothing was tried there."""


class LoadingReplicaError(ReplicaLostError):
    """It answers, and says that it has not loaded its model yet."""


class EngineLostError(ReplicaError):
    """The engine's device is lost: nothing more can be computed before the process starts anew."""


class EngineHungError(EngineLostError):
    """A batch does not end: the thread that computes it can't be stopped, only its process."""


class UnfitReplicaError(ReplicaError):
    """It answers, and can't serve this pool as it is; the message says what would help."""

    code = "unfit_replica"


class VectorError(ReplicaError):
    """The engine's output for this text is no vector: NaN, Inf or zero length."""

    status = 500
    code = "invalid_vector"


class SetupError(EmbedfleetError):
    """The process can't start as it was asked to: settings, model files, hub, device."""


class SettingError(SetupError):
    """A setting is unknown, malformed or contradicts another."""


class ModelError(SetupError):
    """A model can't be found, fetched, read, or is of a kind that is not supported."""
