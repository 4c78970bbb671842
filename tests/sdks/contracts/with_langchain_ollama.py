"""LangChain's class for Ollama."""

from langchain_ollama import OllamaEmbeddings
from task import error_of, task, tell

work = task()
kept = {"headers": {"authorization": f"Bearer {work.key}"}}


def embeddings(model: str) -> OllamaEmbeddings:
    return OllamaEmbeddings(model=model, base_url=work.root, client_kwargs=kept)


tell(
    vectors=embeddings(work.model).embed_documents(work.texts),
    one=embeddings(work.model).embed_query(work.texts[0]),
    error=error_of(lambda: embeddings("no-such-model").embed_query("x")),
)
