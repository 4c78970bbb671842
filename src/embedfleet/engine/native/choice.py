"""Whether our own kernels compute a model on this processor, or OpenVINO's.

Pure: decides from the processor's instructions, the sizes of the model and what somebody wants.
Refuses to know where kernels are and how they compute.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from embedfleet.engine.checkpoint import Qwen3Config
from embedfleet.vocabulary import Precision, SettingError

INSTRUCTIONS: Final = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "fma")
"""What the kernels are compiled to, by Linux' names in /proc/cpuinfo."""
KERNELS: Final = ("auto", "native", "openvino")
_BFLOAT16: Final = "avx512_bf16"
_TILES: Final = "amx_int8"
_IN: Final = 64
"""A matrix has a multiple of so many inputs: a cache line of int8."""
_OUT: Final = 32
"""And of so many outputs, as many as a panel has; heads are read in the same steps."""
WIDEST_HEAD: Final = 256
MOST_SHARING: Final = 48
"""Query heads of one key head."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Whose kernels compute, and why."""

    kernels: Literal["native", "openvino"]
    reason: str


def choose_kernels(
    wanted: str, precision: Precision, flags: frozenset[str], obstacle: str | None
) -> Choice:
    """Pick the kernels for `wanted`, one of KERNELS; `obstacle` is why ours can't compute, if so.

    Raises SettingError when ours are wanted and can't compute, or `wanted` is unknown.
    """
    if wanted not in KERNELS:
        raise SettingError(f"kernels is {wanted!r}; there are {', '.join(KERNELS)}.")
    if wanted == "openvino":
        return Choice("openvino", "as was asked")
    if obstacle is not None:
        if wanted == "native":
            raise SettingError(f"kernels is native, but {obstacle}. Use openvino, or auto.")
        return Choice("openvino", obstacle)
    if wanted == "native":
        return Choice("native", "as was asked")
    if precision is Precision.INT8 and _TILES in flags:
        # Ours know no tiles, which multiply several times as fast on paper; nobody has measured.
        return Choice("openvino", "this processor multiplies int8 in tiles (AMX), which it uses")
    return Choice("native", "processor and model suit them")


def lacking(flags: frozenset[str]) -> str | None:
    """What the kernels need and the processor has not; None where all is there."""
    if not flags:
        return "this is no x86 processor, or its system is not Linux"
    missing = [name for name in INSTRUCTIONS if name not in flags]
    return f"this processor has no {', '.join(missing)}" if missing else None


def misfit(config: Qwen3Config) -> str | None:
    """Which size of the model the kernels can't divide as they have to; None if none."""
    sizes = (
        ("hidden_size", config.hidden, _IN),
        ("num_attention_heads times head_dim", config.heads * config.head_dim, _IN),
        ("intermediate_size", config.intermediate, _IN),
        ("num_key_value_heads times head_dim", config.kv_heads * config.head_dim, _OUT),
        ("head_dim", config.head_dim, _OUT),
    )
    for name, size, divisor in sizes:
        if size % divisor:
            return f"the model's {name} is {size}, which is no multiple of {divisor}"
    if config.head_dim > WIDEST_HEAD:
        return f"the model's head_dim is {config.head_dim}, which is above {WIDEST_HEAD}"
    sharing = config.heads // config.kv_heads
    if sharing > MOST_SHARING:
        return f"{sharing} query heads of the model share a key head, more than {MOST_SHARING}"
    return None


def multiplies_bfloat16(flags: frozenset[str]) -> bool:
    """Whether the processor has products of bfloat16 that are added in float32."""
    return _BFLOAT16 in flags
