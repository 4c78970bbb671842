"""LangChain's class for Cohere: documents and queries have the model's own prompts."""

from langchain_cohere import CohereEmbeddings
from task import error_of, task, tell

work = task()


def embeddings(model: str) -> CohereEmbeddings:
    return CohereEmbeddings(model=model, cohere_api_key=work.key, base_url=work.root)


found = embeddings(work.model)
tell(
    vectors=found.embed_documents(work.texts),
    query=found.embed_query(work.texts[0]),
    error=error_of(lambda: embeddings("no-such-model").embed_query("x")),
)
