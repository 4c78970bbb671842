"""A gateway that is killed goes on with its batches when it is started again."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import openai
import orjson
import pytest
from openai.types import Batch

from tests.service import Service, started

pytestmark = pytest.mark.slow

LINES = 200


def client_of(service: Service) -> openai.OpenAI:
    return openai.OpenAI(base_url=service.base_url, api_key="none", max_retries=5)


def requests() -> bytes:
    """Requests of texts that are long enough for a batch to take some seconds."""
    return b"".join(
        orjson.dumps(
            {
                "custom_id": f"request-{number}",
                "method": "POST",
                "url": "/v1/embeddings",
                "body": {
                    "model": "builtin",
                    "input": [f"{number} {at} " + "river stone window " * 40 for at in range(4)],
                    "encoding_format": "base64",
                },
            }
        )
        + b"\n"
        for number in range(LINES)
    )


def completed(batch: Batch) -> int:
    counts = batch.request_counts
    return counts.completed if counts else 0


def finished(client: openai.OpenAI, batch: str, lines: int) -> None:
    """Return when so many lines of a batch are answered."""
    deadline = time.monotonic() + 180
    while completed(found := client.batches.retrieve(batch)) < lines:
        assert found.status in {"validating", "in_progress", "finalizing", "completed"}, found
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def test_a_killed_gateway_loses_no_line_and_answers_none_twice(tmp_path: Path) -> None:
    settings = f"[batches]\ndirectory = {json.dumps(str(tmp_path / 'shelf'))}\n"
    options = {"settings": settings, "arguments": ["--replicas", "1", "--served-name", "builtin"]}
    with started("builtin", log=tmp_path / "first", **options) as service:  # type: ignore[arg-type]
        with client_of(service) as client:
            file = client.files.create(file=("in.jsonl", requests()), purpose="batch")
            batch = client.batches.create(
                input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h"
            )
            finished(client, batch.id, 40)
        service.process.send_signal(signal.SIGKILL)
        service.process.wait(60)
    parts = tmp_path / "shelf" / "batches" / "parts" / batch.id
    # Not what was being written: those files have names that begin with a dot.
    kept = [line for part in parts.glob("[!.]*") for line in part.read_bytes().splitlines()]
    assert len(kept) >= 40
    with (
        started("builtin", log=tmp_path / "second", **options) as service,  # type: ignore[arg-type]
        client_of(service) as client,
    ):
        finished(client, batch.id, LINES)
        deadline = time.monotonic() + 60
        while (done := client.batches.retrieve(batch.id)).status != "completed":
            assert time.monotonic() < deadline, done
            time.sleep(0.05)
        assert done.output_file_id is not None
        answers = client.files.content(done.output_file_id).text.splitlines()
    ids = [json.loads(line)["custom_id"] for line in answers]
    assert sorted(ids) == sorted(f"request-{n}" for n in range(LINES))
    # Lines that were kept are those that came out: they were not answered again.
    assert {line.split(b" ", 2)[2] for line in kept} <= {line.encode() for line in answers}
