"""Ollama's own client."""

import ollama
from task import error_of, task, tell

work = task()
client = ollama.Client(host=work.root, headers={"authorization": f"Bearer {work.key}"})
tell(
    vectors=[list(each) for each in client.embed(model=work.model, input=work.texts).embeddings],
    one=list(client.embeddings(model=f"{work.model}:latest", prompt=work.texts[0]).embedding),
    short=[list(each) for each in client.embed(work.model, work.texts, dimensions=64).embeddings],
    models=[each.model for each in client.list().models],
    error=error_of(lambda: client.embed(model="no-such-model", input="x")),
)
