"""What is written for NVIDIA's NIM: OpenAI's client, with NIM's values."""

import openai
from task import error_of, task, tell

work = task()
client = openai.OpenAI(base_url=f"{work.root}/v1", api_key=work.key, max_retries=0)
answer = client.embeddings.create(
    model=work.model, input=work.texts, extra_body={"input_type": "passage", "truncate": "END"}
)
query = client.embeddings.create(
    model=work.model,
    input=work.texts[:1],
    extra_body={"input_type": "query", "truncate": "NONE"},
)
tell(
    vectors=[each.embedding for each in answer.data],
    query=query.data[0].embedding,
    error=error_of(
        lambda: client.embeddings.create(
            model="no-such-model", input="x", extra_body={"input_type": "query"}
        )
    ),
)
