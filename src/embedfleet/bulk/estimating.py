"""Estimates what a corpus will take before anything is computed."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from embedfleet.bulk.columns import Columns
from embedfleet.bulk.fragments import Limits
from embedfleet.bulk.running import Job, survey
from embedfleet.bulk.sources import found
from embedfleet.client import AsyncClient
from embedfleet.client.flow_control import TOKENS_PER_BYTE


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimated texts, tokens and time."""

    rows: int
    faults: int
    """Rows without a text."""
    distinct: int
    tokens: int
    """Of distinct texts."""
    counted: bool
    """Whether a tokenizer counted a sample; else tokens are estimated from bytes."""
    seconds: float


async def estimate(
    inputs: Sequence[str],
    *,
    text: str,
    input_format: str | None,
    url: str | None,
    model: str | None,
    api_key: str | None,
    tokens_per_s: float,
) -> Estimate:
    """Scan the input; `tokens_per_s` is the throughput of the service. Raises BulkError."""
    job = Job(inputs, Columns(text), input_format=input_format)
    with tempfile.TemporaryDirectory(prefix="embedfleet-") as folder:
        surveyed = survey(found(inputs, input_format), job, Limits(), Path(folder) / "hashes")
    characters = sum(map(len, surveyed.sample)) or 1
    per_character = (
        TOKENS_PER_BYTE * sum(len(each.encode()) for each in surveyed.sample) / characters
    )
    if url is not None and surveyed.sample:
        async with AsyncClient(url, model=model, api_key=api_key, lane="bulk") as client:
            per_character = await client.count_tokens(surveyed.sample) / characters
    texts = surveyed.rows - surveyed.faults
    share = surveyed.duplicates.distinct / max(1, texts)
    tokens = round(surveyed.text_bytes * per_character * share)
    return Estimate(
        surveyed.rows,
        surveyed.faults,
        surveyed.duplicates.distinct,
        tokens,
        url is not None,
        tokens / tokens_per_s,
    )
