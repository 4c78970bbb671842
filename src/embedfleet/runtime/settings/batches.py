"""Settings of OpenAI's Batch API."""

from __future__ import annotations

from dataclasses import dataclass

from embedfleet.runtime.settings.rules import count, setting


@dataclass(frozen=True, slots=True)
class BatchesSettings:
    """OpenAI's Files and Batch API: requests in a file, answers in a file."""

    directory: str | None = setting(None, none="off")
    """Where files and batches are kept: a folder, or an address that fsspec knows, such as
    `s3://bucket/batches` (its driver is to be installed). `off` answers neither `/v1/files` nor
    `/v1/batches`. Several gateways may share it; one of them at a time runs batches."""
    max_file_bytes: int = count(200 * 2**20)
    """Largest file that is uploaded, in bytes; OpenAI's own limit for batches. Uploads in progress
    lie in temporary files (of `TMPDIR`), in each process at most four times as many bytes; further
    ones are answered 429 with `Retry-After`."""
    max_stored_bytes: int = count(64 * 2**30)
    """Most bytes of files that one key may have here, answers included; beyond it uploads and
    new batches are refused. An object store has no locks: there, uploads to several gateways or
    workers at the same moment may exceed it together."""
    max_files: int = count(10_000)
    """Most files that one key may have here, answers included; beyond it uploads and new batches
    are refused. Each takes two small files of the folder and a kilobyte of memory."""
    max_batches: int = count(10_000)
    """Most batches of one key that are remembered. A further one takes the place of the first that
    has ended; where none has, it is answered 429."""
    max_requests: int = count(50_000)
    """Most requests of a batch; OpenAI's own limit."""
    concurrent_requests: int = count(16)
    """Requests of batches in flight at once, all in the lane `bulk`."""
    file_days: int = count(30, at_most=3650)
    """Days until a file is removed that was not deleted before, and a batch that has ended."""
