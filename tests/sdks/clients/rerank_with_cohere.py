"""Cohere's own client, of its first and its second API."""

import json
import sys

import cohere

work = json.load(sys.stdin)


def ranked(client: object) -> list[dict[str, float]]:
    answer = client.rerank(
        model=work["model"], query=work["query"], documents=work["documents"], top_n=3
    )
    return [{"index": one.index, "score": one.relevance_score} for one in answer.results]


def refused(client: object) -> dict[str, object]:
    try:
        client.rerank(model="no-such-model", query="x", documents=["y"])
    except cohere.core.ApiError as error:
        return {"status": error.status_code, "told": str(error.body)}
    return {}


first = cohere.Client(api_key="none", base_url=work["root"])
second = cohere.ClientV2(api_key="none", base_url=work["root"])
json.dump(
    {"rankings": [ranked(first), ranked(second)], "refused": [refused(first), refused(second)]},
    sys.stdout,
)
