"""LlamaIndex' postprocessor of nodes by Cohere's API."""

import json
import sys

from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.postprocessor.cohere_rerank import CohereRerank

work = json.load(sys.stdin)
nodes = [
    NodeWithScore(node=TextNode(id_=str(place), text=text))
    for place, text in enumerate(work["documents"])
]


def reranker(model: str) -> CohereRerank:
    return CohereRerank(model=model, top_n=3, api_key="none", base_url=work["root"], max_retries=1)


def refused() -> dict[str, object]:
    try:
        reranker("no-such-model").postprocess_nodes(nodes, QueryBundle("x"))
    except Exception as error:  # noqa: BLE001  # which one is the question
        return {"status": error.status_code, "told": str(error.body)}
    return {}


found = reranker(work["model"]).postprocess_nodes(nodes, QueryBundle(work["query"]))
ranking = [{"index": int(one.node.node_id), "score": one.score} for one in found]
json.dump({"rankings": [ranking], "refused": [refused()]}, sys.stdout)
