"""ONNX Runtime in int8 with one scale per token and per output row: the best graph that we know.

Texts lie end to end but for attention, which wants them padded. Queries and all behind them are
computed for the pooled rows alone in the last layer, as embedfleet does it. Each token is divided
by its largest magnitude, so that one fixed scale quantises it exactly symmetrically; products
run in MLAS' int8 kernels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from benchmarks.cpu_rivals.contract import PASS_TOKENS, Embed, Vectors, sorted_passes, unit
from benchmarks.cpu_workloads import Texts
from onnx import TensorProto, helper, numpy_helper

from embedfleet.engines.qwen3 import LayerWeights, Qwen3Checkpoint, Qwen3Config
from embedfleet.engines.tensors import Matrix

MICROSOFT = "com.microsoft"


def prepare(checkpoint: Path, target: Path) -> None:
    """Write the graph."""
    target.mkdir(parents=True, exist_ok=True)
    model = Graph(Qwen3Checkpoint(checkpoint)).model()
    onnx.save(model, target / "model.onnx", save_as_external_data=True, location="weights")


def load(checkpoint: Path, target: Path, threads: int) -> Embed:
    """Open a session; embeddings are looked up outside of it, as embedfleet does it."""
    embeddings = Qwen3Checkpoint(checkpoint)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        target / "model.onnx", options, providers=["CPUExecutionProvider"]
    )

    def one_pass(texts: Texts) -> Vectors:
        lengths = np.array([len(text) for text in texts])
        longest, ends = lengths.max(), np.cumsum(lengths)
        columns = np.arange(longest)
        rows = (ends - lengths)[:, None] + np.minimum(columns, lengths[:, None] - 1)
        inputs = {
            "states": embeddings.embed(np.concatenate(texts)),
            "padded": rows.reshape(-1),
            "packed": np.flatnonzero((columns < lengths[:, None]).reshape(-1)),
            "texts_longest": np.array([len(texts), longest, -1]),
            "lengths": (lengths - 1).astype(np.int32),
            "longest": np.array([longest], np.int32),
            "pooled": ends - 1,
        }
        (states,) = session.run(None, inputs)
        return states

    def embed(texts: Texts) -> Vectors:
        vectors = np.zeros((len(texts), embeddings.config.hidden), np.float32)
        for part in sorted_passes(texts, PASS_TOKENS, PASS_TOKENS):
            vectors[part] = one_pass([texts[index] for index in part])
        return unit(vectors)

    return embed


@dataclass(frozen=True, slots=True)
class Ready:
    """Activations in int8, and what they were divided by."""

    values: str
    scale: str


@dataclass(slots=True)
class Graph:
    """Builds the model node by node; values are known by name."""

    checkpoint: Qwen3Checkpoint
    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> Qwen3Config:
        return self.checkpoint.config

    def add(self, operation: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        name = f"{operation}_{len(self.nodes)}"
        outputs = [name]
        if operation == "GroupQueryAttention":
            outputs += [f"{name}_keys", f"{name}_values"]
        self.nodes.append(
            helper.make_node(operation, inputs, outputs, name, domain=domain, **attributes)
        )
        return name

    def constant(self, values: Any, dtype: type = np.float32) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants[name] = numpy_helper.from_array(np.asarray(values, dtype), name)
        return name

    def model(self) -> Any:
        config = self.config
        angles = np.arange(config.max_positions)[:, None] * config.rope_theta ** (
            -np.arange(0, config.head_dim, 2) / config.head_dim
        )
        rotation = self.constant(np.cos(angles)), self.constant(np.sin(angles))
        x = "states"
        for index in range(config.layers):
            x = self.layer(
                x, self.checkpoint.layer(index), rotation, last=index == config.layers - 1
            )
        x = self.norm(x, self.checkpoint.final_norm)
        longs = ("padded", "packed", "texts_longest", "pooled")
        inputs = [tensor("states", TensorProto.FLOAT, ["tokens", config.hidden])]
        inputs += [tensor(name, TensorProto.INT64, [name + "_size"]) for name in longs]
        inputs += [tensor("lengths", TensorProto.INT32, ["texts"])]
        inputs += [tensor("longest", TensorProto.INT32, [1])]
        outputs = [tensor(x, TensorProto.FLOAT, ["texts", config.hidden])]
        graph = helper.make_graph(
            self.nodes, "qwen3", inputs, outputs, list(self.constants.values())
        )
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def layer(self, x: str, weights: LayerWeights, rotation: tuple[str, str], *, last: bool) -> str:
        config = self.config
        ready = self.quantised(self.norm(x, weights.input_norm))
        queries = self.heads(self.times(ready, weights.query), weights.query_norm)
        keys = self.heads(self.times(ready, weights.key), weights.key_norm)
        values = self.times(ready, weights.value)
        padded = [
            self.add("Reshape", self.add("Gather", part, "padded", axis=0), "texts_longest")
            for part in (queries, keys, values)
        ]
        attended = self.add(
            "GroupQueryAttention", *padded, "", "", "lengths", "longest", *rotation,
            domain=MICROSOFT, num_heads=config.heads, kv_num_heads=config.kv_heads, do_rotary=1,
        )  # fmt: skip
        width = self.constant([-1, config.heads * config.head_dim], np.int64)
        attended = self.add("Gather", self.add("Reshape", attended, width), "packed", axis=0)
        if last:
            x = self.add("Gather", x, "pooled", axis=0)
            attended = self.add("Gather", attended, "pooled", axis=0)
        x = self.add("Add", x, self.times(self.quantised(attended), weights.output))
        ready = self.quantised(self.norm(x, weights.mlp_norm))
        gate = self.add("QuickGelu", self.times(ready, weights.gate), domain=MICROSOFT, alpha=1.0)
        gated = self.add("Mul", gate, self.times(ready, weights.up))
        return self.add("Add", x, self.times(self.quantised(gated), weights.down))

    def norm(self, x: str, weight: np.ndarray) -> str:
        return self.add(
            "SimplifiedLayerNormalization", x, self.constant(weight),
            axis=-1, epsilon=self.config.epsilon,
        )  # fmt: skip

    def heads(self, x: str, weight: np.ndarray) -> str:
        """Normalise every head."""
        apart = self.add("Reshape", x, self.constant([0, -1, self.config.head_dim], np.int64))
        return self.add("Reshape", self.norm(apart, weight), self.constant([0, -1], np.int64))

    def quantised(self, x: str) -> Ready:
        last = self.constant([-1], np.int64)
        highest = self.add("ReduceMax", x, last, keepdims=1)
        lowest = self.add("Neg", self.add("ReduceMin", x, last, keepdims=1))
        scale = self.add("Max", highest, lowest, self.constant(1e-20))
        apart = self.add("Div", x, scale)
        step, zero = self.constant(1 / 127), self.constant(128, np.uint8)
        return Ready(self.add("QuantizeLinear", apart, step, zero), scale)

    def times(self, ready: Ready, weight: Matrix) -> str:
        values, scales = weight.int8()
        product = self.add(
            "MatMulIntegerToFloat",
            ready.values,
            self.constant(values.T, np.int8),
            self.constant(1 / 127),
            self.constant(scales[:, 0]),
            self.constant(128, np.uint8),
            domain=MICROSOFT,
        )
        return self.add("Mul", product, ready.scale)


def tensor(name: str, kind: int, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)
