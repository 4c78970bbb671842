"""embedfleet's gateway beside nginx, HAProxy, sglang-router and LiteLLM, over the same replicas.

    python -m benchmarks.gateway [--only abcdef] [--contenders embedfleet,nginx,…] [--rounds 3]
                                 [--seconds 10] [--lanes]

Rivals are installed by the benchmark itself (Debian and PyPI). They take turns in every round, each
with fresh replicas, and medians over the rounds are reported: whatever else the machine does meets
all of them. The gateway has the first core to itself, load and replicas share the others. Replicas
are emulated GPUs (`gateway_replica.py`); `--lanes` lets them put interactive texts first on either
route, as embedfleet's own replicas do and third-party engines do not.

    a  20-token queries at a steady rate while 8,000-token documents saturate two replicas
    b  two replicas of which one is three times as fast
    c  requests of one text, 64 connections: texts per second of one core, with ids and with text;
       and out of the cache, with keys and limits
    d  one of three replicas is killed at half time
    e  what the gateway adds to a replica's own time when nothing else happens
    f  20-token queries beside bulk over two real replicas, the built-in model on a thread each

Prints a table and writes `benchmarks/results/gateway….json` and, with matplotlib, a plot.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.gateway_contenders import CONTENDERS, IN_FULL, Contender, NotHereError, debian
from benchmarks.gateway_measures import UNEQUAL, Numbers, Stage
from benchmarks.gateway_plot import plot

import embedfleet
from benchmarks import gateway_measures as measures

HERE = Path(__file__).parent

Run = Callable[[], Numbers]


@dataclass
class Results:
    """Numbers of all rounds, by measure and contender."""

    rounds: dict[str, dict[str, list[Numbers]]] = field(default_factory=dict)

    def add(self, measure: str, name: str, numbers: Numbers) -> None:
        self.rounds.setdefault(measure, {}).setdefault(name, []).append(numbers)
        shown = ", ".join(f"{key} {value:,.4g}" for key, value in numbers.items())
        print(f"{measure:10s} {name:16s} {shown}", flush=True)

    def medians(self) -> dict[str, dict[str, Numbers]]:
        return {
            measure: {
                name: {key: statistics.median(one[key] for one in seen) for key in seen[0]}
                for name, seen in contenders.items()
            }
            for measure, contenders in self.rounds.items()
        }


Turn = tuple[str, str, Run]
"""One run of a round: the measure with its variant, the contender, what to call."""


def _beside_bulk(chosen: list[Contender], stage: Stage) -> Iterator[Turn]:
    for each in chosen:
        yield "a", each.name, partial(measures.queries_beside_bulk, stage, each)


def _unequal(chosen: list[Contender], stage: Stage) -> Iterator[Turn]:
    for speed in UNEQUAL:
        yield "b", f"{speed:g} alone", partial(measures.unequal_replicas, stage, None, [speed])
    for each in chosen:
        yield "b", each.name, partial(measures.unequal_replicas, stage, each, UNEQUAL)


def _single(chosen: list[Contender], stage: Stage) -> Iterator[Turn]:
    for width in (1024, 2560):
        wide = replace(stage, width=width, model=stage.place / f"model-{width}")
        for each in chosen:
            one = partial(measures.single_texts, wide, each)
            yield f"c {width} ids", each.name, partial(one, text=False)
            if each.name == "embedfleet":
                yield f"c {width} text", each.name, partial(one, text=True)
                hit = partial(measures.single_texts, wide, IN_FULL)
                yield f"c {width} cached ids", each.name, partial(hit, text=False)
                yield f"c {width} cached text", each.name, partial(hit, text=True)


def _death(chosen: list[Contender], stage: Stage) -> Iterator[Turn]:
    for each in chosen:
        yield "d", each.name, partial(measures.replica_dies, stage, each)


def _latency(chosen: list[Contender], stage: Stage) -> Iterator[Turn]:
    yield "e", "direct", partial(measures.latency, stage, None)
    for each in chosen:
        yield "e", each.name, partial(measures.latency, stage, each)


def _processors(chosen: list[Contender], stage: Stage) -> Iterator[Turn]:
    for each in chosen:
        yield "f", each.name, partial(measures.processors, stage, each)


MEASURES: Final = {
    "a": _beside_bulk,
    "b": _unequal,
    "c": _single,
    "d": _death,
    "e": _latency,
    "f": _processors,
}


def write_model(directory: Path, width: int) -> None:
    """What a gateway needs of a model: the built-in one's tokenizer, with another width."""
    source = Path(embedfleet.__file__).parent / "models" / "builtin"
    directory.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, directory / name)
    config = json.loads((source / "config.json").read_text())
    config |= {"hidden_size": width, "max_position_embeddings": 32_768}
    (directory / "config.json").write_text(json.dumps(config))


def machine() -> dict[str, Any]:
    """The hardware as it says itself."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")
    return {"processor": model, "cores": os.cpu_count(), "python": platform.python_version()}


def installed(names: list[str]) -> list[Contender]:
    """The contenders that are here; for each of the others, say why it is not."""
    here = []
    for name in names:
        try:
            CONTENDERS[name].install()
        except NotHereError as error:
            print(f"{name} is left out: {error}", flush=True)
        else:
            here.append(CONTENDERS[name])
    return here


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="embedfleet's gateway beside others")
    parser.add_argument("--only", default="".join(MEASURES), help="letters of measures")
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--lanes", action="store_true", help="replicas put interactive texts first")
    parser.add_argument("--name", default="gateway", help="of the files of results")
    return parser.parse_args()


def main() -> None:
    chosen = options()
    debian("wrk", program="wrk")
    contenders = installed(chosen.contenders.split(","))
    results = Results()
    with tempfile.TemporaryDirectory(prefix="gateway-benchmark-") as scratch:
        place = Path(scratch)
        for width in (1024, 2560):
            write_model(place / f"model-{width}", width)
        stage = Stage(place, place / "model-1024", 1024, chosen.seconds, lanes=chosen.lanes)
        for number in range(chosen.rounds):
            for measure in chosen.only:
                for variant, name, run in MEASURES[measure](contenders, stage):
                    try:
                        results.add(variant, name, run())
                    except NotHereError as error:
                        print(f"{variant} {name}, round {number}: {error}", flush=True)
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": " ".join(["python -m benchmarks.gateway", *sys.argv[1:]]),
        "machine": machine(),
        "medians": results.medians(),
        "rounds": results.rounds,
    }
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"{chosen.name}.json").write_text(json.dumps(report, indent=1) + "\n")
    print("\nMedians")
    for measure, seen in results.medians().items():
        for name, numbers in seen.items():
            shown = "  ".join(f"{key} {value:,.5g}" for key, value in numbers.items())
            print(f"{measure:10s} {name:16s} {shown}")
    plot(report, folder / f"{chosen.name}.png")


if __name__ == "__main__":
    main()
