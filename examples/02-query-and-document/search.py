"""Tell the model what a text is for: a question gets a prompt, a document does not.

Qwen3-Embedding was trained so; questions find their documents better with a prompt. OpenAI's client
sends our fields through `extra_body`.
"""

import os
import sys

from openai import APIConnectionError, OpenAI

QUESTION = "Which command copies files to another machine?"
TASK = "Given a question about the command line, retrieve the command that answers it"
DOCUMENTS = {
    "rsync": "Transfer files either to or from a remote host, by default using SSH.",
    "df": "Display an overview of the filesystem disk space usage.",
    "grep": "Find patterns in files using regexes.",
}
QUERIES = {
    "no prompt": None,
    "input_type: query": {"input_type": "query"},
    "instruction": {"instruction": TASK},
}

url = os.environ.get("EMBEDFLEET_URL", "http://127.0.0.1:8080/v1")
with OpenAI(base_url=url, api_key="none") as client:
    try:
        model = client.models.list().data[0].id
    except APIConnectionError:
        sys.exit(f"no service answers at {url}: start one with `make serve`, or set EMBEDFLEET_URL")

    documents = client.embeddings.create(
        model=model, input=list(DOCUMENTS.values()), extra_body={"input_type": "document"}
    )
    print(QUESTION)
    for name, extra_body in QUERIES.items():
        query = client.embeddings.create(model=model, input=QUESTION, extra_body=extra_body)
        scores = [
            sum(a * b for a, b in zip(query.data[0].embedding, document.embedding, strict=True))
            for document in documents.data
        ]
        ranking = sorted(zip(scores, DOCUMENTS, strict=True), reverse=True)
        listed = ", ".join(f"{document} {score:.3f}" for score, document in ranking)
        print(f"{name:18} {query.usage.prompt_tokens:3} tokens: {listed}")
