"""Attention of a pass on a GPU by the shape of its tiles, and by cuDNN.

    python -m benchmarks.gpu_attention --sizes 0.6B 4B --dtypes bf16 fp8

What the engine selects tiles from. Attention with all that belongs to it (RoPE, in FP8 the
quantisation), as the engine calls it, in a CUDA graph of eight layers, each with queries, keys and
values of its own, so that little of them is in the cache. All shapes take turns; medians over the
rounds are told, beside the time in which a copy moves as many bytes as attention must. `cuDNN`
computes the texts of a length together. Needs a GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from benchmarks.gpu_checkpoint import GEOMETRIES
from benchmarks.gpu_engine import HERE, hardware

from embedfleet.engines.cuda.fused import TILES, FusedOperations
from embedfleet.engines.cuda.layout import lay_out
from embedfleet.engines.cuda.linear import Ready
from embedfleet.engines.cuda.plain import Heads, Rotation, parts_of
from embedfleet.engines.qwen3 import Qwen3Config
from embedfleet.engines.rope import cosines_and_sines

PASSES: Final = {
    "256x32": [32] * 256,
    "64x128": [128] * 64,
    "16x512": [512] * 16,
    "8x1024": [1024] * 8,
    "4x2048": [2048] * 4,
    "1x8192": [8192],
}
SHAPES: Final = (
    TILES,
    replace(TILES, stages=2),
    replace(TILES, stages=4),
    replace(TILES, stages=5),
    replace(TILES, keys=64, stages=2),
    replace(TILES, keys=64),
    replace(TILES, keys=64, stages=4),
    replace(TILES, rows=128, keys=64, warps=8),
    replace(TILES, rows=128, keys=64, warps=8, stages=2),
    replace(TILES, rows=128, keys=128, warps=8, stages=2),
)
LAYERS: Final = 8
ROUNDS: Final = 9
_NEVER: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Contender:
    """Operations, and how they cut texts into tiles."""

    name: str
    operations: FusedOperations
    tile_tokens: int
    alone_from: int = _NEVER


class Graph:
    """The attention of `LAYERS` layers of a pass."""

    def __init__(self, contender: Contender, lengths: list[int], layers: list[Heads]) -> None:
        layout = lay_out(
            lengths, tile_tokens=contender.tile_tokens, alone_from=contender.alone_from
        )
        array = np.zeros(layout.shape.size, np.int32)
        layout.write([np.zeros(n, np.int32) for n in lengths], layout.shape, array)
        _, texts = parts_of(torch.from_numpy(array).cuda(), layout.shape, layout)
        self._texts = texts  # which the graph reads
        operations = contender.operations
        self.result = wide(operations.attend(copied(layers[0]), texts, last=False))
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            for heads in layers:
                operations.attend(heads, texts, last=False)

    def microseconds(self) -> float:
        """Of one layer, in a single run."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        self._graph.replay()
        end.record()
        end.synchronize()
        return 1e3 * begin.elapsed_time(end) / LAYERS


def copied(heads: Heads) -> Heads:
    """The same with numbers of their own, for keys and queries are normed in place."""
    parts = heads.queries, heads.keys, heads.values
    mixed = torch.cat(parts, dim=1).split([each.shape[1] for each in parts], dim=1)
    return replace(heads, queries=mixed[0], keys=mixed[1], values=mixed[2])


def wide(ready: Ready) -> torch.Tensor:
    values = ready.values.float()
    return values if ready.scales is None else values * ready.scales


def contenders(config: Qwen3Config, *, fp8: bool) -> list[Contender]:
    table = cosines_and_sines(config, max(map(max, PASSES.values())))
    rotation = Rotation(*(torch.from_numpy(each).cuda() for each in table))
    tiled = [
        Contender(
            ", ".join(f"{name} {value}" for name, value in asdict(shape).items() if value),
            FusedOperations(config, rotation, fp8=fp8, early=True, tiles=shape),
            shape.tokens(config),
        )
        for shape in SHAPES
    ]
    operations = FusedOperations(config, rotation, fp8=fp8, early=True)
    return [*tiled, Contender("cuDNN", operations, TILES.tokens(config), alone_from=512)]


def layers_of(config: Qwen3Config, tokens: int) -> list[Heads]:
    """Of random numbers; views of one matrix, as they leave their product."""
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    dice = torch.Generator("cuda").manual_seed(1)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=dice, device="cuda", dtype=torch.bfloat16)

    made = [random(tokens, queries + 2 * keys) for _ in range(LAYERS)]
    ones = torch.ones(config.head_dim, device="cuda", dtype=torch.bfloat16)
    return [
        Heads(
            each[:, :queries],
            each[:, queries : queries + keys],
            each[:, queries + keys :],
            ones,
            ones,
        )
        for each in made
    ]


def copied_us(layers: list[Heads]) -> float:
    """Time of a copy that moves the bytes of queries, keys, values and the result."""
    moved = sum(each.nbytes for each in (layers[0].keys, layers[0].values, layers[0].queries))
    half = torch.empty((moved + layers[0].queries.nbytes) // 2, dtype=torch.int8, device="cuda")
    other = torch.empty_like(half)
    taken = []
    for _ in range(ROUNDS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(LAYERS):
            other.copy_(half)
        end.record()
        end.synchronize()
        taken.append(1e3 * begin.elapsed_time(end) / LAYERS)
    return statistics.median(taken)


def measured(config: Qwen3Config, lengths: list[int], *, fp8: bool) -> dict[str, Any]:
    """Microseconds of a layer's attention by contender, and how far each is from the first."""
    layers = layers_of(config, sum(lengths))
    graphs: dict[str, Graph] = {}
    refused: dict[str, str] = {}
    for each in contenders(config, fp8=fp8):
        if each.alone_from <= min(lengths) or each.alone_from == _NEVER:
            try:
                graphs[each.name] = Graph(each, lengths, layers)
            except Exception as error:  # noqa: BLE001 - a shape that this GPU has no room for
                refused[each.name] = f"{type(error).__name__}: {error}"[:200]
    taken: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(ROUNDS):
        for name, graph in graphs.items():
            taken[name].append(graph.microseconds())
    first = next(iter(graphs.values())).result
    return {
        "copy_us": round(copied_us(layers), 1),
        "us": {name: round(statistics.median(each), 1) for name, each in taken.items()},
        "apart": {
            name: float(f"{float((graph.result - first).norm() / first.norm()):.2g}")
            for name, graph in graphs.items()
        },
        "refused": refused,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=sorted(GEOMETRIES), default=["0.6B", "4B"])
    parser.add_argument("--dtypes", nargs="+", choices=["bf16", "fp8"], default=["bf16", "fp8"])
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gpu_attention.json")
    given = parser.parse_args()
    report: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "command": "python -m benchmarks.gpu_attention " + " ".join(sys.argv[1:]),
        "results": {},
    }
    for size in given.sizes:
        g = GEOMETRIES[size]
        config = Qwen3Config(
            *(g.hidden, g.layers, g.heads, g.kv_heads, g.head_dim, g.intermediate, g.vocabulary),
            *(1e-6, 1e6, g.positions, True),
        )
        for dtype in given.dtypes:
            with torch.inference_mode():
                found = {
                    name: measured(config, lengths, fp8=dtype == "fp8")
                    for name, lengths in PASSES.items()
                }
            report["results"][f"{size} {dtype}"] = found
            given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
            for name, one in found.items():
                print(size, dtype, name, f"copy {one['copy_us']:.1f} us", flush=True)
                for contender, us in sorted(one["us"].items(), key=lambda item: item[1]):
                    print(f"  {us:8.1f}  {contender}  ({one['apart'][contender]:.1e} apart)")
                for contender, why in one["refused"].items():
                    print(f"   refused  {contender}: {why}")


if __name__ == "__main__":
    main()
