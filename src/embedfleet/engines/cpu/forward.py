"""Compiles OpenVINO graphs and runs them: the whole model, or one layer of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import openvino as ov
import openvino.opset13 as ops

from embedfleet.engines.cpu.attention import Attending, make_attention, parameter
from embedfleet.engines.cpu.graph import Decoder, Rotation, constants, rms_norm
from embedfleet.engines.cpu.layout import BLOCK_TOKENS, Arrays, Layout, Rotations, whole_texts
from embedfleet.engines.cpu.linear import Linear
from embedfleet.engines.qwen3 import Qwen3Checkpoint, Qwen3Config
from embedfleet.engines.tensors import Floats
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
                "the CPU engine needs x86-64 with AVX, or 64-bit Arm."
            ) from error

    def attending(self) -> Attending:
        """The way to attend that the plugin has for this processor: paged where it can.

        Found by trying. On Arm without SVE it does not compile; on x86 without AVX2 it does, and
        puts out nothing (OpenVINO 2026.4).
        """
        config = Qwen3Config(64, 1, 2, 1, 32, 64, 1, 1e-6, 1e6, 1, tied=True)
        attention, layout = make_attention("paged", config), whole_texts([1])
        sizes = {"q": 64, "k": 32, "v": 32}
        q, k, v = (parameter(name, [-1, size], np.float32) for name, size in sizes.items())
        model = ov.Model([attention.attend(q, k, v, None)], [q, k, v, *attention.parameters()])
        ones = {name: np.ones((1, size), np.float32) for name, size in sizes.items()}
        indices = {name: values for name, values in layout.indices.items() if name != "pooled"}
        try:
            program = self.compile(model)
            found = program.run(ones | indices | Scratch(config).arrays(layout.blocks))
        except (SetupError, RuntimeError):
            return "padded"
        return "paged" if np.array_equal(found, np.ones((1, 64))) else "padded"


class Program:
    """A compiled graph; one run at a time."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._request = compiled.create_infer_request()

    def run(self, inputs: Arrays) -> Floats:
        """Run the graph; the result is valid until the next run. Releases the GIL."""
        for name, values in inputs.items():
            self._request.set_tensor(name, ov.Tensor(values, shared_memory=True))
        self._request.infer()
        states: Floats = self._request.get_output_tensor(0).data
        return states

    def release_memory(self) -> None:
        """Release memory that a large run allocated."""
        self._compiled.release_memory()


@dataclass(frozen=True, slots=True)
class PassInputs:
    """Inputs of a pass, except the scratch."""

    layout: Layout
    states: Floats
    """[tokens, hidden]"""
    cosine: Floats
    """[tokens, 1, 1, head_dim]"""
    sine: Floats

    def arrays(self, scratch: Scratch) -> Arrays:
        floats = {"states": self.states, "cosine": self.cosine, "sine": self.sine}
        return self.layout.indices | floats | scratch.arrays(self.layout.blocks)


def pass_inputs(layout: Layout, states: Floats, rotations: Rotations) -> PassInputs:
    return PassInputs(layout, states, *rotations.at(layout.positions))


class Scratch:
    """Memory for the keys and values of one layer; grows to the largest pass."""

    def __init__(self, config: Qwen3Config) -> None:
        self._block = (config.kv_heads, BLOCK_TOKENS, config.head_dim)
        self._keys = self._values = np.zeros((0, *self._block), dtype=np.float32)

    def arrays(self, blocks: int) -> Arrays:
        """At least `blocks` blocks each for keys and values; growing forgets what they held.

        Padded attention takes 0 blocks and has no inputs for them.
        """
        if not blocks:
            return {}
        if blocks > len(self._keys):
            shape = (blocks, *self._block)
            self._keys = np.zeros(shape, dtype=np.float32)
            self._values = np.zeros(shape, dtype=np.float32)
        return {"keys": self._keys, "values": self._values}

    def release_memory(self) -> None:
        self._keys = self._values = np.zeros((0, *self._block), dtype=np.float32)


def whole_model(checkpoint: Qwen3Checkpoint, linear: Linear, attending: Attending) -> ov.Model:
    """From `states` [tokens, hidden] to the final states of the rows `pooled` [texts, hidden].

    The states that go in are the tokens' embeddings.
    """
    return _model(checkpoint, linear, attending, range(checkpoint.config.layers))


def one_layer(checkpoint: Qwen3Checkpoint, linear: Linear, index: int) -> ov.Model:
    """Layer `index` with paged attention, from `states` [tokens, hidden] to the states after it.

    The last one puts out final states of the rows `pooled` only, [texts, hidden].
    """
    return _model(checkpoint, linear, "paged", range(index, index + 1))


def _model(
    checkpoint: Qwen3Checkpoint, linear: Linear, attending: Attending, indices: range
) -> ov.Model:
    config = checkpoint.config
    with ThreadPoolExecutor(min(len(indices), _READERS)) as readers:
        layers = list(
            readers.map(lambda index: constants(checkpoint.layer(index), linear), indices)
        )
    attention, rotation = make_attention(attending, config), Rotation.make(config)
    states = parameter("states", [-1, config.hidden], np.float32)
    pooled = parameter("pooled", [-1], np.int32)
    decoder, x = Decoder(config, linear, attention, rotation), states
    for index, weights in zip(indices, layers, strict=True):
        is_last = index == config.layers - 1
        x = decoder.layer(x, weights, pooled if is_last else None)
    if indices.stop == config.layers:
        x = rms_norm(x, ops.constant(checkpoint.final_norm), config.epsilon)
    inputs = [states, pooled, rotation.cosine, rotation.sine, *attention.parameters()]
    return ov.Model([x], inputs)
