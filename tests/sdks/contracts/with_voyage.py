"""Voyage's own client."""

import voyageai
from task import error_of, task, tell

work = task()
client = voyageai.Client(api_key=work.key, base_url=f"{work.root}/v1")


def embed(texts: list[str], **fields: object) -> list[list[float]]:
    return client.embed(texts, model=work.model, **fields).embeddings


tell(
    vectors=embed(work.texts, input_type="document"),
    query=embed(work.texts[:1], input_type="query")[0],
    short=embed(work.texts, output_dimension=64),
    int8=embed(work.texts, output_dimension=64, output_dtype="int8"),
    error=error_of(lambda: client.embed(["x"], model="no-such-model")),
    refused=error_of(lambda: embed([""])),
)
