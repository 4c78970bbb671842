"""OpenAI's own client for Python."""

from openai import OpenAI
from task import KEY, error_of, nearest, task, tell

work = task()
client = OpenAI(base_url=work.url, api_key=KEY)


def embed(texts: list[str] | str, model: str = work.model, **fields: object) -> list[list[float]]:
    answer = client.embeddings.create(model=model, input=texts, **fields)
    return [one.embedding for one in answer.data]


passages = embed(work.passages)
questions = embed(work.questions, extra_body={"input_type": "query"})
busy = OpenAI(base_url=work.busy_url, api_key="openai")
guarded = OpenAI(base_url=work.guarded_url, api_key=work.guarded_key)
wrong = OpenAI(base_url=work.guarded_url, api_key="wrong")
tell(
    {
        "passages": passages,
        "nearest": nearest(questions, passages),
        "short": len(embed("x", dimensions=32)[0]),
        "unknown model": error_of(lambda: embed("x", model="no-such-model")),
        "too long": error_of(lambda: embed(work.too_long)),
        "wrong key": error_of(lambda: wrong.embeddings.create(model=work.small_model, input="x")),
        "right key": len(guarded.embeddings.create(model=work.small_model, input="x").data),
        "after 429": len(busy.embeddings.create(model=work.small_model, input="x").data),
    }
)
