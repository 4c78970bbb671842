"""OpenAI's client for Azure: the path names the model, a header has the key."""

import openai
from task import error_of, task, tell

work = task()
client = openai.AzureOpenAI(
    azure_endpoint=work.root, api_key=work.key, api_version="2024-10-21", max_retries=0
)


def embed(model: str, texts: list[str], **fields: object) -> list[list[float]]:
    answer = client.embeddings.create(model=model, input=texts, **fields)
    return [each.embedding for each in answer.data]


assert work.model in [each.id for each in client.models.list()]
tell(
    vectors=embed(work.model, work.texts),
    query=embed(work.model, work.texts[:1], extra_body={"input_type": "query"})[0],
    short=embed(work.model, work.texts, dimensions=64),
    error=error_of(lambda: embed("no-such-model", ["x"])),
)
