"""Weights in the form that ships: eight-bit integers with one scale per output row, or floats.

The integer form is compressed-tensors' naive W8 channel format: `X.weight` as int8 and
`X.weight_scale` [rows, 1]. Norms stay in float32. Steps hand over in the same form.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

_LIMIT = 127.0


def quantise(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Symmetric rounding of every matrix, row by row; vectors and single rows stay as they are."""
    packed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        values = tensor.detach().float().cpu()
        if values.dim() < 2 or len(values) == 1:
            packed[name] = values.contiguous()
            continue
        scale = (values.abs().amax(1, keepdim=True) / _LIMIT).clamp(min=1e-12)
        packed[name] = (values / scale).round().clamp(-_LIMIT, _LIMIT).to(torch.int8)
        packed[f"{name}_scale"] = scale
    return packed


def dequantise(packed: dict[str, Tensor]) -> dict[str, Tensor]:
    """Float tensors under their own names; leaves a float checkpoint as it is."""
    state: dict[str, Tensor] = {}
    for name, tensor in packed.items():
        if name.endswith("_scale"):
            continue
        scale = packed.get(f"{name}_scale")
        state[name] = tensor.float() if scale is None else tensor.float() * scale.float()
    return state


def mean(first: dict[str, Tensor], second: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Weights between two checkpoints of one run: `share` of the first, the rest of the second."""
    return {name: share * first[name] + (1 - share) * second[name] for name in second}


def save(state: dict[str, Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(quantise(state), path, metadata={"format": "pt"})


def load(path: Path) -> dict[str, Tensor]:
    return dequantise(load_file(path))
