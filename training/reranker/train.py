"""The training step of the reranker: a time budget on one GPU.

    python -m training.reranker.train POOLS --geometry 384x4 --seconds 400 --out DIR/weights

Begins with finding hard negatives by the built-in model. Weights are saved in the form that ships.
Last it is scored on the parts of the training sets that were kept aside.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from training import checkpoint
from training.batches import by_length
from training.pools import Store
from training.reranker.evaluate import evaluate, table
from training.reranker.lists import Lists, Sampler
from training.reranker.mining import Miner, load_embedder
from training.reranker.model import Reranker, look_for_own_token, shared_tokens, warm
from training.reranker.recipe import GEOMETRIES, LIST, LONGEST_QUERY, WEIGHTS, Options
from training.train import (
    CLIP,
    SHORTEST_S,
    Optimisers,
    add_arguments,
    compile_works,
    overridden,
    schedule,
)

BUILT_IN = Path(__file__).parents[2] / "src/embedfleet/models/builtin/model.safetensors"
PARTS = 4
SCORED_S = 25.0
"""Kept of the budget for compiling and for the scores at the end."""


class Trainer:
    """One model in training."""

    def __init__(
        self, model: Reranker, sampler: Sampler, options: Options, *, compiled: bool
    ) -> None:
        self.model, self.sampler, self.options = model, sampler, options
        self._logits: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = model.matching
        if compiled:
            self._logits = torch.compile(model.matching, dynamic=True)

    def precision(self) -> torch.autocast:
        kind = self.sampler.device.type
        return torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda")

    def loss(self, lists: Lists, progress: float = 0.0) -> Tensor:
        blocks, undo = by_length(lists.pairs, PARTS)
        parts: list[Tensor] = []
        matched = torch.zeros((), device=self.sampler.device)
        for block in blocks:
            last = block.lengths - 1
            with self.precision():
                logit, found = self._logits(block.ids, last)
            parts.append(logit)
            shared, document = shared_tokens(block.ids, last, LONGEST_QUERY + 8)
            each = functional.binary_cross_entropy_with_logits(
                found, shared.float(), reduction="none"
            )
            matched = matched + (each * document).sum() / document.sum() / len(blocks)
        logits = torch.cat(parts)[undo].view(-1, LIST)
        self.matched = matched.detach()
        alone = torch.zeros_like(logits)
        alone[:, 0] = 1.0
        listwise = functional.cross_entropy(logits, lists.target)
        pointwise = functional.binary_cross_entropy_with_logits(logits, alone)
        helping = self.options.matched * max(0.05, 1 - 2 * progress) * matched
        return listwise + self.options.pointwise * LIST * pointwise + helping

    def run(self, seconds: float, updates: int) -> int:
        """Train for a time, or for a number of updates if that is not 0; returns their number."""
        optimisers = Optimisers(self.model, self.options)
        names = list(WEIGHTS)
        weights = torch.tensor([WEIGHTS[name] for name in names])
        means: dict[str, float] = {}
        self.model.train()
        # The first passes compile, which should not count as training time.
        for name in names[:2]:
            self.loss(self.sampler.draw(name, self.options)).backward()
        optimisers.step(0.0)
        begin = said = time.monotonic()
        step = tokens = 0
        while True:
            name = names[int(torch.multinomial(weights, 1))]
            progress = step / updates if updates else (time.monotonic() - begin) / seconds
            lists = self.sampler.draw(name, self.options, progress)
            loss = self.loss(lists, progress)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
            now = time.monotonic()
            if progress >= 1:
                break
            optimisers.step(self.options.rate * schedule(max(progress, 1e-3)))
            step += 1
            if step % 10 == 0:
                value = loss.item()
                means[name] = 0.8 * means.get(name, value) + 0.2 * value
                tokens += int(lists.pairs.lengths.sum()) * 10
                if not math.isfinite(value):
                    raise SystemExit(f"loss of {name} is not finite at step {step}")
            if now - said > 10:
                said = now
                shown = " ".join(f"{key}={value:.2f}" for key, value in means.items())
                rate = tokens / (now - begin) / 1e6
                found = f"matched={float(self.matched):.3f}"
                print(f"{step} {now - begin:.0f}s {rate:.2f} Mtok/s {found} {shown}", flush=True)
        spent = time.monotonic() - begin
        rate = tokens / spent / 1e6
        print(f"{step} updates in {spent:.0f} s, {rate:.2f} Mtok/s", flush=True)
        return step


def train_step(arguments: argparse.Namespace) -> None:
    started = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(arguments.seed)
    torch.set_float32_matmul_precision("high")
    compiled = compile_works(device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    options = overridden(Options(), arguments.set)
    geometry = GEOMETRIES[arguments.geometry]
    store = Store.load(arguments.pools)
    embedder = load_embedder(BUILT_IN, device)
    miner = Miner(store, embedder, device)
    candidates = miner.every()
    print(f"{name}: mined after {time.monotonic() - started:.0f} s", flush=True)
    model = Reranker(geometry, options.dropout).to(device)
    if options.warm:
        warm(model, embedder.embed_tokens.weight)
    if options.matching:
        look_for_own_token(model)
    if arguments.start:
        model.load_state_dict(checkpoint.load(arguments.start), strict=False)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{arguments.geometry}: {parameters / 1e6:.2f} M parameters; {options}", flush=True)
    sampler = Sampler(miner, geometry.vocab_size, candidates)
    trainer = Trainer(model, sampler, options, compiled=compiled)
    spent = time.monotonic() - started + (SCORED_S if compiled else 0.0)
    trainer.run(max(arguments.seconds - spent, SHORTEST_S), arguments.updates)
    checkpoint.save(model.shipped(), arguments.out)
    model.load_state_dict(
        checkpoint.load(arguments.out), strict=False
    )  # score what was saved, rounded
    model.eval()
    with trainer.precision():
        results = evaluate(model, miner)
    print(table(results), flush=True)
    arguments.out.with_suffix(".json").write_text(json.dumps(results, indent=1))
    print(f"{time.monotonic() - started:.0f} s in all", flush=True)


def arguments_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pools", type=Path)
    parser.add_argument("--geometry", choices=sorted(GEOMETRIES), default="384x4")
    add_arguments(parser, seconds=400.0, seed=21)
    return parser


def main() -> None:
    train_step(arguments_parser().parse_args())


if __name__ == "__main__":
    main()
