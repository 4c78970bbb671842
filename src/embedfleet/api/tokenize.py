"""`POST /tokenize`: the token ids that embeddings would be computed from.

Requests are parsed, validated and bounded like requests for embeddings, so both routes refuse the
same inputs with the same errors.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from embedfleet.api.answer_memory import AnswerRoom, HeldAnswer
from embedfleet.api.contracts.openai import OPENAI
from embedfleet.api.formats.embedding_request import check_dimensions
from embedfleet.api.formats.openai_response import render_tokens
from embedfleet.api.intake import Intake
from embedfleet.api.tokenizing import Tokenizing, whole
from embedfleet.scheduling.texts import Caller
from embedfleet.transport.access import Access, Quota
from embedfleet.transport.asgi import Request, Response
from embedfleet.transport.cancel_scope import CancelScope
from embedfleet.vocabulary import of_several

INLINE_TOKENS = 16_384
"""Answers with no more tokens are written on the event loop; a millisecond."""

BYTES_OF_TOKEN = 12
"""What a token takes while it is answered: four as a number, up to eight as digits and comma."""


class TokenCounting:
    """Answers `POST /tokenize`."""

    def __init__(
        self,
        intake: Intake,
        tokenizing: Tokenizing,
        answers: AnswerRoom,
        access: Access,
        caller: Callable[[Request, Quota], Caller],
    ) -> None:
        """`caller` tells who asks, and until when."""
        self._intake = intake
        self._tokenizing = tokenizing
        self._answers = answers
        self._access = access
        self._caller = caller

    async def answer(self, request: Request) -> Response:
        """Answer one request; raises the errors that a request for vectors would be answered.

        A key pays the estimate of its tokens for the tokenising, and no more.
        """
        held, answer = self._intake.holding(), HeldAnswer(self._answers)
        allowed = self._access.open(request.credentials)
        request.notes["key"] = allowed.key
        response: Response | None = None
        try:
            caller = self._caller(request, allowed)
            held.caller = allowed.key or caller.address
            scope = CancelScope(request, caller.deadline - time.monotonic(), whole=False)
            with scope:
                parsed = await self._intake.read(request, held, scope, OPENAI)
                if parsed.faults:
                    raise of_several(parsed.faults)
                model = self._intake.find(parsed.model)
                check_dimensions(parsed, model.identity.width)
                allowed.enter(model.names[0], len(parsed.inputs))
                every = await self._tokenizing.encode(
                    model, parsed, parsed.inputs, caller, allowed.reserve
                )
                encoded = whole(every)
                tokens = sum(len(text.ids) for text in encoded)
                await answer.take(BYTES_OF_TOKEN * tokens)
                render = partial(
                    render_tokens,
                    [text.ids for text in encoded],
                    [text.truncated for text in encoded],
                    model=parsed.model,
                    max_tokens=model.identity.max_tokens,
                )
                inline = tokens <= INLINE_TOKENS
                written = render() if inline else await self._tokenizing.apart(render)
            response = Response(
                written, headers=allowed.headers(), taken=partial(_taken, answer, allowed)
            )
            return response
        finally:
            held.release()
            if response is None:
                _taken(answer, allowed)


def _taken(answer: HeldAnswer, allowed: Quota) -> None:
    answer.give()
    allowed.close()
