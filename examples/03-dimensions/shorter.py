"""Ask for shorter vectors: less to store and to compare, nearly the same ranking."""

import os
import sys

from openai import APIConnectionError, OpenAI

QUESTION = "How do I find a pattern in files?"
PASSAGES = {
    "grep": "Find patterns in files using regexes.",
    "tar": "Archiving utility. Often combined with a compression method, such as gzip or bzip2.",
    "df": "Display an overview of the filesystem disk space usage.",
    "ffmpeg": "Video conversion tool.",
}

url = os.environ.get("EMBEDFLEET_URL", "http://127.0.0.1:8080/v1")
with OpenAI(base_url=url, api_key="none") as client:
    try:
        model = client.models.list().data[0].id
    except APIConnectionError:
        sys.exit(f"no service answers at {url}: start one with `make serve`, or set EMBEDFLEET_URL")
    texts = [QUESTION, *PASSAGES.values()]
    full = len(client.embeddings.create(model=model, input=QUESTION).data[0].embedding)

    for dimensions in (full, full // 2, full // 4, 32):
        answer = client.embeddings.create(model=model, input=texts, dimensions=dimensions)
        question, *passages = [one.embedding for one in answer.data]
        scores = [sum(a * b for a, b in zip(question, one, strict=True)) for one in passages]
        best, score = max(zip(PASSAGES, scores, strict=True), key=lambda pair: pair[1])
        print(f"{dimensions:5} dimensions, {4 * dimensions:6} bytes: {best} {score:.3f}")
