"""Weight matrices on the device and their products: bf16, float32 or FP8.

FP8 uses one scale per token and one per output channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

LARGEST_FP8 = 448.0
"""The largest number of e4m3."""
SMALLEST_SCALE = 1e-12
"""A row of zeros must stay zero, not become 0/0."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Activations as matrices take them, [tokens, in]."""

    values: Tensor
    scales: Tensor | None = None
    """Of FP8 values: one per token, [tokens, 1]."""

    def rows(self, indices: Tensor) -> Ready:
        if self.scales is None:
            return Ready(self.values.index_select(0, indices))
        # As bytes: torch has no index_select of FP8.
        values = self.values.view(torch.uint8).index_select(0, indices).view(self.values.dtype)
        return Ready(values, self.scales.index_select(0, indices))

    def between(self, begin: int, end: int) -> Ready:
        scales = None if self.scales is None else self.scales[begin:end]
        return Ready(self.values[begin:end], scales)


class Matrix(Protocol):
    """A weight matrix [out, in] on the device."""

    def times(self, ready: Ready, into: Tensor | None = None) -> Tensor:
        """[tokens, in] times the transposed matrix: [tokens, out], in `into` if given."""
        ...

    def added(self, x: Tensor, ready: Ready) -> Tensor | None:
        """Add the product to `x` in place, or return it, to be added by what reads `x` next."""
        ...

    def outputs(self, begin: int, end: int) -> Matrix:
        """Rows `begin` to `end` as a matrix of their own; no copy."""
        ...


class FewRows(Protocol):
    """Products of few rows, for which libraries' kernels read matrices slower than they could."""

    def suits(self, rows: int, weight: Tensor) -> bool: ...

    def times(
        self, ready: Ready, weight: Tensor, scales: Tensor | None, added_to: Tensor | None
    ) -> Tensor:
        """[rows, out]; in `added_to`, on top of what is there, if given."""
        ...


@dataclass(frozen=True, slots=True)
class FloatMatrix:
    """bf16 or float32."""

    weight: Tensor
    few: FewRows | None = None
    bias: Tensor | None = None
    """Added by `times`, [out]."""

    def times(self, ready: Ready, into: Tensor | None = None) -> Tensor:
        if self.bias is not None:
            return torch.addmm(self.bias, ready.values, self.weight.t(), out=into)
        if self.few is not None and self.few.suits(len(ready.values), self.weight):
            return self.few.times(ready, self.weight, None, None)
        return torch.mm(ready.values, self.weight.t(), out=into)

    def added(self, x: Tensor, ready: Ready) -> Tensor | None:
        if self.few is not None and self.few.suits(len(x), self.weight):
            self.few.times(ready, self.weight, None, x)
        else:
            x.addmm_(ready.values, self.weight.t())
        return None

    def outputs(self, begin: int, end: int) -> Matrix:
        bias = None if self.bias is None else self.bias[begin:end]
        return FloatMatrix(self.weight[begin:end], self.few, bias)


@dataclass(frozen=True, slots=True)
class Fp8Matrix:
    """e4m3 with one scale per output channel; the products are summed in float32."""

    weight: Tensor
    scales: Tensor
    """[1, out], float32."""
    few: FewRows | None = None

    def times(self, ready: Ready, into: Tensor | None = None) -> Tensor:
        if self.few is not None and self.few.suits(len(ready.values), self.weight):
            return self.few.times(ready, self.weight, self.scales, None)
        product: Tensor
        if self.weight.device.type != "cuda":
            product = self._widened(ready)
            return product if into is None else into.copy_(product)
        product = torch._scaled_mm(  # noqa: SLF001  # the name that 2.11 and 2.13 share
            ready.values,
            self.weight.t(),
            scale_a=ready.scales,
            scale_b=self.scales,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
            out=into,
        )
        return product

    def added(self, x: Tensor, ready: Ready) -> Tensor | None:
        if self.few is not None and self.few.suits(len(x), self.weight):
            self.few.times(ready, self.weight, self.scales, x)
            return None
        return self.times(ready)

    def outputs(self, begin: int, end: int) -> Matrix:
        return Fp8Matrix(self.weight[begin:end], self.scales[:, begin:end], self.few)

    def _widened(self, ready: Ready) -> Tensor:
        """Multiply the same numbers where there are no FP8 units."""
        wide = ready.values.float() @ self.weight.float().t()
        return (wide * ready.scales * self.scales).to(torch.bfloat16)


@dataclass(frozen=True, slots=True)
class FixedRows:
    """A matrix whose products all have the same number of rows.

    A library picks another kernel, and so another order of summing, for another number of rows;
    with one number a row's product has the same bits whatever is beside it. Inputs must have whole
    multiples of `count` rows.
    """

    matrix: Matrix
    count: int

    def times(self, ready: Ready, into: Tensor | None = None) -> Tensor:  # noqa: ARG002
        self._check(ready)
        return self._with_the_rest(self.matrix.times(ready.between(0, self.count)), ready)

    def added(self, x: Tensor, ready: Ready) -> Tensor | None:
        self._check(ready)
        first = self.matrix.added(x[: self.count], ready.between(0, self.count))
        if first is not None:
            return self._with_the_rest(first, ready)
        for begin in range(self.count, len(x), self.count):
            end = begin + self.count
            self.matrix.added(x[begin:end], ready.between(begin, end))
        return None

    def _with_the_rest(self, first: Tensor, ready: Ready) -> Tensor:
        """All products, of which the first rows' are there already."""
        rows = len(ready.values)
        if rows == self.count:
            return first
        products = first.new_empty(rows, first.shape[1])
        products[: self.count] = first
        for begin in range(self.count, rows, self.count):
            end = begin + self.count
            self.matrix.times(ready.between(begin, end), products[begin:end])
        return products

    def outputs(self, begin: int, end: int) -> Matrix:
        return FixedRows(self.matrix.outputs(begin, end), self.count)

    def _check(self, ready: Ready) -> None:
        if len(ready.values) % self.count:
            raise ValueError(
                f"{len(ready.values)} rows are no multiple of {self.count}. This is a bug."
            )


def quantised(values: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in e4m3 and their scales [rows, 1]: each row's largest magnitude becomes 448."""
    wide = values.float()
    scales = (wide.abs().amax(1, keepdim=True) / LARGEST_FP8).clamp(min=SMALLEST_SCALE)
    return (wide / scales).to(torch.float8_e4m3fn), scales
