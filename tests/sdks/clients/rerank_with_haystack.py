"""Haystack's ranker by Cohere's API, and the same in a loop of events."""

import asyncio
import json
import sys

from haystack import Document
from haystack.utils import Secret
from haystack_integrations.components.rankers.cohere import CohereRanker

work = json.load(sys.stdin)
documents = [Document(id=str(place), content=text) for place, text in enumerate(work["documents"])]


def ranker(model: str) -> CohereRanker:
    return CohereRanker(
        model=model, top_k=3, api_key=Secret.from_token("none"), api_base_url=work["root"]
    )


def told(found: list[Document]) -> list[dict[str, object]]:
    return [{"index": int(one.id), "score": one.score} for one in found]


def refused() -> dict[str, object]:
    try:
        ranker("no-such-model").run(query="x", documents=documents)
    except Exception as error:  # noqa: BLE001  # which one is the question
        return {"status": error.status_code, "told": str(error.body)}
    return {}


async def later() -> list[Document]:
    answer = await ranker(work["model"]).run_async(query=work["query"], documents=documents)
    return answer["documents"]


now = ranker(work["model"]).run(query=work["query"], documents=documents)["documents"]
rankings = [told(now), told(asyncio.run(later()))]
json.dump({"rankings": rankings, "refused": [refused()]}, sys.stdout)
