"""LangChain's class for Azure."""

from langchain_openai import AzureOpenAIEmbeddings
from task import error_of, task, tell

work = task()
embeddings = AzureOpenAIEmbeddings(
    azure_endpoint=work.root,
    azure_deployment=work.model,
    api_key=work.key,
    api_version="2024-10-21",
    check_embedding_ctx_length=False,
)
unknown = AzureOpenAIEmbeddings(
    azure_endpoint=work.root,
    azure_deployment="no-such-model",
    api_key=work.key,
    api_version="2024-10-21",
    check_embedding_ctx_length=False,
)
tell(
    vectors=embeddings.embed_documents(work.texts),
    error=error_of(lambda: unknown.embed_query("x")),
)
