"""`POST /tokenize`: the token ids that embeddings would be computed from.

Requests are parsed, validated and bounded like requests for embeddings, so both routes refuse the
same inputs with the same errors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import orjson

from embedfleet.api.answer_memory import AnswerRoom, HeldAnswer, delivered
from embedfleet.api.contracts.contract import TwoApis
from embedfleet.api.contracts.openai import OPENAI
from embedfleet.api.contracts.tei import TEI_TOKENS, TokensRequest, is_for_tokens
from embedfleet.api.formats.embedding_request import EmbeddingRequest, check_dimensions
from embedfleet.api.formats.openai_response import render_tokens
from embedfleet.api.intake import Holding, Intake
from embedfleet.api.tokenizing import Tokenizing, whole
from embedfleet.models.encoding.tokenizer import SpelledToken
from embedfleet.scheduling.texts import Caller
from embedfleet.transport.access import Access, Quota
from embedfleet.transport.asgi import Request, Response, error_response
from embedfleet.transport.cancel_scope import CancelScope
from embedfleet.vocabulary import EmbedfleetError, of_several

INLINE_TOKENS = 16_384
"""Answers with no more tokens are written on the event loop; a millisecond."""

BYTES_OF_TOKEN = 12
"""What a token takes while it is answered: four as a number, up to eight as digits and comma."""


BYTES_OF_SPELLED = 96
"""The same of one with its text and place."""


APIS: Final = TwoApis(OPENAI, TEI_TOKENS, is_for_tokens)


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
        """`caller` has the key and the deadline."""
        self._intake = intake
        self._tokenizing = tokenizing
        self._answers = answers
        self._access = access
        self._caller = caller

    async def answer(self, request: Request) -> Response:
        """Answer one request; raises the errors that a request for vectors would be answered, but
        those of TEI's form.

        A key pays the estimate of its tokens for the tokenising, and no more.
        """
        held, answer = Holding(self._intake), HeldAnswer(self._answers)
        either = APIS.begin()
        allowed: Quota | None = None
        response: Response | None = None
        try:
            allowed = self._access.open(request.credentials)
            request.notes["key"] = allowed.key
            caller = self._caller(request, allowed)
            held.caller = allowed.key or caller.address
            scope = CancelScope(request, caller.deadline - time.monotonic(), whole=False)
            with scope:
                parsed = await self._intake.read(request, held, scope, either)
                if parsed.faults:
                    raise of_several(parsed.faults)
                written = await self._written(parsed, caller, allowed, answer)
            response = Response(
                written, headers=allowed.headers(), taken=partial(delivered, answer, allowed)
            )
        except EmbedfleetError as error:
            if either.meant is OPENAI:
                raise
            return error_response(error, either.refuse)
        finally:
            held.release()
            if response is None:
                answer.give()
                if allowed is not None:
                    allowed.close()
        return response

    async def _written(
        self, parsed: EmbeddingRequest, caller: Caller, allowed: Quota, answer: HeldAnswer
    ) -> bytes:
        """The answer's body."""
        model = self._intake.find(parsed.model)
        check_dimensions(parsed, model.identity.width)
        allowed.enter(model.names[0], len(parsed.inputs))
        render: Callable[[], bytes]
        if isinstance(parsed, TokensRequest):
            lists = await self._tokenizing.spell(
                model, parsed, caller, allowed.reserve, template=parsed.template
            )
            tokens = sum(map(len, lists))
            await answer.take(BYTES_OF_SPELLED * tokens)
            render = partial(_spelled, lists)
        else:
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
        return render() if tokens <= INLINE_TOKENS else await self._tokenizing.apart(render)


def _spelled(texts: Sequence[Sequence[SpelledToken]]) -> bytes:
    """Write the answer to TEI's request for tokens: a list of tokens for each text."""
    lists = (
        orjson.dumps(
            [
                {
                    "id": each.id,
                    "text": each.text,
                    "special": each.start is None,
                    "start": each.start,
                    "stop": each.stop,
                }
                for each in tokens
            ]
        )
        for tokens in texts
    )
    return b"[%b]" % b",".join(lists)
