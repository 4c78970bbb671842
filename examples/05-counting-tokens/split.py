"""Split a document that is too long for the model, by the model's own tokens.

`/tokenize` tells which tokens a text has, and computes nothing. Pieces are sent back as token ids,
so that none is longer than it was counted.
"""

import os
import sys

from openai import APIConnectionError, OpenAI

SENTENCES = [
    "The Great Wall is a series of fortifications in northern China.",
    "Most of what stands today was built under the Ming dynasty.",
    "其总长度为21196千米。",
] * 200

url = os.environ.get("EMBEDFLEET_URL", "http://127.0.0.1:8080/v1")
with OpenAI(base_url=url, api_key="none") as client:
    try:
        card = client.models.list().data[0]
    except APIConnectionError:
        sys.exit(f"no service answers at {url}: start one with `make serve`, or set EMBEDFLEET_URL")
    limit = card.model_dump()["max_tokens"]
    counted = client.post("/tokenize", body={"model": card.id, "input": SENTENCES}, cast_to=dict)
    pieces = [[]]
    for sentence in counted["data"]:
        ids = sentence["tokens"][:-1]  # without the end-of-text token, which every text gets once
        if len(pieces[-1]) + len(ids) + 1 > limit:
            pieces.append([])
        pieces[-1] += ids
    answer = client.embeddings.create(model=card.id, input=pieces)

print(f"{len(SENTENCES)} sentences, {sum(map(len, pieces)):,} tokens; the model takes {limit:,}")
for piece, one in zip(pieces, answer.data, strict=True):
    print(f"piece {one.index}: {len(piece):5} tokens, {len(one.embedding)} dimensions")
print(f"usage: {answer.usage.prompt_tokens:,} tokens, one more for the end of each piece")
