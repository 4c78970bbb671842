"""LangChain's class for Azure."""

from langchain_openai import AzureOpenAIEmbeddings
from task import error_of, task, tell

work = task()


def embeddings(model: str) -> AzureOpenAIEmbeddings:
    return AzureOpenAIEmbeddings(
        azure_endpoint=work.root,
        azure_deployment=model,
        api_key=work.key,
        api_version="2024-10-21",
        check_embedding_ctx_length=False,
    )


tell(
    vectors=embeddings(work.model).embed_documents(work.texts),
    error=error_of(lambda: embeddings("no-such-model").embed_query("x")),
)
