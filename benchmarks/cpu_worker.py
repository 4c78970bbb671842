"""One engine in a process of its own, driven line by line; `cpu_engine.py` starts it.

Reads a workload's name per line, answers with a line of JSON: seconds, and with `vectors NAME`
writes its vectors to the file named. Its memory is its own, and so is its Python: rivals may run
in another environment.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from benchmarks.cpu_workloads import WORKLOADS, Texts
from numpy.typing import NDArray

Embed = Callable[[Texts], NDArray[np.float32]]


def embedfleet(directory: Path, dtype: str, threads: int) -> Embed:
    from embedfleet.engine.loading import EngineOptions, load_engine  # noqa: PLC0415

    engine = load_engine(directory, EngineOptions(dtype=dtype, threads=threads))
    return lambda texts: engine.prepare(texts)()


def transformers(directory: Path, dtype: str, threads: int) -> Embed:
    """As the model's card says: padded batches of 32, here sorted by length, last token, L2."""
    import torch  # noqa: PLC0415
    from transformers import AutoModel  # noqa: PLC0415
    from transformers.utils import logging  # noqa: PLC0415

    logging.disable_progress_bar()
    torch.set_num_threads(threads)
    model = AutoModel.from_pretrained(directory, dtype=getattr(torch, dtype)).eval()

    def embed(texts: Texts) -> NDArray[np.float32]:
        order = np.argsort([len(text) for text in texts])
        rows = np.zeros((len(texts), model.config.hidden_size), np.float32)
        for start in range(0, len(texts), 32):
            part = order[start : start + 32]
            lengths = np.array([len(texts[index]) for index in part])
            ids = np.zeros((len(part), lengths.max()), np.int64)
            for row, index in enumerate(part):
                ids[row, : lengths[row]] = texts[index]
            mask = torch.from_numpy((np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64))
            inputs = {"input_ids": torch.from_numpy(ids)}
            if lengths.min() < lengths.max():
                inputs["attention_mask"] = mask
            with torch.inference_mode():
                states = model(**inputs, use_cache=False).last_hidden_state
            last = states[torch.arange(len(part)), torch.from_numpy(lengths - 1)].float()
            rows[part] = torch.nn.functional.normalize(last, dim=1).numpy()
        return rows

    return embed


KINDS = {"embedfleet": embedfleet, "transformers": transformers}


def main() -> None:
    kind, dtype, directory, threads = sys.argv[1:5]
    started = time.perf_counter()
    try:
        embed = KINDS[kind](Path(directory), dtype, int(threads))
    except ImportError as error:
        answer({"missing": str(error)})
        return
    embed([np.array([1, 2, 3], np.int32)])
    answer({"load_s": time.perf_counter() - started})
    workloads = {workload.name: workload for workload in WORKLOADS}
    vocabulary = json.loads((Path(directory) / "config.json").read_text())["vocab_size"]
    for line in sys.stdin:
        name, _, output = line.rstrip("\n").partition("\t")
        texts = workloads[name].texts(vocabulary)
        started, used = time.perf_counter(), time.process_time()
        vectors = embed(texts)
        seconds, processor_s = time.perf_counter() - started, time.process_time() - used
        if output:
            np.save(output, vectors)
        memory = {"peak_mib": memory_mib("VmHWM"), "anonymous_mib": memory_mib("RssAnon")}
        answer({"seconds": seconds, "processor_s": processor_s} | memory)


def memory_mib(field: str) -> float:
    """One of the kernel's figures: VmHWM is the peak, RssAnon what no mapped weights explain.

    Not `getrusage`: its peak begins with that of the process which started this one.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 1024


def answer(message: dict[str, float] | dict[str, str]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
