"""LangChain. Without `check_embedding_ctx_length=False` it would cut texts by OpenAI's tokenizer,
which it downloads, and send the ids: other tokens than this model's."""

from langchain_openai import OpenAIEmbeddings
from task import KEY, error_of, nearest, task, tell

work = task()


def embeddings(
    model: str = work.model, url: str = work.url, key: str = KEY, **fields: object
) -> OpenAIEmbeddings:
    return OpenAIEmbeddings(
        model=model, base_url=url, api_key=key, check_embedding_ctx_length=False, **fields
    )


documents = embeddings()
queries = embeddings(model_kwargs={"extra_body": {"input_type": "query"}})
passages = documents.embed_documents(work.passages)
questions = [queries.embed_query(text) for text in work.questions]
guarded = embeddings(work.small_model, work.guarded_url, work.guarded_key)
wrong = embeddings(work.small_model, work.guarded_url)
busy = embeddings(work.small_model, work.busy_url, "langchain")
tell(
    {
        "passages": passages,
        "nearest": nearest(questions, passages),
        "short": len(embeddings(dimensions=32).embed_query("x")),
        "unknown model": error_of(lambda: embeddings("no-such-model").embed_query("x")),
        "too long": error_of(lambda: documents.embed_documents(["x", work.too_long])),
        "wrong key": error_of(lambda: wrong.embed_query("x")),
        "right key": len([guarded.embed_query("x")]),
        "after 429": len([busy.embed_query("x")]),
    }
)
