"""Tell the model what a text is for: a question gets a prompt, a document does not.

Qwen3-Embedding was trained so. Look at which document comes first, and by how much: scores of
different prompts are on different scales. Here the plain question is nearest to the sentence that
looks like it, the instruction brings the one that answers it to the front, and the model's own
prompt for queries is in between. OpenAI's client sends our fields through `extra_body`.
"""

import os
import sys

from openai import APIConnectionError, OpenAI

QUESTION = "What is a twin prime?"
TASK = "Given a question, find the sentence that answers it"
DOCUMENTS = {
    "twin primes": "It is conjectured that there are infinitely many twin primes, pairs of primes "
    "with difference 2.",
    "primes": "A prime number (or a prime) is a natural number greater than 1 that has no positive "
    "divisors other than 1 and itself.",
    "products": "A composite number is a product of smaller numbers.",
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
