"""`/tokenize`: which tokens vectors would be computed from, without computing any.

Decides the way of such a request: read, checked and bounded like one for vectors, so that what is
refused there is refused here, with the same words. Refuses to know tokenizers.
"""

from __future__ import annotations

from functools import partial

from embedfleet.access import Access
from embedfleet.endpoint.intake import Intake
from embedfleet.endpoint.tokenizing import Tokenizing
from embedfleet.wire.asgi import Request, Response
from embedfleet.wire.openai import check_dimensions, parse_request
from embedfleet.wire.openai_tokens import render_tokens

INLINE_TOKENS = 16_384
"""Answers with no more tokens are written on the event loop; a millisecond."""

BYTES_OF_TOKEN = 12
"""What a token takes while it is answered: four as a number, up to eight as digits and comma."""


class TokenCounting:
    """Answers `POST /tokenize`."""

    def __init__(self, intake: Intake, tokenizing: Tokenizing, access: Access) -> None:
        self._intake = intake
        self._tokenizing = tokenizing
        self._access = access

    async def answer(self, request: Request) -> Response:
        """Answer one request; raises the errors that a request for vectors would be answered."""
        held = self._intake.holding()
        allowed = self._access.open(request.header(b"authorization"))
        request.notes["key"] = allowed.key
        try:
            body = await self._intake.body(request, held)
            parsed = parse_request(body, self._intake.limits)
            model = self._intake.find(parsed.model)
            check_dimensions(parsed, model.identity.width)
            allowed.enter(model.names[0], len(parsed.inputs))
            encoded = await self._tokenizing.encode(model, parsed, parsed.inputs)
            tokens = sum(len(text.ids) for text in encoded)
            held.take(BYTES_OF_TOKEN * tokens)
            render = partial(
                render_tokens,
                [text.ids for text in encoded],
                [text.truncated for text in encoded],
                model=parsed.model,
                max_tokens=model.identity.max_tokens,
            )
            written = render() if tokens <= INLINE_TOKENS else await self._tokenizing.apart(render)
            return Response(written, headers=allowed.headers())
        finally:
            held.release()
            allowed.close()
