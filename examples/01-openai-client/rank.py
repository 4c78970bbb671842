"""Rank passages by their nearness to a question, with OpenAI's own client."""

import os
import sys

from openai import APIConnectionError, OpenAI

QUESTION = "How do I see how much disk space is used?"
PASSAGES = {
    "df": "Display an overview of the filesystem disk space usage.",
    "tar": "Archiving utility. Often combined with a compression method, such as gzip or bzip2.",
    "ssh-keygen": "Generate SSH keys used for authentication and password-less logins.",
    "rsync": "Transfer files either to or from a remote host, by default using SSH.",
    "grep": "Find patterns in files using regexes.",
    "ffmpeg": "Video conversion tool.",
}

url = os.environ.get("EMBEDFLEET_URL", "http://127.0.0.1:8080/v1")
with OpenAI(base_url=url, api_key="none") as client:
    try:
        model = client.models.list().data[0].id
    except APIConnectionError:
        sys.exit(f"no service answers at {url}: start one with `make serve`, or set EMBEDFLEET_URL")
    answer = client.embeddings.create(model=model, input=[QUESTION, *PASSAGES.values()])

question, *passages = [one.embedding for one in answer.data]

# Vectors have unit length, so their dot product is the cosine of the angle between them.
scores = [sum(a * b for a, b in zip(question, passage, strict=True)) for passage in passages]

print(QUESTION)
for score, name in sorted(zip(scores, PASSAGES, strict=True), reverse=True):
    print(f"{score:6.3f}  {name}: {PASSAGES[name]}")
