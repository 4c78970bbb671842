"""Computes texts too long for one pass: layer by layer, and each layer in chunks of tokens.

Only one layer's weights, keys and values and one chunk's activations are in memory at a time. A
layer is compiled when it is needed and dropped afterwards, which costs a fraction of a second
against the many seconds that such a text takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from embedfleet.engines.cpu.forward import Compiler, Program, Scratch, one_layer, pass_inputs
from embedfleet.engines.cpu.layout import BLOCK_TOKENS, Layout, Rotations, chunk_of_text
from embedfleet.engines.cpu.linear import Linear
from embedfleet.engines.qwen3 import Qwen3Checkpoint
from embedfleet.engines.tensors import Floats
from embedfleet.vocabulary import Encoding

Chunks: TypeAlias = Sequence[tuple[int, int]]
"""Where each chunk of a text begins and ends, in tokens."""


@dataclass(frozen=True, slots=True)
class LongTexts:
    """Computes one long text at a time, with paged attention."""

    checkpoint: Qwen3Checkpoint
    linear: Linear
    compiler: Compiler
    rotations: Rotations

    def compute(self, text: Encoding, chunk_tokens: int) -> Floats:
        """Final state of the last token, [1, hidden]; `chunk_tokens` are whole blocks."""
        last = self.checkpoint.config.layers - 1
        scratch = Scratch(self.checkpoint.config)
        scratch.arrays(-(-len(text) // BLOCK_TOKENS))  # all of it now: growing forgets
        states = self.checkpoint.embed(text)
        chunks = list(pairwise([*range(0, len(text), chunk_tokens), len(text)]))
        for index in range(last):
            self._all_states(index, chunks, states, scratch)
        return self._last_state(last, chunks, states, scratch)

    def _all_states(self, index: int, chunks: Chunks, states: Floats, scratch: Scratch) -> None:
        """Take all tokens through a layer, in place. Its program ends with this call, so that two
        layers are never in memory together.
        """
        program = self._layer(index)
        for start, stop in chunks:
            chunk = chunk_of_text(start, stop, seen=start)
            states[start:stop] = self._run(program, chunk, states[start:stop], scratch)

    def _last_state(self, index: int, chunks: Chunks, states: Floats, scratch: Scratch) -> Floats:
        """Take the last token, which alone is wanted, through the last layer; [1, hidden]."""
        program = self._layer(index)
        for start, stop in chunks[:-1]:
            # The chunks before its own need not see what came before them, they only have to leave
            # their keys and values behind.
            chunk = chunk_of_text(start, stop, seen=0)
            self._run(program, chunk, states[start:stop], scratch)
        start, stop = chunks[-1]
        chunk = chunk_of_text(start, stop, seen=start)
        return self._run(program, chunk, states[start:stop], scratch).copy()

    def _layer(self, index: int) -> Program:
        return self.compiler.compile(one_layer(self.checkpoint, self.linear, index))

    def _run(self, program: Program, chunk: Layout, states: Floats, scratch: Scratch) -> Floats:
        return program.run(pass_inputs(chunk, states, self.rotations).arrays(scratch))
