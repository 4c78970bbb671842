"""The whole recipe in one command: preparation, three steps, export.

    python -m training.run WORK_FOLDER [--out MODEL_DIRECTORY]

Preparation takes minutes on a CPU; each step takes at most eight minutes on one GPU and starts from
the weights that the last one left in the work folder, so steps may also run on different machines
(see train.py). What is already in the work folder is not made again. `--smoke` runs everything in
miniature, to see that it works; its model is good for nothing.
"""

import argparse
from pathlib import Path

from training.export import export
from training.prepare import FULL, SMOKE, prepare
from training.recipe import GEOMETRIES, SHIPPED, STEPS
from training.train import arguments_parser, train_step

SMOKE_SETTINGS = ["--set", "batch_factor=0.005", "--updates", "2"]


def run(folder: Path, out: Path, *, smoke: bool) -> int:
    """Everything that is not there yet; returns the size of the model directory in bytes."""
    name = "smoke" if smoke else SHIPPED
    geometry = GEOMETRIES[name]
    prepared = folder / str(geometry.vocab_size)
    if not (prepared / "pools.npz.xz").exists():
        prepare(folder, SMOKE if smoke else FULL, [geometry.vocab_size])
    last: Path | None = None
    for step in sorted(STEPS):
        weights = folder / f"step{step}.safetensors"
        if not weights.exists():
            start = ["--start", str(last)] if last else []
            settings = SMOKE_SETTINGS if smoke else []
            line = [str(prepared), "--step", str(step), "--geometry", name, "--out", str(weights)]
            train_step(arguments_parser().parse_args([*line, *start, *settings]))
        last = weights
    assert last is not None  # noqa: S101  # there is at least one step
    return export(last, prepared / "tokenizer.json", geometry, out, floats=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, help="by default WORK_FOLDER/model")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    out = arguments.out or arguments.folder / "model"
    print(f"{out}: {run(arguments.folder, out, smoke=arguments.smoke):,} bytes")


if __name__ == "__main__":
    main()
