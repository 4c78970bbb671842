"""Encoders on a GPU, without HTTP: rates, exactness, and transformers in bf16 beside them.

    python -m benchmarks.gpu_encoders [--models MiniLM-L6 bge-base bge-m3] [--seconds 1]

Seeded random weights in the published geometries, mean pooling, random ids. Two threads prepare and
compute, as the batcher's do. transformers (left out where it is not installed) takes the same
texts, all of one length, in bf16 with torch's own attention and no padding. Cosines are to
float32 on the same GPU. Needs a GPU; writes `benchmarks/results/gpu_encoders.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
from benchmarks.gpu_direct import rate, texts_of, timed
from benchmarks.gpu_engine import HERE, hardware

from embedfleet.engines.loading import EngineOptions, load_engine
from tests.encoder_checkpoints import BGE_BASE, BGE_M3, MINILM_L6, write_encoder

MODELS: Final = {"MiniLM-L6": MINILM_L6, "bge-base": BGE_BASE, "bge-m3": BGE_M3}
WORKLOADS: Final = {
    "1x16": [16],
    "64x32": [32] * 64,
    "256x32": [32] * 256,
    "64x128": [128] * 64,
    "16x512": [512] * 16,
}
COMPARED: Final = (1, 5, 16, 33, 64, 65, 100, 128, 300, 512)


def ours(directory: Path) -> dict[str, Any]:
    """Rates in bf16, cosines to float32, and whether the deterministic mode is."""

    def loaded(dtype: str, *, deterministic: bool = False) -> Any:
        return load_engine(
            directory, EngineOptions(device="cuda", dtype=dtype, deterministic=deterministic)
        )

    quick = loaded("bf16")
    texts = texts_of(list(COMPARED), quick.info.vocabulary, 1)
    found: dict[str, Any] = {name: rate(quick, lengths) for name, lengths in WORKLOADS.items()}
    vectors = quick.prepare(texts)()
    quick.close()
    exact = loaded("f32")
    cosines = np.einsum("ij,ij->i", vectors, exact.prepare(texts)())
    exact.close()
    fixed = loaded("bf16", deterministic=True)
    short = [text for text in texts if len(text) <= fixed.info.max_tokens]
    alone = np.concatenate([fixed.prepare([text])() for text in short])
    found["same_bits"] = bool(np.array_equal(fixed.prepare(short)(), alone))
    fixed.close()
    return found | {"cosine_least": float(cosines.min()), "cosine_mean": float(cosines.mean())}


def transformers(directory: Path, seconds: float) -> dict[str, Any]:
    """Tokens/s of the same texts, and the median time of a batch."""
    import torch  # noqa: PLC0415
    from transformers import AutoModel  # noqa: PLC0415

    model = AutoModel.from_pretrained(directory, dtype=torch.bfloat16).cuda().eval()
    found: dict[str, Any] = {}
    for name, lengths in WORKLOADS.items():
        ids = np.stack(texts_of(lengths, model.config.vocab_size, 0)).astype(np.int64)

        def once(ids: np.ndarray = ids) -> None:
            with torch.inference_mode():
                states = model(input_ids=torch.from_numpy(ids).cuda()).last_hidden_state
                pooled = states.float().mean(1)
                torch.nn.functional.normalize(pooled, dim=1).cpu()

        once()
        alone = sorted(timed(once) for _ in range(7))[3]
        count = max(3, int(seconds / alone))
        took = timed(lambda once=once, count=count: [once() for _ in range(count)])  # type: ignore[misc]
        found[name] = {"alone_ms": 1e3 * alone, "tokens_s": sum(lengths) * count / took}
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    models: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for model in options.models:
            directory = write_encoder(Path(folder) / model, MODELS[model])
            models[model] = {"embedfleet": ours(directory)}
            if find_spec("transformers") is not None:
                models[model]["transformers"] = transformers(directory, options.seconds)
            print(model, json.dumps(models[model], indent=1), flush=True)
    record = {
        "command": "python -m benchmarks.gpu_encoders " + " ".join(sys.argv[1:]),
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware(),
        "models": models,
    }
    (HERE / "results" / "gpu_encoders.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
