"""LangChain's compressor of documents by Cohere's API."""

import json
import sys

import cohere
from langchain_cohere import CohereRerank
from langchain_core.documents import Document

work = json.load(sys.stdin)
client = cohere.ClientV2(api_key="none", base_url=work["root"])
compressor = CohereRerank(client=client, model=work["model"], top_n=3)
documents = [
    Document(page_content=text, metadata={"place": place})
    for place, text in enumerate(work["documents"])
]
found = compressor.compress_documents(documents, work["query"])
ranking = [
    {"index": one.metadata["place"], "score": one.metadata["relevance_score"]} for one in found
]
json.dump({"rankings": [ranking], "refused": []}, sys.stdout)
