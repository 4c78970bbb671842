"""One training step: a time budget on one GPU, from the last step's weights to the next ones.

    python -m training.train PREPARED --step 1 --seconds 470 --out step1.safetensors
    python -m training.train PREPARED --step 2 --start step1.safetensors --out step2.safetensors

The step's settings come from recipe.py; `--set name=value` overrides one, for comparisons. Weights
are saved in the form that ships (see checkpoint.py), so any step's result can be exported.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from training import checkpoint
from training.batches import Rows, by_length
from training.evaluate import evaluate, table
from training.model import Qwen3
from training.objectives import bm25, contrastive, false_negatives, language_model, soften
from training.pools import Store
from training.recipe import GEOMETRIES, STEPS, TASKS, Optimisation, nested
from training.sampling import LANGUAGE_BATCH, Sampler

WARM_UP = 0.02
CLIP = 1.0
SHARPNESS = 4.0
MOST_JUDGED = 0.8
SAVE_EVERY_S = 120.0
COMPILING_S = 30.0
SHORTEST_S = 2.0

Chosen = TypeVar("Chosen", bound=Optimisation)


class Optimisers:
    """Muon for the matrices inside the layers, AdamW for everything else; or AdamW for all."""

    def __init__(self, model: Qwen3, options: Optimisation) -> None:
        matrices = [p for p in model.layers.parameters() if p.dim() == 2] if options.muon else []
        chosen = {id(p) for p in matrices}
        others = [p for p in model.parameters() if id(p) not in chosen]
        decayed = [p for p in others if p.dim() > 1]
        plain = [p for p in others if p.dim() <= 1]
        decay = options.weight_decay
        self.members: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                [
                    {"params": decayed, "weight_decay": decay},
                    {"params": plain, "weight_decay": 0.0},
                ],
                betas=(0.9, 0.98),
                fused=next(model.parameters()).is_cuda,
            )
        ]
        if matrices:
            self.members.append(
                torch.optim.Muon(matrices, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
            )

    def step(self, rate: float) -> None:
        for member in self.members:
            for group in member.param_groups:
                group["lr"] = rate
            member.step()
            member.zero_grad(set_to_none=True)


def schedule(progress: float) -> float:
    """Linear warm-up, then a straight line to zero."""
    return min(progress / WARM_UP, max(0.0, (1 - progress) / (1 - WARM_UP)))


@dataclass
class Trainer:
    """A model with its data; `run` trains it for a time."""

    model: Qwen3
    sampler: Sampler
    options: Optimisation
    path: Path
    compiled: bool

    def __post_init__(self) -> None:
        self.device = self.sampler.device
        self.nested = nested(self.model.geometry.hidden_size)
        self._encode: Callable[[Tensor, Tensor], Tensor] = self.model
        self._hidden: Callable[[Tensor], Tensor] = self.model.hidden
        if self.compiled:
            self._encode = torch.compile(self.model, dynamic=True)
            self._hidden = torch.compile(self.model.hidden, dynamic=True)

    def encode(self, rows: Rows) -> Tensor:
        """Vectors without the compiled graph: evaluation would only compile it anew."""
        with self._precision():
            vectors: Tensor = self.model(rows.ids, rows.lengths - 1)
        return vectors

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def _language_loss(self) -> Tensor:
        rows = self.sampler.language(int(LANGUAGE_BATCH * self.options.batch_factor))
        with self._precision():
            logits = self.model.logits(self._hidden(rows.ids))
        return language_model(logits, rows.ids, rows.lengths)

    def _contrastive_loss(self, name: str) -> Tensor:
        task, options = TASKS[name], self.options
        pairs = self.sampler.pairs(task, options)
        ignored = false_negatives(pairs.bare_queries, pairs.bare_documents)
        target = None
        if share := min(task.judged * options.judged, MOST_JUDGED):
            judged = bm25(pairs.bare_queries, pairs.bare_documents)
            target = soften(judged, ignored, share, SHARPNESS)
        x, y = self._vectors(pairs.queries), self._vectors(pairs.documents)
        return contrastive(x, y, ignored, self.nested, options.temperature, target)

    def _vectors(self, rows: Rows) -> Tensor:
        parts, undo = by_length(rows, 2)
        with self._precision():
            vectors = [self._encode(part.ids, part.lengths - 1) for part in parts]
        return torch.cat(vectors)[undo]

    def _losses(self, part: str) -> Iterator[tuple[str, Tensor]]:
        if part == "language":
            while True:
                yield part, self._language_loss()
        names = [name for name, _ in self.options.tasks]
        weights = torch.tensor([float(weight) for _, weight in self.options.tasks])
        while True:
            name = names[int(torch.multinomial(weights, 1))]
            yield name, self._contrastive_loss(name)

    def run(self, part: str, seconds: float, updates: int = 0) -> None:
        """Trains for a time, or for a number of updates if that is not 0."""
        optimisers = Optimisers(self.model, self.options)
        means: dict[str, float] = {}
        losses = self._losses(part)
        self.model.train()
        # The first pass compiles, which should not count as training time.
        next(losses)[1].backward()
        optimisers.step(0.0)
        begin = saved = said = time.monotonic()
        for step, (name, loss) in enumerate(losses):
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
            now = time.monotonic()
            progress = step / updates if updates else (now - begin) / seconds
            if progress >= 1:
                break
            optimisers.step(self.options.rate * schedule(max(progress, 1e-3)))
            if now - said > 20:
                means[name] = loss.item()
                said = now
                shown = " ".join(f"{key}={value:.2f}" for key, value in means.items())
                print(f"{part} {step} {now - begin:.0f}s {shown}", flush=True)
            elif step % 10 == 0:
                means[name] = loss.item()
            if not math.isfinite(means.get(name, 0.0)):
                raise SystemExit(f"loss of {name} is not finite at step {step}")
            if now - saved > SAVE_EVERY_S:
                saved = now
                checkpoint.save(self.model.state_dict(), self.path)
        print(f"{part}: {step} updates in {time.monotonic() - begin:.0f} s", flush=True)
        checkpoint.save(self.model.state_dict(), self.path)


def overridden(options: Chosen, settings: list[str]) -> Chosen:
    """`name=value` settings, each of the type that the default has."""
    kinds = {field.name: type(getattr(options, field.name)) for field in fields(options)}
    for setting in settings:
        name, _, text = setting.partition("=")
        if kinds[name] is tuple:  # tasks=squad:30,docs:1 changes single weights
            weights = dict(options.tasks)
            weights |= {k: float(v) for k, v in (item.split(":") for item in text.split(","))}
            options = replace(options, tasks=tuple(weights.items()))
        else:
            value = text == "True" if kinds[name] is bool else kinds[name](text)
            options = replace(options, **{name: value})  # type: ignore[arg-type]
    return options


def compile_works(device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    try:
        torch.compile(lambda x: x * 2 + 1)(torch.ones(8, device=device))
    except Exception as error:  # noqa: BLE001 - whatever it is, eager mode still trains
        print(f"torch.compile fails ({error}); going on without it", flush=True)
        return False
    return True


def train_step(arguments: argparse.Namespace) -> None:
    started = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(arguments.seed)
    torch.set_float32_matmul_precision("high")
    compiled = compile_works(device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, compile {compiled}", flush=True)
    options = overridden(STEPS[arguments.step], arguments.set)
    geometry = GEOMETRIES[arguments.geometry]
    store = Store.load(arguments.prepared / "pools.npz.xz")
    model = Qwen3(geometry, options.dropout).to(device)
    if arguments.start:
        model.load_state_dict(checkpoint.load(arguments.start))
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{arguments.geometry}: {parameters / 1e6:.2f} M parameters; {options}", flush=True)
    sampler = Sampler(store, device, geometry.vocab_size)
    trainer = Trainer(model, sampler, options, arguments.out, compiled)
    if options.language_share:
        language_s = arguments.seconds * options.language_share
        trainer.run("language", language_s, arguments.updates)
    spent = time.monotonic() - started + (COMPILING_S if compiled else 0.0)
    trainer.run("contrastive", max(arguments.seconds - spent, SHORTEST_S), arguments.updates)
    if arguments.start and options.averaged:
        first, last = checkpoint.load(arguments.start), checkpoint.load(arguments.out)
        checkpoint.save(checkpoint.mean(first, last, options.averaged), arguments.out)
    model.load_state_dict(checkpoint.load(arguments.out))  # score what was saved, rounded
    model.eval()
    results = evaluate(trainer.encode, store, device)
    print(table(results), flush=True)
    arguments.out.with_suffix(".json").write_text(json.dumps(results, indent=1))


def add_arguments(parser: argparse.ArgumentParser, seconds: float, seed: int) -> None:
    """Those of any training step."""
    parser.add_argument("--start", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=seconds)
    parser.add_argument("--updates", type=int, default=0, help="end after these, not by time")
    parser.add_argument("--seed", type=int, default=seed)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")


def arguments_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("--step", type=int, choices=sorted(STEPS), required=True)
    parser.add_argument("--geometry", choices=sorted(GEOMETRIES), default="12k-512x4")
    add_arguments(parser, seconds=470.0, seed=20)
    return parser


def main() -> None:
    train_step(arguments_parser().parse_args())


if __name__ == "__main__":
    main()
