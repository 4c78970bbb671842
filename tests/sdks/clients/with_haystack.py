"""Haystack. Its embedders can't send further fields; a prompt goes before questions as `prefix`."""

from haystack import Document
from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
from haystack.utils import Secret
from task import KEY, error_of, nearest, task, tell

work = task()


def for_texts(
    model: str = work.model, url: str = work.url, key: str = KEY, **fields: object
) -> OpenAITextEmbedder:
    return OpenAITextEmbedder(
        api_key=Secret.from_token(key), model=model, api_base_url=url, **fields
    )


def documents(texts: list[str]) -> list[list[float]]:
    embedder = OpenAIDocumentEmbedder(
        api_key=Secret.from_token(KEY),
        model=work.model,
        api_base_url=work.url,
        progress_bar=False,
        raise_on_failure=True,
    )
    found = embedder.run([Document(content=text) for text in texts])
    return [one.embedding for one in found["documents"]]


queries = for_texts(prefix=work.prompt)
passages = documents(work.passages)
questions = [queries.run(text)["embedding"] for text in work.questions]
guarded = for_texts(work.small_model, work.guarded_url, work.guarded_key)
wrong = for_texts(work.small_model, work.guarded_url)
busy = for_texts(work.small_model, work.busy_url, "haystack")
tell(
    {
        "passages": passages,
        "nearest": nearest(questions, passages),
        "short": len(for_texts(dimensions=32).run("x")["embedding"]),
        "unknown model": error_of(lambda: for_texts("no-such-model").run("x")),
        "too long": error_of(lambda: documents(["x", work.too_long])),
        "wrong key": error_of(lambda: wrong.run("x")),
        "right key": len([guarded.run("x")["embedding"]]),
        "after 429": len([busy.run("x")["embedding"]]),
    }
)
