"""LlamaIndex, by its class for services that are like OpenAI's."""

from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from task import KEY, error_of, nearest, task, tell

work = task()


def embedding(
    model: str = work.model, url: str = work.url, key: str = KEY, **fields: object
) -> OpenAILikeEmbedding:
    return OpenAILikeEmbedding(
        model_name=model, api_base=url, api_key=key, embed_batch_size=8, max_retries=2, **fields
    )


documents = embedding()
queries = embedding(additional_kwargs={"extra_body": {"input_type": "query"}})
passages = documents.get_text_embedding_batch(work.passages)
questions = [queries.get_query_embedding(text) for text in work.questions]
guarded = embedding(work.small_model, work.guarded_url, work.guarded_key)
wrong = embedding(work.small_model, work.guarded_url)
busy = embedding(work.small_model, work.busy_url, "llama index")
tell(
    {
        "passages": passages,
        "nearest": nearest(questions, passages),
        "short": len(embedding(dimensions=32).get_query_embedding("x")),
        "unknown model": error_of(lambda: embedding("no-such-model").get_query_embedding("x")),
        "too long": error_of(lambda: documents.get_text_embedding_batch(["x", work.too_long])),
        "wrong key": error_of(lambda: wrong.get_query_embedding("x")),
        "right key": len([guarded.get_query_embedding("x")]),
        "after 429": len([busy.get_query_embedding("x")]),
    }
)
