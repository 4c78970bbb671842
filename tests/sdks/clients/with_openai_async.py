"""OpenAI's own client for Python, its asynchronous half, with requests at the same time."""

import asyncio

from openai import AsyncOpenAI
from task import KEY, error_of, nearest, task, tell

work = task()


async def embed(
    texts: list[str] | str,
    model: str = work.model,
    url: str = work.url,
    key: str = KEY,
    **fields: object,
) -> list[list[float]]:
    async with AsyncOpenAI(base_url=url, api_key=key) as client:
        answer = await client.embeddings.create(model=model, input=texts, **fields)
        return [one.embedding for one in answer.data]


async def all_at_once() -> tuple[list[list[float]], list[list[float]]]:
    passages = await asyncio.gather(*(embed(text) for text in work.passages))
    questions = await embed(work.questions, extra_body={"input_type": "query"})
    return [one for (one,) in passages], questions


passages, questions = asyncio.run(all_at_once())
small = {"texts": "x", "model": work.small_model}
tell(
    {
        "passages": passages,
        "nearest": nearest(questions, passages),
        "short": len(asyncio.run(embed("x", dimensions=32))[0]),
        "unknown model": error_of(lambda: asyncio.run(embed("x", model="no-such-model"))),
        "too long": error_of(lambda: asyncio.run(embed(work.too_long))),
        "wrong key": error_of(lambda: asyncio.run(embed(**small, url=work.guarded_url))),
        "right key": len(asyncio.run(embed(**small, url=work.guarded_url, key=work.guarded_key))),
        "after 429": len(asyncio.run(embed(**small, url=work.busy_url, key="openai async"))),
    }
)
