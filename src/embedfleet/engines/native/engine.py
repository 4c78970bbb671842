"""The native CPU engine: our own C kernels behind the engine protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np

from embedfleet.engines.architectures import Checkpoint
from embedfleet.engines.native.agreement import Agreement, agreement
from embedfleet.engines.native.library import InstructionSet, Kernels
from embedfleet.engines.native.memory import MemoryBudget
from embedfleet.engines.native.model import Model, Sharing
from embedfleet.engines.native.weights import Packer, Weights
from embedfleet.engines.passes import (
    SharingPass,
    lengths_of,
    positions_of,
    shared_tokens,
    sharing_passes,
)
from embedfleet.engines.protocol import Computation, EngineInfo
from embedfleet.engines.tensors import Floats
from embedfleet.vocabulary import Encoding, Precision, Vectors


@dataclass(frozen=True, slots=True)
class NativeSettings:
    """Settings of the engine."""

    precision: Precision
    """F32 or INT8."""
    instructions: InstructionSet
    """Of the library; it must run here."""
    bfloat16: bool
    """Whether attention of INT8 multiplies bfloat16, for processors that do: nearly as
    exact (mean cosine to f32 0.99835 with, 0.99842 without, on random weights), twice as fast."""
    threads: int
    batch_tokens: int
    """Tokens in one pass through the model, unless a single text is longer."""
    memory_mib: int
    """Working memory of a pass in MiB, beside the weights; enough for `max_tokens`."""
    max_tokens: int


class NativeEngine:
    """A model on the CPU. Any number of threads may prepare and compute; passes run one by one."""

    def __init__(self, checkpoint: Checkpoint, settings: NativeSettings, kernels: Kernels) -> None:
        """Pack the weights: about a second, and memory for one copy of them.

        The model must have sizes that the kernels can divide (`choice.misfit`).
        """
        config, instructions = checkpoint.config, settings.instructions
        budget = MemoryBudget(config, kernels.numbers, settings.threads, settings.memory_mib)
        self._checkpoint = checkpoint
        checkpoint.hold_embeddings()
        self._tables = checkpoint.angles()
        self._computing = Lock()
        self._settings, self._kernels = settings, kernels
        packer = Packer(kernels, instructions, settings.precision)
        layers = range(config.layers)
        weights = Weights(checkpoint, packer, settings.threads, layers)
        self._weights: Weights | None = weights
        """Until it is closed: its memory is given back with the model's."""
        self._model = Model(
            checkpoint, packer, weights, settings.threads, bfloat16=settings.bfloat16
        )
        self._info = EngineInfo(
            width=checkpoint.head.width,
            max_tokens=settings.max_tokens,
            vocabulary=config.vocabulary,
            precision=settings.precision,
            device="cpu",
            batch_tokens=budget.batch_tokens(settings.batch_tokens),
            kernels="native",
            instructions=instructions.name,
        )

    def __repr__(self) -> str:
        state = "open" if self._model.is_open else "closed"
        return f"NativeEngine({self._checkpoint.directory.name!r}, {self._info}, {state})"

    @property
    def info(self) -> EngineInfo:
        return self._info

    def prepare(self, batch: Sequence[Encoding]) -> Computation:
        """Look up embeddings; the computation runs the kernels.

        Raises ValueError for an empty batch, an empty text or one over `info.max_tokens`.
        """
        lengths = lengths_of(batch, self._info.max_tokens)
        tables = None if self._tables is None else self._tables.up_to(max(lengths))
        block = self._kernels.numbers.key_block
        # With bidirectional attention no prefix can be shared.
        causal = self._checkpoint.forward == "decoder"
        plans = list(sharing_passes(batch, self._info.batch_tokens, block, causal=causal))
        prepared = [_Pass(batch, plan, self._checkpoint) for plan in plans]
        places = np.concatenate([plan.places for plan in plans])

        def compute() -> Vectors:
            final = np.empty((len(batch), self._checkpoint.config.hidden), np.float32)
            final[places] = np.concatenate([self._compute(one, tables) for one in prepared])
            return self._checkpoint.head.rows(final)

        return Computation(compute, shared=shared_tokens(plans, len(batch)))

    def _compute(self, one: _Pass, tables: tuple[Floats, Floats] | None) -> Floats:
        with self._computing:
            if not self._model.is_open:
                raise RuntimeError("the engine is closed")
            final = self._model.run(one.begins, one.take_states(), tables, one.sharing)
            if one.tokens > 2 * self._info.batch_tokens:
                # A rare long text must not hold its memory forever.
                self._model.release_memory()
            return final

    def agreement(self) -> Agreement:
        """How well int8 agrees with float32 in this model; takes about as long as loading it."""
        settings = self._settings
        if self._weights is None:
            raise RuntimeError("the engine is closed")
        return agreement(
            self._checkpoint,
            self._kernels,
            settings.instructions,
            self._weights,
            settings.threads,
            bfloat16=settings.bfloat16,
        )

    def close(self) -> None:
        with self._computing:
            self._model.close()
            self._weights = None


class _Pass:
    """Concatenated texts without shared prefixes, and their embeddings, which the kernels
    overwrite."""

    def __init__(
        self, batch: Sequence[Encoding], plan: SharingPass, checkpoint: Checkpoint
    ) -> None:
        texts = [
            batch[place][shared:] for place, shared in zip(plan.places, plan.shared, strict=True)
        ]
        self._ids, self._checkpoint = np.concatenate(texts), checkpoint
        self.begins = np.cumsum([0, *map(len, texts)], dtype=np.int32)
        self._positions = positions_of(self.begins)
        self._states: Floats | None = self._looked_up()
        self.tokens = len(self._ids)
        self.sharing: Sharing | None = None
        if plan.shares:
            self.sharing = np.array(plan.shared, np.int32), np.array(plan.lenders, np.int32)

    def take_states(self) -> Floats:
        """Embeddings [tokens, hidden] to overwrite; looked up again if the pass runs again."""
        states, self._states = self._states, None
        return self._looked_up() if states is None else states

    def _looked_up(self) -> Floats:
        return np.ascontiguousarray(self._checkpoint.embed(self._ids, self._positions))
