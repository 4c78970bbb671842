"""LangChain's class for Ollama."""

from langchain_ollama import OllamaEmbeddings
from task import error_of, task, tell

work = task()
kept = {"headers": {"authorization": f"Bearer {work.key}"}}
embeddings = OllamaEmbeddings(model=work.model, base_url=work.root, client_kwargs=kept)
unknown = OllamaEmbeddings(model="no-such-model", base_url=work.root, client_kwargs=kept)
tell(
    vectors=embeddings.embed_documents(work.texts),
    one=embeddings.embed_query(work.texts[0]),
    error=error_of(lambda: unknown.embed_query("x")),
)
