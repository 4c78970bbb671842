"""How a replica in doubt is asked to compute something: within a time, again where it is silent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from embedfleet.fleet.backoff import Backoff
from embedfleet.fleet.fleet import Member
from embedfleet.vocabulary import DrainingError, EmbedfleetError

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class TrialError(Exception):
    """Why a replica gave no answer; `silent` where it gave none in time."""

    def __init__(self, trouble: str, *, silent: bool = False) -> None:
        super().__init__(trouble)
        self.silent = silent

    @property
    def refusal(self) -> DrainingError | None:
        """What it said where it had too much to do."""
        return self.__cause__ if isinstance(self.__cause__, DrainingError) else None


async def asked(
    member: Member, ask: Callable[[str], Awaitable[Result]], limit_s: float, what: str
) -> Result:
    """What a replica answers within a time. Raises TrialError."""
    try:
        async with asyncio.timeout(limit_s):
            return await ask(member.url)
    except EmbedfleetError as error:
        raise TrialError(f"verification failed: {error.message}") from error
    except TimeoutError as error:  # before OSError, of which it is one
        raise TrialError(f"no {what} within {limit_s:.3g} s", silent=True) from error
    except OSError as error:
        raise TrialError(f"verification failed: {error}") from error
    except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        log.exception("verifying replica %s failed", member.name)
        raise TrialError(f"verification failed: {type(error).__name__}") from error


async def repeated(ask: Callable[[], Awaitable[Result]], pauses: Backoff) -> Result:
    """The first answer of one that is asked again after each pause, until it is cancelled."""
    asked: set[asyncio.Task[Result]] = set()
    try:
        while True:
            asked.add(asyncio.ensure_future(ask()))
            done, _ = await asyncio.wait(
                asked, timeout=pauses.after(len(asked)), return_when=asyncio.FIRST_COMPLETED
            )
            for each in done:
                return each.result()
    finally:
        for each in asked:
            each.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
