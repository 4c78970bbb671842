"""A batch is answered as its endpoint answers, whatever it is for."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import openai
import pytest

from tests.reranker_checkpoints import write_served_reranker
from tests.service import Service, started

pytestmark = pytest.mark.slow

QUERY, DOCUMENTS = "How long is the river?", ["It is long.", "The sea.", "A mountain."]
Bodies: TypeAlias = list[dict[str, Any]]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("batches")
    reranker = write_served_reranker(folder / "small-reranker")
    settings = f"[batches]\ndirectory = {json.dumps(str(folder / 'shelf'))}\n"
    command = ["serve", "builtin", str(reranker), "--replicas", "1"]
    with started("", log=folder / "log", command=command, settings=settings) as running:
        yield running


def answers(service: Service, endpoint: str, bodies: Bodies) -> tuple[Bodies, Bodies]:
    """What a batch of these gives: answers and errors, in the order of the bodies."""
    lines = [
        {"custom_id": f"{at}", "method": "POST", "url": endpoint, "body": body}
        for at, body in enumerate(bodies)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    with openai.OpenAI(base_url=service.base_url, api_key="none", max_retries=5) as client:
        file = client.files.create(file=("in.jsonl", text.encode()), purpose="batch")
        wanted: Any = endpoint  # openai-python lists OpenAI's own
        window: Literal["24h"] = "24h"
        batch = client.batches.create(
            input_file_id=file.id, endpoint=wanted, completion_window=window
        )
        deadline = time.monotonic() + 120
        while (done := client.batches.retrieve(batch.id)).status != "completed":
            assert done.status in {"validating", "in_progress", "finalizing"}, done
            assert time.monotonic() < deadline, done
            time.sleep(0.1)
        return tuple(
            sorted(
                (
                    json.loads(line)
                    for line in (
                        "" if name is None else client.files.content(name).text
                    ).splitlines()
                ),
                key=lambda line: int(line["custom_id"]),
            )
            for name in (done.output_file_id, done.error_file_id)
        )  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("endpoint", "bodies"),
    [
        ("/v1/rerank", [{"query": QUERY, "documents": DOCUMENTS, "top_n": 2}] * 2),
        ("/v1/score", [{"text_1": QUERY, "text_2": DOCUMENTS}]),
        (
            "/v1/embeddings",
            [
                {"model": "builtin", "input": QUERY, "output_dtype": kind, "dimensions": 64}
                for kind in ("int8", "ubinary", "float16")
            ],
        ),
    ],
)
def test_a_line_is_answered_as_the_endpoint_answers(
    endpoint: str, bodies: Bodies, service: Service
) -> None:
    if endpoint != "/v1/embeddings":
        bodies = [{"model": "small-reranker", **body} for body in bodies]
    found, wrong = answers(service, endpoint, bodies)
    assert not wrong
    for body, line in zip(bodies, found, strict=True):
        status, expected = service.post(endpoint, body)
        assert (status, line["response"]["status_code"]) == (200, 200)
        got = line["response"]["body"]
        assert got | {"id": ""} == expected | {"id": ""}


def test_what_no_line_of_json_can_hold_and_what_is_of_another_task_are_errors(
    service: Service,
) -> None:
    asked = {"model": "builtin", "input": ["a"]}
    found, wrong = answers(
        service,
        "/v1/embeddings",
        [asked, asked | {"encoding_format": "bytes_only"}, asked | {"model": "small-reranker"}],
    )
    assert [line["custom_id"] for line in found] == ["0"]
    assert [line["response"]["body"]["error"]["code"] for line in wrong] == [
        "invalid_value",
        "wrong_task",
    ]
