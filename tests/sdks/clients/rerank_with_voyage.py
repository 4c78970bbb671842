"""Voyage's own client."""

import json
import sys

import voyageai

work = json.load(sys.stdin)
client = voyageai.Client(api_key="none", base_url=f"{work['root']}/v1")


def refused() -> dict[str, object]:
    try:
        client.rerank("x", ["y"], model="no-such-model")
    except voyageai.error.VoyageError as error:
        return {"status": error.http_status, "told": str(error)}
    return {}


answer = client.rerank(work["query"], work["documents"], model=work["model"], top_k=3)
ranking = [{"index": one.index, "score": one.relevance_score} for one in answer.results]
json.dump({"rankings": [ranking], "refused": [refused()]}, sys.stdout)
