"""Request intake, shared by all routes with a body: memory for bodies, and model lookup by name.

A request whose body would exceed the memory bound is refused while it is being read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from embedfleet.api.contracts.contract import Asked, Contract
from embedfleet.api.contracts.ollama import LATEST
from embedfleet.api.formats.fields import by_item_of
from embedfleet.api.formats.openai import (
    EmbeddingRequest,
    RequestLimits,
    is_quickly_read,
)
from embedfleet.api.served_model import ServedModel
from embedfleet.transport.asgi import Request
from embedfleet.transport.cancel_scope import CancelScope
from embedfleet.vocabulary import NoReplicaError, OverloadedError, Task, UnknownModelError

QUOTED = 200
"""Characters of a name that an error repeats: bodies are large, and errors are logged."""

NO_MODEL = "no replica has answered yet, so no model is known; try again soon"


LARGE_AT_ONCE = 2
"""Large bodies that are read at once."""


class _Ending:
    """Ends work in a thread whose caller is gone, and lets the event loop run in between."""

    ended = False

    def __call__(self) -> None:
        if self.ended:
            raise asyncio.CancelledError
        time.sleep(PAUSE_S)


PAUSE_S = 2e-5
"""A thread that never waits holds the GIL for five milliseconds at a time."""


CALLERS_SHARE = 3
"""Most bytes that one caller may hold, as a multiple of those that are free: alone it gets three
quarters, and any number of them leave room for the next, as buffers of switches are shared out
(dynamic thresholds, Choudhury and Hahne 1998)."""


class Holding:
    """What one request holds in memory, to be released at its end."""

    __slots__ = ("_intake", "_size", "caller")

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._size = 0
        self.caller = ""
        """Whose it is: the id of a key, or an address. Known before anything is held."""

    def take(self, size: int) -> None:
        """Hold more; OverloadedError where all requests, or the caller's, hold too much."""
        self._intake.hold(size, self.caller, self._size)
        self._size += size

    def release(self) -> None:
        """Give it all back."""
        if self._size:
            self._intake.release(self._size, self.caller)
            self._size = 0


class Intake:
    """Bodies in, models found."""

    def __init__(
        self,
        models: Callable[[], Mapping[str, ServedModel]],
        *,
        limits: RequestLimits,
        max_body_bytes: int,
        max_held_bytes: int,
        no_model: Callable[[], str] = lambda: NO_MODEL,
    ) -> None:
        """`models` gives the models served right now, by every name that callers may use."""
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)
        self.models = models
        self._no_model = no_model
        self.limits = limits
        self.max_body_bytes = max_body_bytes
        self._max_held_bytes = max_held_bytes
        self._held_bytes = 0
        self._held_by: dict[str, int] = {}

    async def read(
        self, request: Request, held: Holding, scope: CancelScope, contract: Contract
    ) -> EmbeddingRequest:
        """A request, whose body is held as it comes and read beside the event loop if that takes
        long. BodyTooLargeError, OverloadedError, CallerError.
        """
        asked = Asked(request.path, self._limits_of(request))
        body = await request.body(self.max_body_bytes, held.take)
        scope.read()
        if is_quickly_read(body):
            return contract.read(body, asked)
        step = _Ending()
        try:
            # One after the other: they share the interpreter, and memory is bounded so.
            async with self._large:
                read = partial(contract.read_large, body, asked, step)
                return await asyncio.get_running_loop().run_in_executor(None, read)
        finally:
            step.ended = True

    def _limits_of(self, request: Request) -> RequestLimits:
        """The limits as the request's headers have them."""
        wanted = request.header(b"x-embedfleet-on-error")
        if wanted is None:
            return self.limits
        return replace(self.limits, by_item=by_item_of("x-embedfleet-on-error", wanted))

    def hold(self, size: int, caller: str, own: int = 0) -> None:
        """Count bytes among those held in memory; OverloadedError where they are too many.

        `own` are those that the same request holds already: a single one is always admitted, as far
        as there is room; a body of any size is admitted while no other is held.
        """
        others = self._held_bytes - own
        most = self._max_held_bytes
        if others and self._held_bytes + size > most:
            raise OverloadedError(
                f"{self._held_bytes} bytes of requests are being worked on; the limit is "
                f"{most} (gateway.max_queued_bytes); try again later",
                retry_after_s=1,
            )
        theirs = self._held_by.get(caller, 0)
        if theirs > own and theirs + size > CALLERS_SHARE * (most - self._held_bytes - size):
            raise OverloadedError(
                f"{theirs} bytes of this caller's requests are being worked on; the rest of the "
                f"{most} (gateway.max_queued_bytes) is kept for others; try again later",
                retry_after_s=1,
            )
        self._held_bytes += size
        self._held_by[caller] = theirs + size

    def release(self, size: int, caller: str) -> None:
        self._held_bytes -= size
        left = self._held_by.pop(caller) - size
        if left:
            self._held_by[caller] = left

    @staticmethod
    def _only(models: Mapping[str, ServedModel]) -> ServedModel:
        """The model of requests that name none."""
        first, *others = {id(model): model for model in models.values()}.values()
        if not others:
            return first
        known = ", ".join(f"`{each}`" for each in models)
        raise UnknownModelError(
            f"several models are served; send `model`, one of {known}",
            param="model",
            code="model_not_found",
        )

    def find(self, name: str, *, reranks: bool = False) -> ServedModel:
        """The model of this name; UnknownModelError, or NoReplicaError while none is known.

        Without a name, the only one that embeds, or the only one that reranks.
        """
        models = self.models()
        model = models.get(name)
        if not models:
            raise NoReplicaError(self._no_model())
        if not name:
            task = Task.RERANK if reranks else Task.EMBED
            fit = {each: one for each, one in models.items() if one.identity.task is task}
            model = self._only(fit or models)
        elif model is None and name.endswith(LATEST):
            model = models.get(name.removesuffix(LATEST))
        if model is None:
            known = ", ".join(f"`{known}`" for known in models)
            shown = name if len(name) <= QUOTED else f"{name[:QUOTED]}…"
            raise UnknownModelError(
                f"the model `{shown}` does not exist here; served: {known}",
                param="model",
                code="model_not_found",
            )
        return model
