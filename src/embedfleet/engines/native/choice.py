"""Selects the kernels and instruction set for a model on this CPU.

Pure: depends on the library's and the CPU's capabilities, the model's sizes and the settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from embedfleet.engines.architectures import Geometry
from embedfleet.engines.native.library import InstructionSet, Numbers
from embedfleet.runtime.extras import how_to_add
from embedfleet.vocabulary import Precision, SettingError

Implementation: TypeAlias = Literal["native", "openvino", "numpy"]
KERNELS: Final = ("auto", "native", "openvino", "numpy")
SETS: Final = (
    "avx512_vnni",
    "avx_vnni",
    "avx2",
    "neon_i8mm",
    "neon_dotprod",
    "neon",
    "portable",
)
"""Every instruction set there is; a library has those of its architecture."""
_TILES: Final = "amx_int8"


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen kernels, and why."""

    kernels: Implementation
    reason: str


@dataclass(frozen=True, slots=True)
class Around:
    """Alternatives to the native kernels."""

    obstacle: str | None
    """Why the native kernels can't be used; None if they can."""
    openvino: bool
    """Whether it is installed; it is an extra."""
    tiles: bool
    """Whether the processor multiplies int8 in tiles (AMX)."""


def choose_kernels(wanted: str, dtype: str, around: Around) -> Choice:
    """Pick the kernels for `wanted`, one of KERNELS, and for `dtype`: auto, f32 or int8.

    Raises SettingError when what is wanted can't compute, or is unknown.
    """
    if wanted not in KERNELS:
        raise SettingError(f"kernels is {wanted!r}; there are {', '.join(KERNELS)}.")
    if wanted == "openvino" and not around.openvino:
        raise SettingError(
            f"kernels is openvino, which is not installed. To add it: {how_to_add('openvino')}."
        )
    if wanted == "native" and around.obstacle is not None:
        raise SettingError(f"kernels is native, but {around.obstacle}. Use auto.")
    if wanted == "openvino":
        return Choice("openvino", "as configured")
    if wanted == "native":
        return Choice("native", "as configured")
    if wanted == "numpy":
        return Choice("numpy", "as configured")
    if around.obstacle is None:
        # The native kernels use no tiles, which by their data sheet are several times as fast (not
        # measured).
        if around.tiles and around.openvino and dtype != "f32":
            return Choice("openvino", "it multiplies int8 in this processor's tiles (AMX)")
        return Choice("native", "they support the processor and the model")
    return Choice("openvino" if around.openvino else "numpy", around.obstacle)


def choose_set(wanted: str, sets: Sequence[InstructionSet]) -> InstructionSet:
    """The best instruction set that runs here, or the one that is wanted.

    Raises SettingError when there is none of that name, or it can't run here.
    """
    running = [one for one in sets if one.runs]
    if wanted == "auto":
        return running[0]
    found = next((one for one in sets if one.name == wanted), None)
    names = ", ".join(one.name for one in running)
    if found is None:
        known = "is not for this architecture" if wanted in SETS else "is unknown"
        raise SettingError(f"instructions is {wanted!r}, which {known}; here run {names}.")
    if not found.runs:
        raise SettingError(
            f"instructions is {wanted}, which takes {', '.join(found.needs)}, and this processor "
            f"lacks that; here run {names}."
        )
    return found


def misfit(config: Geometry, numbers: Numbers) -> str | None:
    """Which size of the model the kernels can't divide as they have to; None if none."""
    inputs, outputs = numbers.inputs, numbers.outputs
    sizes = (
        ("hidden_size", config.hidden, inputs),
        ("num_attention_heads times head_dim", config.heads * config.head_dim, inputs),
        ("intermediate_size", config.intermediate, inputs),
        ("num_key_value_heads times head_dim", config.kv_heads * config.head_dim, outputs),
        ("head_dim", config.head_dim, outputs),
    )
    for name, size, divisor in sizes:
        if size % divisor:
            return f"the model's {name} is {size}, which is no multiple of {divisor}"
    if config.head_dim > numbers.most_head_dim:
        return f"the model's head_dim is {config.head_dim}, which is above {numbers.most_head_dim}"
    sharing = config.heads // config.kv_heads
    if sharing > numbers.most_sharing:
        most = numbers.most_sharing
        return f"{sharing} query heads of the model share a key head, more than {most}"
    return None


def has_tiles(flags: frozenset[str]) -> bool:
    """Whether a processor multiplies int8 in tiles, by Linux' names of what it has."""
    return _TILES in flags


def choose_precision(dtype: str, *, exact: bool, quick: bool, of: Implementation) -> Precision:
    """Pick the precision for `auto`, `f32` or `int8`; raises SettingError.

    `exact`: whether int8 is computed without overflow here, `quick`: whether it is faster.
    """
    if dtype == "int8" and not exact:
        raise SettingError(
            "kernels are numpy's, which compute in f32 alone. Use f32, or auto."
            if of == "numpy"
            else "dtype is int8, but OpenVINO's products of int8 overflow on this processor, which "
            "has no VNNI or AMX. Use kernels native, or dtype f32."
        )
    if dtype == "auto":
        return Precision.INT8 if exact and quick else Precision.F32
    return Precision(dtype)
