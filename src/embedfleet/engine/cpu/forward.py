"""Compiled graphs and their runs: the whole model, or one layer of it.

Decides how graphs are compiled and fed. Refuses to know which texts are in a pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov  # type: ignore[import-untyped]
from numpy.typing import NDArray

from embedfleet.engine.checkpoint import Checkpoint, Qwen3Config
from embedfleet.engine.cpu.graph import Decoder, make_inputs, parameter, rms_norm
from embedfleet.engine.cpu.layout import BLOCK_TOKENS, Arrays
from embedfleet.engine.cpu.linear import Linear
from embedfleet.engine.tensors import Floats


@dataclass(frozen=True, slots=True)
class Compiler:
    """Turns graphs into programs for this machine."""

    core: ov.Core
    threads: int

    def compile(self, model: ov.Model) -> Program:
        properties: dict[str, Any] = {
            # On processors with bfloat16 units the plugin would round to it on its own.
            "INFERENCE_PRECISION_HINT": "f32",
            "KV_CACHE_PRECISION": "f32",
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            # Replicas of one machine would be pinned to the same cores.
            "ENABLE_CPU_PINNING": False,
        }
        return Program(self.core.compile_model(model, "CPU", properties))


class Program:
    """A compiled graph with one output; one run at a time."""

    def __init__(self, compiled: ov.CompiledModel) -> None:
        self._compiled = compiled
        self._request = compiled.create_infer_request()

    def run(self, arrays: Arrays) -> Floats:
        """Compute the output for inputs by name; other threads run. Valid until the next run."""
        for name, values in arrays.items():
            self._request.set_tensor(name, ov.Tensor(values, shared_memory=True))
        self._request.infer()
        output: Floats = self._request.get_output_tensor(0).data
        return output

    def release_memory(self) -> None:
        """Give back the memory that a large run grew."""
        self._compiled.release_memory()


class Scratch:
    """Memory for the keys and values of one layer; grows to the largest pass that is kept."""

    def __init__(self, config: Qwen3Config) -> None:
        self._shape = (config.kv_heads, BLOCK_TOKENS, config.head_dim)
        self._kept = self._new(0)

    def arrays(self, blocks: int, *, keep: bool = True) -> Arrays:
        """Scratch inputs for a pass of `blocks` blocks; what they hold does not matter."""
        keys, values = self._kept
        if blocks > len(keys):
            keys, values = self._new(blocks)
            if keep:
                self._kept = keys, values
        return {"keys": keys, "values": values}

    def _new(self, blocks: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        shape = (blocks, *self._shape)
        return np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)


def whole_model(checkpoint: Checkpoint, linear: Linear) -> ov.Model:
    """From `embedded` [tokens, hidden] to the final states of the rows `pooled` [texts, hidden]."""
    config = checkpoint.config
    inputs = make_inputs(config)
    embedded = parameter("embedded", [-1, config.hidden], np.float32)
    pooled = parameter("pooled", [-1], np.int32)
    decoder = Decoder(config, inputs, linear)
    x = embedded
    for index in range(config.layers - 1):
        x = decoder.layer(x, checkpoint.layer(index))
    x = decoder.layer(x, checkpoint.layer(config.layers - 1), pooled)
    x = rms_norm(x, checkpoint.final_norm, config.epsilon)
    return ov.Model([x], [embedded, pooled, *inputs.all()], "qwen3")
