"""The OpenVINO engine for CPUs.

`prepare` lays out a batch and looks up embeddings; the computation runs the compiled model, or, for
texts too long for one pass, one layer at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock

import numpy as np
import openvino as ov

from embedfleet.engines.cpu.attention import Attending
from embedfleet.engines.cpu.forward import (
    Compiler,
    PassInputs,
    Program,
    Scratch,
    pass_inputs,
    whole_model,
)
from embedfleet.engines.cpu.layout import Rotations, side_by_side, whole_texts
from embedfleet.engines.cpu.linear import FloatLinear, Int8Linear, Linear
from embedfleet.engines.cpu.long import LongTexts
from embedfleet.engines.cpu.memory import MemoryBudget
from embedfleet.engines.passes import lengths_of, padded_passes, passes
from embedfleet.engines.protocol import Computation, EngineInfo
from embedfleet.engines.qwen3 import Qwen3Checkpoint
from embedfleet.engines.tensors import Floats
from embedfleet.vocabulary import Encoding, Precision


@dataclass(frozen=True, slots=True)
class CpuSettings:
    """Settings of the engine."""

    precision: Precision
    """F32 or INT8."""
    threads: int
    batch_tokens: int
    """Tokens in one pass through the graph, unless a single text is longer."""
    memory_mib: int
    """Working memory of a pass in MiB, beside the weights."""
    max_tokens: int
    attending: Attending
    """What `suited_attention` says; padded attention works everywhere."""


def suited_attention() -> Attending:
    """The attention that OpenVINO supports on this processor: paged if possible."""
    return Compiler(ov.Core(), threads=1).attending()


class CpuEngine:
    """Qwen3 on the CPU. Any number of threads may prepare and compute; passes run one by one."""

    def __init__(self, checkpoint: Qwen3Checkpoint, settings: CpuSettings) -> None:
        """Compile the model; takes seconds, and memory for two copies of the linear weights.

        OpenVINO keeps the weights as they are given beside those it rearranged.
        """
        config = checkpoint.config
        linear: Linear = FloatLinear() if settings.precision is Precision.F32 else Int8Linear()
        compiler = Compiler(ov.Core(), settings.threads)
        self._checkpoint = checkpoint
        checkpoint.hold_embeddings()
        padded = settings.attending == "padded"
        self._budget = MemoryBudget(config, settings.memory_mib, padded)
        self._cut = padded_passes if padded else passes
        self._lay_out = side_by_side if padded else whole_texts
        self._rotations = Rotations(config)
        self._scratch = Scratch(config)
        self._long = LongTexts(checkpoint, linear, compiler, self._rotations)
        self._computing = Lock()
        model = whole_model(checkpoint, linear, settings.attending)
        self._program: Program | None = compiler.compile(model)
        self._info = EngineInfo(
            width=checkpoint.head.width,
            max_tokens=settings.max_tokens,
            vocabulary=config.vocabulary,
            precision=settings.precision,
            device="cpu",
            batch_tokens=self._budget.batch_tokens(settings.batch_tokens),
            kernels="openvino",
        )

    def __repr__(self) -> str:
        state = "closed" if self._program is None else "open"
        return f"CpuEngine({self._checkpoint.directory.name!r}, {self._info}, {state})"

    @property
    def info(self) -> EngineInfo:
        return self._info

    def prepare(self, batch: Sequence[Encoding]) -> Computation:
        """Look up embeddings and positions; the computation runs the graph.

        Raises ValueError for an empty batch, an empty text or one over `info.max_tokens`.
        """
        lengths = lengths_of(batch, self._info.max_tokens)
        cuts = self._cut(lengths, self._info.batch_tokens)
        head = self._checkpoint.head
        computations = [self._prepare_pass(batch[cut]) for cut in cuts]
        return Computation(
            lambda: head.rows(np.concatenate([compute() for compute in computations]))
        )

    def _prepare_pass(self, texts: Sequence[Encoding]) -> Callable[[], Floats]:
        layout = self._lay_out([len(text) for text in texts])
        if not self._budget.fits_whole(layout.tokens):
            # Alone, as more than one text never exceeds batch_tokens, which fits.
            return partial(self._compute_long, texts[0])
        states = self._checkpoint.embed(np.concatenate(texts))
        return partial(self._compute, pass_inputs(layout, states, self._rotations))

    def _compute(self, inputs: PassInputs) -> Floats:
        with self._computing:
            program = self._opened()
            states = program.run(inputs.arrays(self._scratch)).copy()
            if inputs.layout.tokens > 2 * self._info.batch_tokens:
                # A rare long text must not hold its memory forever.
                program.release_memory()
                self._scratch.release_memory()
            return states

    def _compute_long(self, text: Encoding) -> Floats:
        chunk_tokens = self._budget.chunk_tokens(len(text), self._info.batch_tokens)
        with self._computing:
            self._opened().release_memory()
            return self._long.compute(text, chunk_tokens)

    def _opened(self) -> Program:
        if self._program is None:
            raise RuntimeError("the engine is closed")
        return self._program

    def close(self) -> None:
        with self._computing:
            self._program = None
            self._scratch.release_memory()
