"""How fast this processor multiplies matrices: the limit that engines are measured against.

One layer's products of the 0.6B geometry at 1,024 tokens, weights [out, in] constant, float32 out.
Three libraries try; weights of one layer stay in the processor's caches, which no engine's weights
do. Beyond them lies what the processor can multiply at all, on registers alone (`cpu_peak.c`,
compiled for it here; needs AVX-512 VNNI and a C compiler).
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

TOKENS: Final = 1_024
SHAPES: Final = ((4_096, 1_024), (1_024, 2_048), (6_144, 1_024), (1_024, 3_072))
"""Outputs and inputs: queries, keys and values; output; gate and up; down."""
WORK: Final = 2 * TOKENS * sum(out * inner for out, inner in SHAPES)

Product = Callable[[], object]
PROCESSOR: Final = "processor"
"""The name of what is no library."""


TRIES: Final = 3
"""The best of them counts: a limit is what the processor can do when nobody disturbs it."""


def rate(products: list[Product]) -> float:
    """Multiply all; in Gop/s, additions and multiplications counted."""
    best = float("inf")
    for _ in range(TRIES):
        started = time.perf_counter()
        for product in products:
            product()
        best = min(best, time.perf_counter() - started)
    return WORK / best / 1e9


def products(library: str, dtype: str, threads: int) -> list[Product]:
    """The products of a layer by `openvino`, `torch` or `onnxruntime`, in `f32` or `int8`.

    Of `processor` as many multiplications, and nothing else.
    """
    if library == PROCESSOR:
        return [_processor(dtype, threads)]
    maker = {"openvino": _openvino, "torch": _torch, "onnxruntime": _onnxruntime}[library]
    rng = np.random.default_rng(0)
    made = []
    for out, inner in SHAPES:
        weights = rng.integers(-127, 128, (out, inner)).astype(np.int8)
        inputs = rng.uniform(-1, 1, (TOKENS, inner)).astype(np.float32)
        made.append(maker(inputs, weights, dtype, threads))
    return made


def _processor(dtype: str, threads: int) -> Product:
    with tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder) / "peak.so"
        source = Path(__file__).with_name("cpu_peak.c")
        flags = ("-O2", "-mavx512f", "-mavx512vnni", "-shared", "-fPIC")
        subprocess.run(["cc", *flags, "-o", compiled, source], check=True)
        library = ctypes.CDLL(str(compiled))
    kind = "int8" if dtype == "int8" else "float"
    rounds, operations = library[f"{kind}_rounds"], library[f"{kind}_operations"]
    rounds.argtypes, operations.restype = [ctypes.c_long], ctypes.c_long
    each = WORK // (operations() * threads)
    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(rounds, [each] * threads))


def _openvino(
    inputs: NDArray[np.float32], weights: NDArray[np.int8], dtype: str, threads: int
) -> Product:
    # From there: it silences OpenVINO's telemetry before it imports it.
    from embedfleet.engines.cpu.forward import (  # type: ignore[attr-defined]  # noqa: PLC0415
        ops,
        ov,
    )

    x = ops.parameter([-1, inputs.shape[1]], np.float32)
    if dtype == "f32":
        product = ops.matmul(x, ops.constant(weights.astype(np.float32)), False, True)
    else:
        low, high = np.float32(-1), np.float32(1)
        wide = ops.multiply(
            ops.convert(ops.constant(weights), np.float32),
            ops.constant(np.full((len(weights), 1), 0.01, np.float32)),
        )
        quantised = ops.fake_quantize(x, low, high, low, high, 255)
        product = ops.matmul(quantised, wide, False, True)
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    compiled = ov.Core().compile_model(ov.Model([product], [x]), "CPU", settings)
    request = compiled.create_infer_request()
    request.set_input_tensor(ov.Tensor(inputs))
    return lambda: (request.infer(), compiled)  # a request alone does not keep its model


def _torch(
    inputs: NDArray[np.float32], weights: NDArray[np.int8], dtype: str, threads: int
) -> Product:
    import torch  # noqa: PLC0415

    torch.set_num_threads(threads)
    if dtype == "f32":
        x, w = torch.from_numpy(inputs), torch.from_numpy(weights.astype(np.float32))
        with torch.inference_mode():
            return lambda: torch.nn.functional.linear(x, w)
    packed = torch.ops.onednn.qlinear_prepack(torch.from_numpy(weights), list(inputs.shape))
    quantised = torch.from_numpy((inputs * 127 + 128).astype(np.uint8))
    scales, zeros = torch.full((len(weights),), 0.01), torch.zeros(len(weights), dtype=torch.int64)
    return lambda: torch.ops.onednn.qlinear_pointwise(
        quantised, 1 / 127, 128, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )


def _onnxruntime(
    inputs: NDArray[np.float32], weights: NDArray[np.int8], dtype: str, threads: int
) -> Product:
    import onnxruntime  # noqa: PLC0415
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415

    transposed = np.ascontiguousarray(weights.T)
    if dtype == "f32":
        constants = [numpy_helper.from_array(transposed.astype(np.float32), "w")]
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
        kind, given = TensorProto.FLOAT, inputs
    else:
        scales = np.full(len(weights), 0.01, np.float32)
        parts = {
            "w": transposed,
            "step": np.array(1 / 127, np.float32),
            "scales": scales,
            "zero": np.array(128, np.uint8),
        }
        constants = [numpy_helper.from_array(values, name) for name, values in parts.items()]
        node = helper.make_node(
            "MatMulIntegerToFloat", ["x", "w", "step", "scales", "zero"], ["y"],
            domain="com.microsoft",
        )  # fmt: skip
        kind, given = TensorProto.UINT8, (inputs * 127 + 128).astype(np.uint8)
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", kind, inputs.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [TOKENS, len(weights)])],
        constants,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return lambda: session.run(None, {"x": given})
