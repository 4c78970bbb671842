"""The engine for NVIDIA GPUs, on torch and Triton.

All work is submitted to one stream in order; the next batch is submitted while one computes, so
that the device never idles. Small passes replay a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from threading import Thread
from typing import Final, cast

import numpy as np
import torch
from torch import Tensor

from embedfleet.engines.architectures import Checkpoint
from embedfleet.engines.bert import EncoderCheckpoint, places
from embedfleet.engines.cuda.bert import EncoderForward, EncoderOperations
from embedfleet.engines.cuda.devices import Device, Fetched, telling_of_loss
from embedfleet.engines.cuda.filling import Filling
from embedfleet.engines.cuda.forward import Forward, Steps, run
from embedfleet.engines.cuda.graphs import CapturedPass, capture
from embedfleet.engines.cuda.layout import Integers, Layout, Shape, lay_out, rounded_up
from embedfleet.engines.cuda.memory import Need, Sizes, chosen_sizes
from embedfleet.engines.cuda.operations import Kit, chosen_kit, encoder_kit
from embedfleet.engines.cuda.pieces import PassInPieces, capture_in_pieces
from embedfleet.engines.cuda.plain import Operations, parts_of
from embedfleet.engines.cuda.sizes import captured_shapes, fitting, shapes_in_pieces
from embedfleet.engines.cuda.turns import Turns
from embedfleet.engines.cuda.weights import Loading
from embedfleet.engines.passes import SharingPass, lengths_of, shared_tokens, sharing_passes
from embedfleet.engines.protocol import Computation, EngineInfo
from embedfleet.engines.qwen3 import Qwen3Checkpoint
from embedfleet.vocabulary import Encoding, Precision, Vectors


@dataclass(frozen=True, slots=True)
class CudaSettings:
    """Settings of the engine."""

    precision: Precision
    """F32, BF16 or FP8."""
    batch_tokens: int
    """Tokens in one pass, unless a single text is longer."""
    max_tokens: int
    memory_mib: int | None = None
    """Memory for intermediate results; None: what the device has."""
    deterministic: bool = False
    """Whether a text's vector has the same bits whatever it is batched with."""


_REMEMBERED_TOKENS: Final = 64
"""Passes of one text up to this long are laid out once: beside theirs, that time is seen."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How texts lie in a pass, and the integers that say so, without token ids."""

    layout: Layout
    shape: Shape
    integers: Integers


@dataclass(frozen=True, slots=True)
class Pass:
    """Some texts of a batch, ready for the device."""

    layout: Layout
    shape: Shape
    inputs: Tensor
    """[shape.size] int32, in memory that the device can fetch by itself."""


class CudaEngine:
    """A model on a GPU. Any number of threads may prepare and compute."""

    def __init__(self, checkpoint: Checkpoint, settings: CudaSettings, device: Device) -> None:
        """Bring the weights over and capture small passes; seconds to a minute.

        Raises SettingError when the model does not fit.
        """
        config = checkpoint.config
        self._name = checkpoint.directory.name
        self._device = device
        self._first_position = getattr(config, "first_position", 0)
        self._turns = Turns()
        self._captured: dict[Shape, CapturedPass] = {}
        self._in_pieces: dict[Shape, PassInPieces] = {}
        self._plans: dict[int, Plan] = {}
        with device.stream():
            # Until weights are allocated others would see their memory free.
            with device.planning():
                need = Need(config, settings.precision)
                sizes = _planned(need, settings, device)
                filling = Filling(device)
                self._kit = _kit_of(checkpoint, settings, device)
                loading = Loading(
                    *(device.torch_device, settings.precision, filling),
                    *(self._kit.fixed_rows, self._kit.few_rows),
                )
                chunk = _whole_rows(sizes.batch_tokens, self._kit.fixed_rows or 1)
                self._forward: Forward | EncoderForward | None = _forward_of(
                    checkpoint, loading, self._kit, chunk
                )
            self._info = EngineInfo(
                width=checkpoint.head.width,
                max_tokens=settings.max_tokens,
                vocabulary=config.vocabulary,
                precision=settings.precision,
                device=device.name,
                batch_tokens=sizes.batch_tokens,
                in_flight=2,
                enough_tokens=min(self._kit.enough_tokens, sizes.batch_tokens),
                long_beside=True,
                at_once_tokens=_REMEMBERED_TOKENS,
                device_uuid=device.uuid,
            )
            with filling.under_way(), self._libraries():
                if self._kit.captures:  # which asks for addresses alone
                    self._capture(need)
            device.release_memory()  # what filling took
        self._warm_up()

    @contextmanager
    def _libraries(self) -> Iterator[None]:
        """Load libraries that only some texts need beside what is done inside."""
        thread = Thread(target=self._kit.load_libraries, name="libraries", daemon=True)
        thread.start()
        try:
            yield
        finally:
            thread.join()

    def _capture(self, need: Need) -> None:
        kit, forward, device = self._kit, self._opened(), self._device.torch_device
        shapes = captured_shapes(self._info.batch_tokens, kit.tile_tokens, kit.fixed_rows or 1)
        kernels = partial(_whole, forward.shortened())
        pool = torch.cuda.graph_pool_handle()
        self._captured = capture(shapes, partial(_whole, forward), kernels, device, pool)
        if kit.split is not None and isinstance(forward, Forward):
            self._in_pieces = capture_in_pieces(
                shapes_in_pieces(shapes, kit.alone_from, need.linear_parameters),
                lambda operations: partial(_whole, replace(forward, operations=operations)),
                *(kit.split, device, pool),
            )

    def _warm_up(self) -> None:
        """Let libraries load, compile and allocate before the first text comes, not with it."""
        longest = self._info.max_tokens
        for tokens in self._kit.warm_up_tokens:
            self.prepare([np.zeros(min(tokens, longest), np.int32)])()

    def __repr__(self) -> str:
        state = "closed" if self._forward is None else "open"
        return f"CudaEngine({self._name!r}, {self._info}, {state})"

    @property
    def info(self) -> EngineInfo:
        return self._info

    def prepare(self, batch: Sequence[Encoding]) -> Computation:
        """Lay the texts out in memory that the device can fetch; the computation runs the model.

        Raises ValueError for an empty batch, an empty text or one over `info.max_tokens`; both
        raise EngineLostError when the device is lost.
        """
        lengths_of(batch, self._info.max_tokens)
        kit = self._kit
        plans = list(
            sharing_passes(
                batch,
                self._info.batch_tokens,
                kit.tile_tokens,
                causal=kit.causal,
                longest=kit.alone_from - 1,
            )
        )
        with telling_of_loss(self._device.name):
            prepared = [self._prepare_pass(batch, plan) for plan in plans]
            begun = self._begun(prepared[0]) if len(prepared) == 1 else None
        padding = sum(each.shape.tokens - each.layout.tokens for each in prepared)
        if begun is not None:
            return self._computation(begun, padding)
        order = [place for plan in plans for place in plan.places]
        return Computation(
            lambda: _in_order(self._compute(prepared), order),
            padding,
            shared_tokens(plans, len(batch)),
        )

    def _prepare_pass(self, batch: Sequence[Encoding], plan: SharingPass) -> Pass:
        texts = [batch[place] for place in plan.places]
        if len(texts) == 1 and len(texts[0]) <= _REMEMBERED_TOKENS:
            return self._remembered(texts[0])
        layout, shape = self._laid_out([len(text) for text in texts], plan)
        inputs = self._device.empty_input(shape.size)
        layout.write(texts, shape, inputs.numpy())
        self._place(inputs.numpy(), shape)
        return Pass(layout, shape, inputs)

    def _remembered(self, text: Encoding) -> Pass:
        """A pass of one text, whose integers but for its ids are those of any other as long."""
        plan = self._plans.get(len(text))
        if plan is None:
            layout, shape = self._laid_out([len(text)])
            plan = Plan(layout, shape, np.empty(shape.size, np.int32))
            layout.write([text], shape, plan.integers)
            self._plans[len(text)] = plan
        inputs = self._device.empty_input(plan.shape.size)
        integers = inputs.numpy()
        integers[:] = plan.integers
        integers[plan.shape.parts["ids"]][: len(text)] = text
        self._place(integers, plan.shape)
        return Pass(plan.layout, plan.shape, inputs)

    def _place(self, integers: Integers, shape: Shape) -> None:
        """Make rows of a table of positions of positions in texts, where there is such a table."""
        if self._first_position:
            ids, positions = (integers[shape.parts[name]] for name in ("ids", "positions"))
            positions[:] = places(ids, positions, self._first_position)

    def _laid_out(
        self, lengths: Sequence[int], plan: SharingPass | None = None
    ) -> tuple[Layout, Shape]:
        layout = lay_out(
            lengths,
            tile_tokens=self._kit.tile_tokens,
            alone_from=self._kit.alone_from,
            causal=self._kit.causal,
            sharing=None if plan is None or not plan.shares else plan,
        )
        least = layout.shape
        if self._kit.fixed_rows is not None:
            least = rounded_up(least, self._kit.fixed_rows)
        by_size = sorted(self._captures(layout), key=lambda shape: shape.tokens)
        return layout, fitting(by_size, least) or least

    def _compute(self, prepared: Sequence[Pass]) -> Vectors:
        with (
            telling_of_loss(self._device.name),
            torch.inference_mode(),
            self._device.stream(),
        ):
            waits = [self._start(each) for each in prepared]
            return np.concatenate([wait() for wait in waits])

    def _begun(self, each: Pass) -> Fetched | None:
        """The rest of a pass that is submitted at once: one text so short that the waking of a
        thread to submit it is seen. None if it is none, or others are submitting."""
        captured = self._captures(each.layout).get(each.shape)
        if captured is None or len(each.layout.lengths) > 1 or not _is_soon_done(each):
            return None
        with self._turns.if_free() as free:
            if not free:
                return None
            with torch.inference_mode(), self._device.stream():
                return self._submitted(each, captured)

    def _computation(self, begun: Fetched, padding: int) -> Computation:
        """What is left to do of a pass that was submitted."""
        device, asked = self._device.name, begun.done

        def waited() -> Vectors:
            self._opened()
            with telling_of_loss(device):
                return begun()

        def done() -> bool:
            with telling_of_loss(device):
                return asked is not None and asked()

        return Computation(waited, padding, done=None if asked is None else done)

    def _submitted(self, each: Pass, captured: CapturedPass | PassInPieces | None) -> Fetched:
        """Submit a whole pass, while nobody else submits; the rest waits for its vectors."""
        if captured is not None:
            self._opened()
            vectors = captured.run(each.inputs, each.layout)
        else:
            vectors = run(self._steps(each))
        return self._device.fetch(vectors, len(each.layout.lengths), soon=_is_soon_done(each))

    def _start(self, each: Pass) -> Fetched:
        """Submit a pass; the returned function waits for its vectors."""
        captured = self._captures(each.layout).get(each.shape)
        if captured is None and each.layout.tokens > self._info.batch_tokens:
            vectors = self._turns.in_steps(self._steps(each), self._device.mark)
            with self._turns.whole():
                return self._device.fetch(vectors, len(each.layout.lengths))
        with self._turns.whole():
            return self._submitted(each, captured)

    def _steps(self, each: Pass) -> Steps:
        inputs = each.inputs.to(self._device.torch_device, non_blocking=True)
        return self._opened().steps(*parts_of(inputs, each.shape, each.layout))

    def _captures(self, layout: Layout) -> Mapping[Shape, CapturedPass | PassInPieces]:
        """The captured passes of its kind, by size."""
        return self._in_pieces if layout.alone else self._captured

    def _opened(self) -> Forward | EncoderForward:
        if self._forward is None:
            raise RuntimeError("the engine is closed")
        return self._forward

    def close(self) -> None:
        """Raises EngineLostError when the device was lost meanwhile."""
        with self._turns.whole():
            self._forward = None
            self._captured, self._in_pieces = {}, {}
        with telling_of_loss(self._device.name):
            self._device.release_memory()


def _whole(forward: Forward | EncoderForward, inputs: Tensor, shape: Shape) -> Tensor:
    """Compute a pass whose sizes alone are known."""
    nobody = lay_out([], tile_tokens=1, alone_from=1)
    with torch.inference_mode():
        return run(forward.steps(*parts_of(inputs, shape, nobody)))


def _planned(need: Need, settings: CudaSettings, device: Device) -> Sizes:
    """What fits; the device gives no more than a person allows. Raises SettingError."""
    sizes = chosen_sizes(
        need,
        batch_tokens=settings.batch_tokens,
        max_tokens=settings.max_tokens,
        wanted_mib=settings.memory_mib,
        free_mib=device.free_mib(),
        total_mib=device.total_mib(),
    )
    if settings.memory_mib is not None:
        device.limit(sizes.limit_mib)
    return sizes


def _kit_of(checkpoint: Checkpoint, settings: CudaSettings, device: Device) -> Kit:
    precision, deterministic = settings.precision, settings.deterministic
    if isinstance(checkpoint, EncoderCheckpoint):
        return encoder_kit(
            checkpoint.config,
            device.torch_device,
            precision=precision,
            deterministic=deterministic,
        )
    return chosen_kit(
        cast("Qwen3Checkpoint", checkpoint).config,
        device.torch_device,
        precision=precision,
        max_tokens=settings.max_tokens,
        deterministic=deterministic,
    )


def _forward_of(
    checkpoint: Checkpoint, loading: Loading, kit: Kit, chunk: int
) -> Forward | EncoderForward:
    if isinstance(checkpoint, EncoderCheckpoint):
        encoding = cast("EncoderOperations", kit.operations)
        weights = loading.load_encoder(checkpoint)
        return EncoderForward(checkpoint.config, checkpoint.pooling, weights, encoding, chunk)
    decoder = cast("Qwen3Checkpoint", checkpoint)
    operations = cast("Operations", kit.operations)
    return Forward(decoder.config, loading.load(decoder), operations, chunk)


def _in_order(vectors: Vectors, places: Sequence[int]) -> Vectors:
    """Rows of a batch, of which those of `places` are given."""
    if places == list(range(len(places))):
        return vectors
    found = np.empty_like(vectors)
    found[places] = vectors
    return found


def _is_soon_done(each: Pass) -> bool:
    return each.layout.tokens <= _REMEMBERED_TOKENS


def _whole_rows(tokens: int, rows: int) -> int:
    """The least multiple of `rows` that is no less than `tokens`."""
    return -(-tokens // rows) * rows
