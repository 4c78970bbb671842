"""The engine on the CPU: OpenVINO programs behind the protocol of engines.

Decides what is done in `prepare` and what in the computation, and which program computes a text.
Refuses to know where batches come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
import openvino as ov  # type: ignore[import-untyped]

from embedfleet.engine.checkpoint import Checkpoint
from embedfleet.engine.cpu.forward import Compiler, Program, Scratch, whole_model
from embedfleet.engine.cpu.layout import Arrays, Layout, Rotations, passes, whole_texts
from embedfleet.engine.cpu.linear import FloatInput, Linear, int8_input
from embedfleet.engine.engine import Computation, EngineInfo
from embedfleet.engine.pooling import unit_rows
from embedfleet.engine.tensors import Floats
from embedfleet.vocabulary import Encoding, Precision


@dataclass(frozen=True, slots=True)
class CpuSettings:
    """What the engine may use."""

    precision: Precision
    """F32 or INT8."""
    threads: int
    batch_tokens: int
    """Tokens in one pass through the graph, unless a single text is longer."""
    memory_mib: int
    """Working memory of a pass in MiB, beside the weights."""
    max_tokens: int


@dataclass(frozen=True, slots=True)
class _Pass:
    layout: Layout
    inputs: Arrays


class CpuEngine:
    """Qwen3 on the CPU. Any number of threads may prepare and compute; passes run one by one."""

    def __init__(self, checkpoint: Checkpoint, settings: CpuSettings) -> None:
        """Compile the model; takes seconds, and the memory of one copy of the linear weights."""
        config = checkpoint.config
        linear: Linear = FloatInput if settings.precision is Precision.F32 else int8_input
        self._checkpoint = checkpoint
        self._settings = settings
        self._rotations = Rotations(config)
        self._scratch = Scratch(config)
        self._computing = Lock()
        compiler = Compiler(ov.Core(), settings.threads)
        self._program: Program | None = compiler.compile(whole_model(checkpoint, linear))
        self._info = EngineInfo(
            width=config.hidden,
            max_tokens=settings.max_tokens,
            vocabulary=config.vocabulary,
            precision=settings.precision,
            device="cpu",
            batch_tokens=settings.batch_tokens,
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
        lengths = [len(encoding) for encoding in batch]
        if not lengths or not all(0 < length <= self._info.max_tokens for length in lengths):
            raise ValueError(
                f"a batch holds texts of 1 to {self._info.max_tokens} tokens; got {lengths[:20]}"
            )
        cuts = passes(lengths, self._settings.batch_tokens)
        prepared = [self._prepare_pass(batch[cut]) for cut in cuts]
        return lambda: unit_rows(np.concatenate([self._compute_pass(one) for one in prepared]))

    def _prepare_pass(self, texts: Sequence[Encoding]) -> _Pass:
        layout = whole_texts([len(text) for text in texts])
        cosine, sine = self._rotations.at(layout.positions)
        embedded = self._checkpoint.embed(np.concatenate(texts))
        return _Pass(layout, layout.arrays | {"embedded": embedded, "cosine": cosine, "sine": sine})

    def _compute_pass(self, one: _Pass) -> Floats:
        with self._computing:
            if self._program is None:
                raise RuntimeError("the engine is closed")
            scratch = self._scratch.arrays(one.layout.blocks)
            return self._program.run(one.inputs | scratch).copy()

    def close(self) -> None:
        with self._computing:
            self._program = None
