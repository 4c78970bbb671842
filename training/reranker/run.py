"""The reranker's whole recipe in one command: preparation, one step, export.

    python -m training.reranker.run WORK_FOLDER [--out MODEL_DIRECTORY]

What is already in the work folder is not made again, so that the step may run on another machine
(see train.py). `--smoke` runs everything in miniature, to see that it works; its model is good for
nothing.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from training.prepare import FULL, SMOKE
from training.reranker.data import prepare
from training.reranker.export import LIMIT_BYTES, export
from training.reranker.recipe import GEOMETRIES, SHIPPED
from training.reranker.train import BUILT_IN, arguments_parser, train_step

SMOKE_SIZES = replace(SMOKE, paragraphs=24, sentences=40)
SMOKE_SETTINGS = ["--set", "batch_tokens=9000", "--updates", "2"]


def run(folder: Path, out: Path, *, smoke: bool) -> int:
    """Everything that is not there yet; returns the size of the model directory in bytes."""
    name = "smoke" if smoke else SHIPPED
    pools, weights = folder / "pools.npz.xz", folder / "reranker.safetensors"
    tokenizer = BUILT_IN.with_name("tokenizer.json")
    if not pools.exists():
        prepare(pools, tokenizer, SMOKE_SIZES if smoke else FULL)
    if not weights.exists():
        line = [str(pools), "--geometry", name, "--out", str(weights)]
        settings = SMOKE_SETTINGS if smoke else []
        train_step(arguments_parser().parse_args([*line, *settings]))
    return export(weights, tokenizer, GEOMETRIES[name], out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, help="by default WORK_FOLDER/model")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    out = arguments.out or arguments.folder / "model"
    size = run(arguments.folder, out, smoke=arguments.smoke)
    print(f"{out}: {size:,} bytes")
    if size > LIMIT_BYTES:
        raise SystemExit(f"more than {LIMIT_BYTES:,} bytes")


if __name__ == "__main__":
    main()
