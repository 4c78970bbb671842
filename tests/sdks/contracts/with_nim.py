"""What is written for NVIDIA's NIM: OpenAI's client, with NIM's values."""

import openai
from task import error_of, task, tell

work = task()
client = openai.OpenAI(base_url=f"{work.root}/v1", api_key=work.key, max_retries=0)


def embed(texts: list[str], **extra: object) -> list[list[float]]:
    answer = client.embeddings.create(model=work.model, input=texts, extra_body=extra)
    return [each.embedding for each in answer.data]


tell(
    vectors=embed(work.texts, input_type="passage", truncate="END"),
    query=embed(work.texts[:1], input_type="query", truncate="NONE")[0],
    error=error_of(
        lambda: client.embeddings.create(
            model="no-such-model", input="x", extra_body={"input_type": "query"}
        )
    ),
)
