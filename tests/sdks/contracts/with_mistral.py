"""Mistral's own client, mistralai."""

from mistralai.client import Mistral
from task import error_of, task, tell

work = task()
client = Mistral(api_key=work.key, server_url=work.root)


def embed(texts: list[str], **fields: object) -> list[list[float]]:
    answer = client.embeddings.create(model=work.model, inputs=texts, **fields)
    return [each.embedding for each in answer.data]


assert client.models.list().data
int8 = embed(work.texts, output_dimension=64, output_dtype="int8")  # its class makes them floats
tell(
    vectors=embed(work.texts),
    short=embed(work.texts, output_dimension=64),
    int8=[[int(each) for each in row] for row in int8],
    error=error_of(lambda: client.embeddings.create(model="no-such-model", inputs=["x"])),
)
