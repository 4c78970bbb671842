"""Compiled graphs and their runs: the whole model, or one layer of it.

Decides how graphs are compiled and fed. Refuses to know which texts are in a pass.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import openvino as ov  # type: ignore[import-untyped]
import openvino.opset13 as ops  # type: ignore[import-untyped]

from embedfleet.engine.checkpoint import Checkpoint, Qwen3Config
from embedfleet.engine.cpu.graph import Decoder, constants, make_inputs, parameter, rms_norm
from embedfleet.engine.cpu.layout import BLOCK_TOKENS, Arrays, Layout, Rotations
from embedfleet.engine.cpu.linear import Linear
from embedfleet.engine.tensors import Floats
from embedfleet.vocabulary import SetupError

_READERS: Final = 4
"""Threads that read weights; each holds a part of a matrix in float32 meanwhile."""


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
            # Kernels made for shapes that came by. The default of 5,000 keeps 200 MB and more of
            # them under mixed traffic; 512 are as fast.
            "CPU_RUNTIME_CACHE_CAPACITY": 512,
        }
        try:
            return Program(self.core.compile_model(model, "CPU", properties))
        except RuntimeError as error:  # all that OpenVINO raises
            reason = str(error).strip().splitlines()[-1]
            raise SetupError(
                f"OpenVINO {ov.__version__} can't compile the model for this processor ({reason}); "
                "the CPU engine needs AVX2 or better."
            ) from error


class Program:
    """A compiled graph; one run at a time."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._request = compiled.create_infer_request()

    def run(self, inputs: PassInputs, scratch: Scratch) -> Floats:
        """Compute the states that come out; valid until the next run. Other threads run too."""
        for name, values in (inputs.arrays() | scratch.arrays(inputs.layout.blocks)).items():
            self._request.set_tensor(name, ov.Tensor(values, shared_memory=True))
        self._request.infer()
        states: Floats = self._request.get_output_tensor(0).data
        return states

    def release_memory(self) -> None:
        """Give back what a large run grew."""
        self._compiled.release_memory()


@dataclass(frozen=True, slots=True)
class PassInputs:
    """What goes into a pass, scratch aside."""

    layout: Layout
    states: Floats
    """[tokens, hidden]"""
    cosine: Floats
    """[tokens, 1, 1, head_dim]"""
    sine: Floats

    def arrays(self) -> Arrays:
        floats = {"states": self.states, "cosine": self.cosine, "sine": self.sine}
        return self.layout.indices | floats


def pass_inputs(layout: Layout, states: Floats, rotations: Rotations) -> PassInputs:
    return PassInputs(layout, states, *rotations.at(layout.positions))


class Scratch:
    """Memory for the keys and values of one layer; grows to the largest pass."""

    def __init__(self, config: Qwen3Config) -> None:
        self._block = (config.kv_heads, BLOCK_TOKENS, config.head_dim)
        self._keys = self._values = np.zeros((0, *self._block), dtype=np.float32)

    def arrays(self, blocks: int) -> Arrays:
        """At least `blocks` blocks each for keys and values; growing forgets what they held."""
        if blocks > len(self._keys):
            shape = (blocks, *self._block)
            self._keys = np.zeros(shape, dtype=np.float32)
            self._values = np.zeros(shape, dtype=np.float32)
        return {"keys": self._keys, "values": self._values}

    def release_memory(self) -> None:
        self._keys = self._values = np.zeros((0, *self._block), dtype=np.float32)


def whole_model(checkpoint: Checkpoint, linear: Linear) -> ov.Model:
    """From `states` [tokens, hidden] to the final states of the rows `pooled` [texts, hidden].

    The states that go in are the tokens' embeddings.
    """
    return _model(checkpoint, linear, 0, checkpoint.config.layers)


def one_layer(checkpoint: Checkpoint, linear: Linear, index: int) -> ov.Model:
    """Layer `index`, from `states` [tokens, hidden] to the states after it.

    The last one puts out final states of the rows `pooled` only, [texts, hidden].
    """
    return _model(checkpoint, linear, index, index + 1)


def _model(checkpoint: Checkpoint, linear: Linear, first: int, end: int) -> ov.Model:
    config, indices = checkpoint.config, range(first, end)
    with ThreadPoolExecutor(min(len(indices), _READERS)) as readers:
        layers = list(
            readers.map(lambda index: constants(checkpoint.layer(index), linear), indices)
        )
    inputs = make_inputs(config)
    states = parameter("states", [-1, config.hidden], np.float32)
    pooled = parameter("pooled", [-1], np.int32)
    decoder, x = Decoder(config, inputs, linear), states
    for index, weights in zip(indices, layers, strict=True):
        is_last = index == config.layers - 1
        x = decoder.layer(x, weights, pooled if is_last else None)
    if end == config.layers:
        x = rms_norm(x, ops.constant(checkpoint.final_norm), config.epsilon)
    return ov.Model([x], [states, pooled, *inputs.all()])
