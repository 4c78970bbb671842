"""Retrieve by vectors, then rerank what was found by a model that reads both texts.

The service has an embedder and a reranker: embedfleet serve builtin builtin-reranker
"""

import os

from openai import OpenAI

QUESTION = "How do I see how much disk space is used?"
PASSAGES = [
    "Display an overview of the filesystem disk space usage.",
    "Estimate and summarize file and directory space usage.",
    "Find patterns in files using regexes.",
    "Generate SSH keys used for authentication and password-less logins.",
    "Manage and partition a hard disk.",
]

client = OpenAI(
    base_url=os.environ.get("EMBEDFLEET_URL", "http://127.0.0.1:8080/v1"), api_key="none"
)
models = {card.model_extra.get("task", "embed"): card.id for card in client.models.list()}
rows = client.embeddings.create(model=models["embed"], input=[QUESTION, *PASSAGES]).data
question, *passages = (row.embedding for row in rows)
near = [sum(a * b for a, b in zip(question, each, strict=True)) for each in passages]
best = sorted(range(len(near)), key=near.__getitem__, reverse=True)[:4]
chosen = [PASSAGES[place] for place in best]
body = {"model": models["rerank"], "query": QUESTION, "documents": chosen, "top_n": 2}
print(QUESTION)
for result in client.post("/rerank", body=body, cast_to=dict)["results"]:
    print(f"{result['relevance_score']:.3f} {chosen[result['index']]}")
