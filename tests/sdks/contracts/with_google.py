"""Google's own client, google-genai."""

from google import genai
from google.genai import types
from task import error_of, task, tell

work = task()
client = genai.Client(api_key=work.key, http_options=types.HttpOptions(base_url=work.root))


def embed(texts: list[str], **config: object) -> list[list[float]]:
    answer = client.models.embed_content(
        model=work.model, contents=texts, config=types.EmbedContentConfig(**config)
    )
    return [each.values for each in answer.embeddings]


assert work.model in [each.name.removeprefix("models/") for each in client.models.list()]
assert client.models.get(model=work.model).supported_actions[0] == "embedContent"
tell(
    vectors=embed(work.texts),
    query=embed(work.texts[:1], task_type="RETRIEVAL_QUERY")[0],
    short=embed(work.texts, output_dimensionality=64),
    error=error_of(lambda: client.models.embed_content(model="no-such-model", contents="x")),
)
