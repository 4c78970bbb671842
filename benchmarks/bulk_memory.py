"""What memory `embedfleet bulk` takes for a long input: the peak of the tool alone.

    python -m benchmarks.bulk_memory --rows 2000000 --format npy

The service is a stand-in in a process of its own that answers each text with the same vector of
256 dimensions, so that nothing but the tool's own work is measured.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from aiohttp import web

WIDTH = 256
VECTOR = base64.b64encode(np.full(WIDTH, 1 / 16, "<f4").tobytes())


async def answer(request: web.Request) -> web.Response:
    """One vector for all."""
    texts = len(orjson.loads(await request.read())["input"])
    data = b",".join(b'{"index":%d,"embedding":"%b"}' % (at, VECTOR) for at in range(texts))
    usage = b'{"prompt_tokens":%d,"total_tokens":%d}' % (30 * texts, 30 * texts)
    body = b'{"object":"list","data":[%b],"model":"m","usage":%b}' % (data, usage)
    return web.Response(body=body, content_type="application/json")


async def models(_request: web.Request) -> web.Response:
    """One model."""
    return web.json_response({"data": [{"id": "m", "dimensions": WIDTH}]})


def serve() -> None:
    """Serve at a free port, which is printed."""
    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/v1/embeddings", answer)
    app.router.add_get("/v1/models", models)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[2]), print=None)


def corpus(path: Path, rows: int, format_: str) -> Path:
    """Texts of about 120 characters; every twentieth comes twice."""
    words = [f"word{n}" for n in range(1000)]
    rng = np.random.default_rng(0)
    if format_ == "parquet":
        import pyarrow as pa  # noqa: PLC0415
        import pyarrow.parquet as pq  # noqa: PLC0415

        schema = pa.schema([("id", pa.int64()), ("text", pa.string())])
        with pq.ParquetWriter(path, schema) as writer:
            for start in range(0, rows, 100_000):
                ids = range(start, min(rows, start + 100_000))
                texts = [text_of(n, words, rng) for n in ids]
                writer.write_table(pa.table({"id": list(ids), "text": texts}, schema=schema))
        return path
    with path.open("w", encoding="utf-8") as file:
        for n in range(rows):
            file.write(json.dumps({"id": n, "text": text_of(n, words, rng)}) + "\n")
    return path


def text_of(number: int, words: list[str], rng: Any) -> str:
    """The text of a row."""
    chosen = " ".join(words[at] for at in rng.integers(0, 1000, 15))
    return f"{number - 1 if number % 20 == 1 else number} {chosen if number % 20 > 1 else ''}"


def peak_mib(pid: int) -> float:
    """The largest resident set that a process had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


def main() -> None:
    """Make the input, run the tool, print its peak as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--format", default="npy")
    parser.add_argument("--folder", default=None)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        end = "parquet" if chosen.format == "parquet" else "jsonl"
        source = corpus(Path(folder) / f"in.{end}", chosen.rows, chosen.format)
        port = 20_000 + os.getpid() % 10_000
        service = subprocess.Popen([sys.executable, __file__, "serve", str(port)])
        time.sleep(3)
        began = time.monotonic()
        words = [str(source), f"{folder}/out", "--url", f"http://127.0.0.1:{port}"]
        tool = subprocess.Popen(
            [sys.executable, "-m", "embedfleet", "bulk", *words, "--format", chosen.format]
        )
        peak = 0.0
        while tool.poll() is None:
            peak = max(peak, peak_mib(tool.pid))
            time.sleep(0.5)
        service.terminate()
        service.wait()
        print(
            json.dumps(
                {
                    "rows": chosen.rows,
                    "format": chosen.format,
                    "exit_code": tool.returncode,
                    "peak_mib": round(peak, 1),
                    "seconds": round(time.monotonic() - began, 1),
                    "input_bytes": source.stat().st_size,
                }
            )
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve()
    else:
        main()
