"""Renders the response of `/tokenize`: token ids in the shape of OpenAI's embeddings response.

One object per text, in order, and usage. Ids never become Python integers.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from embedfleet.vocabulary import Encoding


def render_tokens(
    encodings: Sequence[Encoding], truncated: Sequence[bool], *, model: str, max_tokens: int
) -> bytes:
    """Write the answer to a request for tokens.

    `encodings` are the texts' token ids with prompt and end-of-text token, `truncated` says of each
    whether its end was cut off, `max_tokens` is the longest text that the model takes.
    """
    total = sum(map(len, encodings))
    data = b",".join(
        orjson.dumps(
            {
                "object": "tokens",
                "index": index,
                "tokens": ids,
                "count": len(ids),
                "truncated": cut,
            },
            option=orjson.OPT_SERIALIZE_NUMPY,
        )
        # One by one: the interpreter is held for a text at most, not for all of them.
        for index, (ids, cut) in enumerate(zip(encodings, truncated, strict=True))
    )
    told = orjson.dumps(
        {
            "model": model,
            "max_tokens": max_tokens,
            "usage": {"prompt_tokens": total, "total_tokens": total},
        }
    )
    return b'{"object":"list","data":[%b],%b' % (data, told[1:])
