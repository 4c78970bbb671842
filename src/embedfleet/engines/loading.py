"""Loads the engine that serves a model on this machine, in the chosen precision.

An engine's libraries are imported only when it is chosen.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

from embedfleet.engines.architectures import Checkpoint, Geometry, open_checkpoint, read_geometry
from embedfleet.engines.native.choice import (
    Around,
    choose_kernels,
    choose_precision,
    choose_set,
    has_tiles,
    misfit,
)
from embedfleet.engines.native.engine import NativeEngine, NativeSettings
from embedfleet.engines.native.library import absence
from embedfleet.engines.native.library import load as load_kernels
from embedfleet.engines.native.memory import chosen_mib
from embedfleet.engines.protocol import Engine
from embedfleet.engines.qwen3 import Qwen3Checkpoint
from embedfleet.engines.scoring import ScoreHead
from embedfleet.models.sentence_transformers import cut_width, normalizes
from embedfleet.runtime.extras import how_to_add
from embedfleet.runtime.machine import (
    has_nvidia_driver,
    multiplies_int8_exactly,
    processor_flags,
    usable_processors,
)
from embedfleet.vocabulary import Precision, SettingError, Task

log = logging.getLogger(__name__)

_DEVICES: Final = ("auto", "cpu", "cuda")
_DTYPES: Final = ("auto", "f32", "bf16", "fp8", "int8")
Capability: TypeAlias = tuple[int, int]
"""Of a GPU, as NVIDIA numbers them: 8.0 is A100, 8.9 is L4 and L40S, 9.0 is H100 and H200."""

_LEAST_CAPABILITY: Final = {Precision.F32: (0, 0), Precision.BF16: (8, 0), Precision.FP8: (8, 9)}
"""From which on a GPU has matrix units for these numbers."""
_AUTO_CAPABILITY: Final = (8, 0)
"""From which on `auto` takes a GPU."""
_CPU_BATCH_TOKENS: Final = 1_024
_CUDA_BATCH_TOKENS: Final = 8_192
"""A tenth of a second of the 4B on an H200. Twice as many are 1 % faster, in FP8 3 %."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Options of an engine; None and `auto` let the engine choose."""

    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    dtype: str = "auto"
    """`auto`, `f32`, `bf16`, `fp8` or `int8`."""
    threads: int | None = None
    """Processor threads; by default as many as the process may use."""
    batch_tokens: int | None = None
    """Tokens of one pass through the model."""
    memory_mib: int | None = None
    """Working memory beside the weights, in MiB; longer texts are computed in chunks
    by OpenVINO's kernels; ours take any text whole, and need as much as the longest takes."""
    max_tokens: int | None = None
    """Longest text in tokens; by default what the model was made for."""
    deterministic: bool = False
    """Whether a text has the same bits whatever it is batched with, on GPUs."""
    at_least: Precision | None = None
    """The pool's precision, which `auto` must not fall below."""
    task: Task | None = None
    """The model's task; by default from its files."""
    place: int = 0
    """The index of the replica on this machine, to choose a GPU if none is named."""
    kernels: str = "auto"
    """Kernels on a CPU: `auto`, `native` (embedfleet's own), `openvino` or `numpy`."""
    instructions: str = "auto"
    """The instruction set of the native kernels, or `auto`."""


def refuse_unsupported(directory: Path, options: EngineOptions) -> None:
    """Refuse what is known to fail without loading anything.

    Raises ModelError when the model is not supported, SettingError when an option is wrong or what
    it needs is not installed.
    """
    _refuse_options(options)
    read_geometry(directory, options.task)


def _refuse_options(options: EngineOptions) -> None:
    kind = options.device.partition(":")[0]
    if kind not in _DEVICES:
        raise SettingError(
            f"device is {options.device!r}; there are {', '.join(_DEVICES)} and cuda:N."
        )
    if options.dtype in {"f16", "fp16", "float16"}:
        raise SettingError(
            f"dtype is {options.dtype}: Qwen3-Embedding overflows in it (the 8B gives NaN for any "
            "text that begins with `import`). Use bf16, which is as fast and as small."
        )
    if options.dtype not in _DTYPES:
        raise SettingError(f"dtype is {options.dtype!r}; there are {', '.join(_DTYPES)}.")
    with_torch = importlib.util.find_spec("torch") is not None
    if kind == "cuda" and not with_torch:
        raise SettingError(
            f"device is {options.device}, but torch is not installed: {how_to_add('cuda')}"
        )
    if options.dtype not in {"bf16", "fp8"} or kind == "cuda":
        return
    if kind == "auto" and has_nvidia_driver():
        if not with_torch:
            raise SettingError(
                f"dtype is {options.dtype}, which is for GPUs, but torch is not installed: "
                f"{how_to_add('cuda')}"
            )
        return  # whether a GPU is new enough is known when torch is loaded
    raise SettingError(
        f"dtype is {options.dtype}, which is for GPUs; the processor computes in f32 or int8."
    )


def load_engine(directory: Path, options: EngineOptions) -> Engine:
    """Load the model in `directory` into an engine.

    Raises ModelError when the model is not supported, SettingError when an option is wrong.
    """
    refuse_unsupported(directory, options)
    kind = options.device.partition(":")[0]
    checkpoint = open_checkpoint(directory, options.task)
    if not normalizes(directory):
        log.warning(
            "the model's files do not normalise vectors (modules.json has no Normalize); "
            "embedfleet normalises them to unit length all the same"
        )
    cut, width = cut_width(directory), checkpoint.head.width
    if cut is not None and cut < width:
        log.warning(
            "the model's files cut vectors to %d dimensions (truncate_dim in "
            "config_sentence_transformers.json); embedfleet gives all %d where a request does not "
            "set `dimensions`",
            cut,
            width,
        )
    if kind == "cuda" or (kind == "auto" and options.dtype != "int8" and _cuda_is_there()):
        return _load_cuda(checkpoint, options)
    return _load_cpu(checkpoint, options)


def _cuda_is_there() -> bool:
    """Whether torch is installed and sees a GPU for `auto`; it loads only where a driver is."""
    if not has_nvidia_driver() or importlib.util.find_spec("torch") is None:
        return False
    from embedfleet.engines.cuda.devices import capabilities  # noqa: PLC0415

    return any(capability >= _AUTO_CAPABILITY for capability in capabilities())


def _load_cuda(checkpoint: Checkpoint, options: EngineOptions) -> Engine:
    # Imported here: torch takes seconds and hundreds of megabytes.
    from embedfleet.engines.cuda.devices import capabilities, find_device  # noqa: PLC0415
    from embedfleet.engines.cuda.engine import CudaEngine, CudaSettings  # noqa: PLC0415

    precision = choose_cuda_precision(options.dtype, options.at_least)
    if precision is Precision.FP8 and checkpoint.forward == "encoder":
        raise SettingError("dtype is fp8, in which embedfleet computes Qwen3 alone. Use bf16.")
    # In FP8 as many tokens as in bf16 take half the time.
    usual = _CUDA_BATCH_TOKENS * (2 if precision is Precision.FP8 else 1)
    settings = CudaSettings(
        precision=precision,
        batch_tokens=_at_least_one("batch_tokens", options.batch_tokens, usual),
        max_tokens=_max_tokens(options.max_tokens, checkpoint.config),
        memory_mib=options.memory_mib,
        deterministic=options.deterministic,
    )
    device = gpu_of(options.device, options.place, capabilities(), precision)
    return CudaEngine(checkpoint, settings, find_device(device))


def gpu_of(device: str, place: int, gpus: Sequence[Capability], precision: Precision) -> str:
    """The GPU that is named; else the n-th fit one for the n-th replica, and round again.

    Raises SettingError when it, or every one, is too old for `precision`. Whether there is a GPU
    of that number at all is found out later.
    """
    least = _LEAST_CAPABILITY[precision]
    if device == "auto":
        least = max(least, _AUTO_CAPABILITY)
    fit = [number for number, capability in enumerate(gpus) if capability >= least]
    named = device.partition(":")[2]
    if named.isdigit() and int(named) < len(gpus) and int(named) not in fit:
        raise _too_old(precision, least, gpus)
    if named or not gpus:
        return "cuda" if device == "auto" else device
    if not fit:
        raise _too_old(precision, least, gpus)
    return f"cuda:{fit[place % len(fit)]}"


def _too_old(precision: Precision, least: Capability, gpus: Sequence[Capability]) -> SettingError:
    there = ", ".join(f"cuda:{n} has {major}.{minor}" for n, (major, minor) in enumerate(gpus))
    other = "bf16, or device cpu" if precision is Precision.FP8 else "device cpu"
    return SettingError(
        f"dtype {precision} takes a GPU of compute capability {least[0]}.{least[1]} or newer; "
        f"{there}. Use {other}."
    )


def choose_cuda_precision(dtype: str, at_least: Precision | None) -> Precision:
    """Pick the precision for a dtype on a GPU: bf16 unless asked otherwise; raises SettingError."""
    if dtype == "int8":
        raise SettingError("dtype is int8, which is for processors; on a GPU fp8 is the small one.")
    if dtype != "auto":
        return Precision(dtype)
    return Precision.F32 if at_least is Precision.F32 else Precision.BF16


def _load_cpu(checkpoint: Checkpoint, options: EngineOptions) -> Engine:
    if options.dtype in {"bf16", "fp8"}:
        raise SettingError(
            f"dtype is {options.dtype}, which is for GPUs; the processor computes in f32 or int8."
        )
    exact = options.at_least is not None and options.at_least.rank > 0
    dtype = "f32" if options.dtype == "auto" and exact else options.dtype
    obstacle = absence() or misfit(checkpoint.config, load_kernels().numbers)
    decodes = isinstance(checkpoint, Qwen3Checkpoint)
    if options.kernels == "openvino" and not decodes:
        raise SettingError(
            "kernels is openvino, with which embedfleet computes Qwen3 alone. Use native, or auto."
        )
    around = Around(
        obstacle=obstacle,
        openvino=decodes and importlib.util.find_spec("openvino") is not None,
        tiles=has_tiles(processor_flags()),
    )
    choice = choose_kernels(options.kernels, dtype, around)
    if choice.kernels == "numpy" and obstacle is not None:
        log.warning(
            "using the NumPy engine in f32, many times slower than compiled kernels: %s. Install "
            "embedfleet where there is a C compiler%s",
            obstacle,
            f", or add OpenVINO: {how_to_add('openvino')}" if decodes else "",
        )
    else:
        log.info("%s kernels: %s", choice.kernels, choice.reason)
    if choice.kernels == "openvino" and isinstance(checkpoint, Qwen3Checkpoint):
        return _load_openvino(checkpoint, options, dtype)
    load = _load_native if choice.kernels == "native" else _load_numpy
    return load(checkpoint, options, dtype)


def _load_native(checkpoint: Checkpoint, options: EngineOptions, dtype: str) -> Engine:
    config, kernels = checkpoint.config, load_kernels()
    # The more pairs go through together, the fewer compute the query that they share.
    scores = isinstance(checkpoint.head, ScoreHead)
    usual = _CPU_BATCH_TOKENS * (2 if scores else 1)
    instructions = choose_set(options.instructions, kernels.sets)
    max_tokens = _max_tokens(options.max_tokens, config)
    threads = _at_least_one("threads", options.threads, usable_processors())
    memory_mib = chosen_mib(config, kernels.numbers, threads, max_tokens, options.memory_mib)
    precision = choose_precision(dtype, exact=True, quick=instructions.quick_int8, of="native")
    settings = NativeSettings(
        precision=precision,
        instructions=instructions,
        bfloat16=instructions.bfloat16,
        threads=threads,
        batch_tokens=_at_least_one("batch_tokens", options.batch_tokens, usual),
        memory_mib=memory_mib,
        max_tokens=max_tokens,
    )
    log.info("native kernels compute in %s with %s", precision, instructions.name)
    engine = NativeEngine(checkpoint, settings, kernels)
    if dtype == "auto" and precision is Precision.INT8:
        found = engine.agreement()
        said = f"a mean cosine to float32 of {found.mean:.4f}, and {found.least:.4f} at the least"
        if found.suffices:
            log.info("int8 suits the model: %s", said)
            return engine
        engine.close()
        log.warning("int8 does not suit the model (%s): float32 is used instead", said)
        return NativeEngine(checkpoint, replace(settings, precision=Precision.F32), kernels)
    return engine


def _load_numpy(checkpoint: Checkpoint, options: EngineOptions, dtype: str) -> Engine:
    from embedfleet.engines.plain import PlainEngine  # noqa: PLC0415

    choose_precision(dtype, exact=False, quick=False, of="numpy")
    return PlainEngine(
        checkpoint,
        threads=_at_least_one("threads", options.threads, usable_processors()),
        max_tokens=_max_tokens(options.max_tokens, checkpoint.config),
        batch_tokens=_at_least_one("batch_tokens", options.batch_tokens, _CPU_BATCH_TOKENS),
    )


def _load_openvino(checkpoint: Qwen3Checkpoint, options: EngineOptions, dtype: str) -> Engine:
    # Imported here: OpenVINO takes a third of a second and 100 MB.
    from embedfleet.engines.cpu import memory  # noqa: PLC0415
    from embedfleet.engines.cpu.engine import CpuEngine, CpuSettings, suited_attention  # noqa: PLC0415

    max_tokens = _max_tokens(options.max_tokens, checkpoint.config)
    exact = multiplies_int8_exactly()
    attending = suited_attention()
    padded = attending == "padded"
    settings = CpuSettings(
        precision=choose_precision(dtype, exact=exact, quick=exact, of="openvino"),
        threads=_at_least_one("threads", options.threads, usable_processors()),
        batch_tokens=_at_least_one("batch_tokens", options.batch_tokens, _CPU_BATCH_TOKENS),
        memory_mib=memory.chosen_mib(
            checkpoint.config, max_tokens, options.memory_mib, padded=padded
        ),
        max_tokens=max_tokens,
        attending=attending,
    )
    log.info("using %s attention, which OpenVINO supports on this processor", attending)
    return CpuEngine(checkpoint, settings)


def _at_least_one(name: str, value: int | None, otherwise: int) -> int:
    if value is not None and value < 1:
        raise SettingError(f"{name} is {value}; it must be at least 1.")
    return otherwise if value is None else value


def _max_tokens(value: int | None, config: Geometry) -> int:
    tokens = _at_least_one("max_tokens", value, config.max_positions)
    if tokens > config.max_positions:
        raise SettingError(
            f"max_tokens is {tokens}, but the model was made for {config.max_positions} "
            "(max_position_embeddings in its config.json)."
        )
    return tokens
