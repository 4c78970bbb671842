"""LangChain's class for Cohere: documents and queries have the model's own prompts."""

from langchain_cohere import CohereEmbeddings
from task import error_of, task, tell

work = task()
embeddings = CohereEmbeddings(model=work.model, cohere_api_key=work.key, base_url=work.root)
unknown = embeddings.model_copy(update={"model": "no-such-model"})
tell(
    vectors=embeddings.embed_documents(work.texts),
    query=embeddings.embed_query(work.texts[0]),
    error=error_of(lambda: unknown.embed_query("x")),
)
