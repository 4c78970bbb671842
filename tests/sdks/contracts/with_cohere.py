"""Cohere's own client, by its API of version 2; that of version 1 is `cohere.Client`."""

import cohere
from task import error_of, task, tell

work = task()
client = cohere.ClientV2(api_key=work.key, base_url=work.root)
answer = client.embed(
    model=work.model,
    texts=work.texts,
    input_type="search_document",
    embedding_types=["float", "int8", "ubinary"],
    output_dimension=64,
)
query = client.embed(
    model=work.model, texts=work.texts[:1], input_type="search_query", embedding_types=["float"]
)
older = cohere.Client(api_key=work.key, base_url=work.root)
plain = older.embed(model=work.model, texts=work.texts, input_type="search_document")
tell(
    vectors=plain.embeddings,
    query=query.embeddings.float_[0],
    short=answer.embeddings.float_,
    int8=answer.embeddings.int8,
    bits=len(answer.embeddings.ubinary[0]),
    error=error_of(
        lambda: client.embed(model="no-such-model", texts=["x"], input_type="search_query")
    ),
)
