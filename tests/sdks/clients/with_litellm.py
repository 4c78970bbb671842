"""LiteLLM's SDK, with its prefix `openai/` for services that are like OpenAI's."""

import litellm
from task import KEY, error_of, nearest, task, tell

work = task()


def embed(
    texts: list[str], model: str = work.model, url: str = work.url, key: str = KEY, **fields: object
) -> list[list[float]]:
    answer = litellm.embedding(
        model=f"openai/{model}", input=texts, api_base=url, api_key=key, max_retries=2, **fields
    )
    return [one["embedding"] for one in answer.data]


small = {"texts": ["x"], "model": work.small_model}
passages = embed(work.passages)
questions = embed(work.questions, extra_body={"input_type": "query"})
tell(
    {
        "passages": passages,
        "nearest": nearest(questions, passages),
        "short": len(embed(["x"], dimensions=32, allowed_openai_params=["dimensions"])[0]),
        "unknown model": error_of(lambda: embed(["x"], model="no-such-model")),
        "too long": error_of(lambda: embed(["x", work.too_long])),
        "wrong key": error_of(lambda: embed(**small, url=work.guarded_url)),
        "right key": len(embed(**small, url=work.guarded_url, key=work.guarded_key)),
        "after 429": len(embed(**small, url=work.busy_url, key="litellm")),
    }
)
