"""Encoders on the processor beside transformers and ONNX Runtime: tokens/s, latency, exactness.

    python -m benchmarks.cpu_encoders [--rounds 5] [--threads 2] [--models MiniLM-L6 bge-base]
                                       [--contenders NAME...] [--folder DIR]

Needs torch, transformers, onnx, onnxscript and onnxruntime beside the project. MiniLM-L6's and
bge-base's geometry with random weights (seeded), mean pooling, token ids in and unit vectors out.
Each contender is a process; they take turns on every workload. transformers and ONNX Runtime get
texts sorted by length in padded passes of at most 1,024 tokens; ONNX Runtime's graph is fused by
its own optimiser for BERT, and for int8 quantised by its own dynamic quantisation. Ours
take an instruction set behind their precision (`embedfleet f32 avx2`). Writes
`benchmarks/results/cpu_encoders.json` after each round.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import geometric_mean, median
from typing import IO, Any, Final, cast

import numpy as np
from benchmarks.cpu_rivals.contract import PASS_TOKENS, Embed, Vectors, sorted_passes, unit
from benchmarks.cpu_workloads import WORKLOADS as OF_DECODERS
from benchmarks.cpu_workloads import Texts, Workload

from embedfleet.runtime.machine import processor_flags
from tests.encoder_checkpoints import BGE_BASE, MINILM_L6, write_encoder

RESULT: Final = Path(__file__).parent / "results" / "cpu_encoders.json"
MODELS: Final = {"MiniLM-L6": MINILM_L6, "bge-base": BGE_BASE}
CONTENDERS: Final = (
    "transformers f32",
    "onnxruntime f32",
    "onnxruntime int8",
    "embedfleet f32",
    "embedfleet int8",
)
"""The first is what the vectors of the others are compared with."""
SINGLES_PER_ROUND: Final = 5
MIX: Final = next(workload for workload in OF_DECODERS if workload.name == "mix").lengths[:16]
WORKLOADS: Final = (
    Workload("32 x 32", (32,) * 32),
    Workload("8 x 128", (128,) * 8),
    Workload("2 x 512", (512,) * 2),
    Workload("mix", MIX),
    Workload("1 x 16", (16,)),
    Workload("1 x 128", (128,)),
)


def embedfleet(name: str, checkpoint: Path, threads: int) -> Embed:
    from embedfleet.engines.loading import EngineOptions, load_engine  # noqa: PLC0415

    _, dtype, *instructions = name.split()
    options = EngineOptions(
        dtype=dtype, threads=threads, kernels="native", instructions=(*instructions, "auto")[0]
    )
    engine = load_engine(checkpoint, options)
    return lambda texts: engine.prepare(texts)()


def padded(texts: Texts, part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and mask of a pass, [texts, longest]."""
    lengths = np.array([len(texts[index]) for index in part])
    ids = np.zeros((len(part), lengths.max()), np.int64)
    for row, index in enumerate(part):
        ids[row, : lengths[row]] = texts[index]
    return ids, (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)


def pooled(states: np.ndarray, mask: np.ndarray) -> Vectors:
    """Means of the texts' rows at unit length."""
    weights = mask / mask.sum(1, keepdims=True)
    return unit(np.einsum("tlh,tl->th", states, weights.astype(np.float32)))


def by_passes(run: Callable[[np.ndarray, np.ndarray], np.ndarray], width: int) -> Embed:
    def embed(texts: Texts) -> Vectors:
        rows = np.empty((len(texts), width), np.float32)
        for part in sorted_passes(texts, PASS_TOKENS, PASS_TOKENS):
            ids, mask = padded(texts, part)
            rows[part] = pooled(run(ids, mask), mask)
        return rows

    return embed


def transformers(_name: str, checkpoint: Path, threads: int) -> Embed:
    import torch  # noqa: PLC0415
    from transformers import AutoModel  # noqa: PLC0415
    from transformers.utils import logging  # noqa: PLC0415

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.set_num_threads(threads)
    model = AutoModel.from_pretrained(checkpoint, dtype=torch.float32).eval()

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        inputs = {"input_ids": torch.from_numpy(ids)}
        if not mask.all():
            inputs["attention_mask"] = torch.from_numpy(mask)
        with torch.inference_mode():
            states: np.ndarray = model(**inputs).last_hidden_state.numpy()
        return states

    return by_passes(run, model.config.hidden_size)


def onnxruntime(name: str, checkpoint: Path, threads: int) -> Embed:
    import onnxruntime as ort  # noqa: PLC0415

    path = exported(checkpoint, name.rpartition(" ")[2])
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    wants = {each.name for each in session.get_inputs()}

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        inputs = {
            "input_ids": ids,
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(ids),
        }
        states: np.ndarray = session.run(
            None, {key: value for key, value in inputs.items() if key in wants}
        )[0]
        return states

    return by_passes(run, json.loads((checkpoint / "config.json").read_text())["hidden_size"])


def exported(checkpoint: Path, dtype: str) -> Path:
    """The model as ONNX Runtime has it fastest, made once."""
    path = checkpoint / f"{dtype}.onnx"
    if path.is_file():
        return path
    import torch  # noqa: PLC0415
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415
    from onnxruntime.transformers import optimizer  # noqa: PLC0415
    from transformers import AutoModel  # noqa: PLC0415

    if dtype == "int8":
        source = exported(checkpoint, "f32")
        quantize_dynamic(
            str(source), str(path), per_channel=True, weight_type=QuantType.QInt8,
            extra_options={"DefaultTensorType": 1},  # float: fused operators tell no types
        )  # fmt: skip
        return path
    model = AutoModel.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    ids = torch.ones(2, 8, dtype=torch.int64)
    names = ("input_ids", "attention_mask", "token_type_ids")

    class States(torch.nn.Module):
        """The states alone."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model.requires_grad_(requires_grad=False)

        def forward(self, ids: Any, mask: Any, types: Any) -> Any:
            return model(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state

    raw = checkpoint / "raw.onnx"
    axes = {name: {0: "texts", 1: "tokens"} for name in (*names, "states")}
    torch.onnx.export(
        States(), (ids, ids, ids * 0), str(raw), input_names=list(names), output_names=["states"],
        dynamic_axes=axes, opset_version=17, dynamo=False,
    )  # fmt: skip
    fused = optimizer.optimize_model(
        str(raw), "bert", num_heads=model.config.num_attention_heads,
        hidden_size=model.config.hidden_size, opt_level=1,
    )  # fmt: skip
    print(f"fused: {fused.get_fused_operator_statistics()}", file=sys.stderr)
    fused.save_model_to_file(str(path))
    return path


def work(name: str, checkpoint: str, threads: str) -> None:
    """A contender's process: a line in, a line out."""
    load = globals()[name.split(maxsplit=1)[0]]
    embed: Embed = load(name, Path(checkpoint), int(threads))
    embed([np.array([5, 6, 7], np.int32)])
    vocabulary = json.loads((Path(checkpoint) / "config.json").read_text())["vocab_size"]
    texts = {workload.name: workload.texts(vocabulary) for workload in WORKLOADS}
    answer({"ready": 1})
    for line in sys.stdin:
        workload, _, output = line.rstrip("\n").partition("\t")
        began, used = time.perf_counter(), time.process_time()
        vectors = embed(texts[workload])
        took = {"seconds": time.perf_counter() - began, "processor_s": time.process_time() - used}
        if output:
            np.save(output, vectors)
        answer(took)


def answer(message: dict[str, float]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


class Contender:
    """A process that computes workloads."""

    def __init__(self, name: str, checkpoint: Path, threads: int) -> None:
        self.name = name
        self.took: dict[str, list[dict[str, float]]] = {}
        words = ["-m", "benchmarks.cpu_encoders", "--worker", name, str(checkpoint), str(threads)]
        self._process = subprocess.Popen(
            [sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._lines = cast("IO[str]", self._process.stdin)
        self._answer()

    def _answer(self) -> dict[str, float]:
        for line in cast("IO[str]", self._process.stdout):
            if line.startswith("{"):  # libraries print, too
                found: dict[str, float] = json.loads(line)
                return found
        raise SystemExit(f"{self.name} ended early; see its message above")

    def run(self, workload: str, output: str = "") -> dict[str, float]:
        self._lines.write(f"{workload}\t{output}\n")
        self._lines.flush()
        return self._answer()

    def stop(self) -> None:
        self._lines.close()
        self._process.wait()


def measure(contenders: list[Contender], number: int) -> None:
    """One round of every workload; round 0 warms up."""
    turn = number % len(contenders)
    for workload in WORKLOADS:
        for contender in contenders[turn:] + contenders[:turn]:
            for _ in range(SINGLES_PER_ROUND if workload.single and number else 1):
                took = contender.run(workload.name)
                if number:
                    contender.took.setdefault(workload.name, []).append(took)


def found_of(contenders: list[Contender], folder: Path) -> dict[str, Any]:
    """Medians so far, and how far the vectors are from the first contender's."""
    found: dict[str, Any] = {}
    reference: Vectors | None = None
    for contender in contenders:
        path = folder / "vectors.npy"
        contender.run("mix", str(path))
        vectors = np.load(path)
        reference = vectors if reference is None else reference
        cosines = np.einsum("ij,ij->i", vectors, reference)
        found[contender.name] = {
            f"tokens_per_{name}": {
                workload.name: workload.tokens()
                / median(each[key] for each in contender.took[workload.name])
                for workload in WORKLOADS
            }
            for name, key in (("s", "seconds"), ("processor_s", "processor_s"))
        } | {
            "cosine_mean": float(cosines.mean()),
            "cosine_least": float(cosines.min()),
            "largest_difference": float(np.abs(vectors - reference).max()),
        }
    return found


def show(model: str, found: dict[str, Any]) -> None:
    names = [workload.name for workload in WORKLOADS]
    print(f"\n{model}, tokens/s (times the first)")
    first = next(iter(found.values()))["tokens_per_s"]
    print("| | " + " | ".join(names) + " | mean | cosine mean / least |")
    print("|---" * (len(names) + 3) + "|")
    for name, each in found.items():
        rates = each["tokens_per_s"]
        ratios = [rates[workload] / first[workload] for workload in names]
        cells = [
            f"{rates[workload]:,.0f} ({ratio:.2f})"
            for workload, ratio in zip(names, ratios, strict=True)
        ]
        cosines = f"{each['cosine_mean']:.5f} / {each['cosine_least']:.5f}"
        print(f"| {name} | {' | '.join(cells)} | {geometric_mean(ratios):.2f} | {cosines} |")


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        work(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS))
    parser.add_argument("--folder", type=Path, help="where models are kept for another run")
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory() as named:
        folder = options.folder or Path(named)
        models: dict[str, list[Contender]] = {}
        for model in options.models:
            checkpoint = write_encoder(folder / model, MODELS[model])
            models[model] = [
                Contender(name, checkpoint, options.threads) for name in options.contenders
            ]
        for number in range(options.rounds + 1):
            for contenders in models.values():
                measure(contenders, number)
            print(f"round {number} of {options.rounds}", flush=True)
            if number:  # whoever ends it early has the rounds until then
                found = {model: found_of(each, folder) for model, each in models.items()}
                write(found, options, number)
        for model, contenders in models.items():
            show(model, found[model])
            for contender in contenders:
                contender.stop()


def write(models: dict[str, Any], options: argparse.Namespace, rounds: int) -> None:
    flags = processor_flags()
    record = {
        "command": "python -m benchmarks.cpu_encoders " + " ".join(sys.argv[1:]),
        "date": datetime.now(UTC).date().isoformat(),
        "processor": processor_name(),
        "processors": os.cpu_count(),
        "instructions": sorted(flags & {"avx2", "avx_vnni", "avx512_vnni", "avx512_bf16"}),
        "threads": options.threads,
        "rounds": rounds,
        "load_average": os.getloadavg(),
        "models": models,
    }
    RESULT.write_text(json.dumps(record, indent=1) + "\n")


def processor_name() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return "unknown"


if __name__ == "__main__":
    main()
