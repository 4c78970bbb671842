"""Command lines that start third-party engines, with a reason for each flag. Pure.

`embedfleet engines` prints them, the local provider runs them. Flags that equal an engine's default
are left out: every flag here changes something.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from embedfleet.vocabulary import Pooling, SettingError

LARGEST_BODY = 64 * 2**20
"""Bytes of a request that an engine must take: as many as the gateway takes itself."""

FULL_BATCH = 16_384
"""Tokens that fill a GPU; more would only make texts wait for each other."""

ANY_DIMENSIONS = json.dumps({"is_matryoshka": True})
"""For clients that ask the engine itself; a gateway asks for whole vectors and cuts them."""


LAST_LOGITS = json.dumps(
    {
        "architectures": ["Qwen3ForSequenceClassification"],
        "classifier_from_token": ["no", "yes"],
        "is_original_qwen3_reranker": True,
    }
)
"""vLLM's words for a classifier that is made of two rows of a generating model's last layer."""

TEI_POOLING: dict[str, str] = {
    Pooling.LAST: "last-token",
    Pooling.FIRST: "cls",
    Pooling.MEAN: "mean",
}
"""TEI's words for which states become a vector."""

GGUF = "Qwen/Qwen3-Embedding-4B-GGUF:Q8_0"
"""A repository of the hub as llama.cpp names one: the file of that quantisation is taken."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What an engine is started for."""

    model: str
    """Directory, hub id, or the GGUF file."""
    port: int = 30_000
    host: str = "127.0.0.1"
    gpus: int = 1
    memory_share: float = 0.85
    max_tokens: int = 32_768
    fp8: bool = False
    pooling: Pooling | None = Pooling.LAST
    """Which states become a vector, Qwen3-Embedding's by default; None leaves it to the engine,
    which reads the model's files."""
    name: str = ""
    """The model's name in requests; empty for the engine's own choice."""
    reranks: bool = False
    """Whether it is a reranker, whose scores are requested."""
    generates: bool = False
    """Whether a reranker is stored as a generating model, as Qwen3-Reranker is published."""


@dataclass(frozen=True, slots=True)
class Flag:
    """A part of a command, and why it is there."""

    words: tuple[str, ...]
    reason: str


def command(engine: str, launch: Launch) -> list[Flag]:
    """The command that starts an engine, the program first. SettingError for what it can't do."""
    return list(ENGINES[engine](launch))


def words(flags: list[Flag]) -> list[str]:
    """The command as a process takes it."""
    return [word for flag in flags for word in flag.words]


def shell(flags: list[Flag]) -> str:
    """The command as a person types it, one flag a line."""
    return " \\\n  ".join(shlex.join(flag.words) for flag in flags)


def _sglang(launch: Launch) -> Iterator[Flag]:
    yield Flag(("python", "-m", "sglang.launch_server"), "SGLang's HTTP server")
    yield Flag(("--model-path", launch.model), "the model; its directory also holds the tokenizer")
    if not launch.reranks:
        yield Flag(
            ("--is-embedding",),
            "Qwen3-Embedding is stored as a generative model; without this it would generate text",
        )
    yield from _address(launch)
    yield from _name("--served-model-name", launch)
    yield from _gpus("--tensor-parallel-size", launch)
    yield Flag(
        ("--mem-fraction-static", f"{launch.memory_share:g}"),
        "share of GPU memory for weights and pools (vLLM's --gpu-memory-utilization)",
    )
    yield Flag(
        ("--context-length", str(launch.max_tokens)), "longest text; longer ones are refused"
    )
    yield Flag(("--dtype", "bfloat16"), "float16 overflows in the 8B, for any text with `import`")
    if launch.fp8:
        yield Flag(("--quantization", "fp8"), "linear layers in FP8: nearly twice as fast")
    yield Flag(("--disable-radix-cache",), "no text is computed twice here: the gateway caches")
    yield Flag(
        ("--chunked-prefill-size", "-1"), "off: texts are computed whole, as the next flag requires"
    )
    if not launch.reranks:
        yield Flag(("--prefill-only-disable-kv-cache",), "keys and values are not read again")
    yield Flag(("--max-prefill-tokens", str(max(FULL_BATCH, launch.max_tokens))), "a full batch")
    if not launch.reranks:
        yield Flag(
            ("--json-model-override-args", ANY_DIMENSIONS), "otherwise `dimensions` is refused"
        )
    yield Flag(("--enable-metrics",), "off by default; without it the queue is not visible")


def _vllm(launch: Launch) -> Iterator[Flag]:
    yield Flag(("vllm", "serve", launch.model), "vLLM's HTTP server; metrics are on")
    yield Flag(("--runner", "pooling"), "these models are stored as generative ones")
    # Which pools the last token by default; the option to say so has had three names.
    if launch.reranks:
        yield Flag(("--convert", "classify"), "scores of whole pairs (formerly `--task classify`)")
    else:
        yield Flag(("--convert", "embed"), "vectors of the last token (formerly `--task embed`)")
    yield from _address(launch)
    yield from _name("--served-model-name", launch)
    yield from _gpus("--tensor-parallel-size", launch)
    yield Flag(("--gpu-memory-utilization", f"{launch.memory_share:g}"), "share of GPU memory")
    yield Flag(("--max-model-len", str(launch.max_tokens)), "longest text; longer ones are refused")
    yield Flag(("--dtype", "bfloat16"), "float16 overflows in the 8B, for any text with `import`")
    if launch.fp8:
        yield Flag(("--quantization", "fp8"), "linear layers in FP8: nearly twice as fast")
    yield Flag(
        ("--max-num-batched-tokens", str(max(FULL_BATCH, launch.max_tokens))), "a full batch"
    )
    if launch.generates:
        yield Flag(("--hf-overrides", LAST_LOGITS), 'the score is that of "yes" beside "no"')
    elif not launch.reranks:
        yield Flag(("--hf-overrides", ANY_DIMENSIONS), "otherwise `dimensions` is refused")


def _tei(launch: Launch) -> Iterator[Flag]:
    if launch.gpus > 1:
        raise SettingError("TEI uses one GPU a process: start more replicas instead")
    if launch.fp8:
        raise SettingError("TEI computes Qwen3 in float16 only: use SGLang or vLLM for FP8")
    if launch.generates:
        raise SettingError("TEI does not compute Qwen3-Reranker: use SGLang, vLLM or llama.cpp")
    yield Flag(("text-embeddings-router",), "TEI's HTTP server; metrics are on")
    yield Flag(("--model-id", launch.model), "the model")
    if launch.pooling is not None and not launch.reranks:
        yield Flag(
            ("--pooling", TEI_POOLING[launch.pooling]), "local directories do not always say so"
        )
    yield Flag(("--hostname", launch.host), "the address to listen on")
    yield Flag(("--port", str(launch.port)), "the port to listen on")
    yield from _name("--served-model-name", launch)
    yield Flag(("--dtype", "float16"), "the only type of its Qwen3 on GPUs; the 8B overflows in it")
    yield Flag(
        ("--max-batch-tokens", str(max(FULL_BATCH, launch.max_tokens))),
        "a full batch, and the longest text: by default it cuts texts off at 16,384 tokens",
    )
    yield Flag(
        ("--max-client-batch-size", "256"),
        "texts per request; 32 by default would be many requests",
    )
    yield Flag(("--payload-limit", str(LARGEST_BODY)), "2 MB by default would refuse full batches")


def _llamacpp(launch: Launch) -> Iterator[Flag]:
    if launch.fp8:
        raise SettingError("llama.cpp computes in the type of the GGUF file: choose another file")
    yield Flag(("llama-server",), "llama.cpp's HTTP server")
    yield from _gguf(launch.model)
    if launch.reranks:
        yield Flag(("--reranking",), "scores instead of text")
    else:
        yield Flag(("--embeddings",), "vectors instead of text")
    if launch.pooling is not None and not launch.reranks:
        names = {Pooling.LAST: "last", Pooling.FIRST: "cls", Pooling.MEAN: "mean"}
        yield Flag(
            ("--pooling", names[launch.pooling]),
            "which states become the vector; older files do not say",
        )
    yield from _address(launch)
    yield from _name("--alias", launch)
    yield Flag(("--ctx-size", str(launch.max_tokens)), "the longest text")
    yield Flag(("--parallel", "8"), "texts that share a pass; with one, each would have its own")
    yield Flag(("--kv-unified",), "otherwise the context is divided among them")
    yield Flag(("--batch-size", str(launch.max_tokens)), "a text must fit into a batch")
    yield Flag(
        ("--ubatch-size", str(launch.max_tokens)), "and into one pass: 512 tokens by default"
    )
    if launch.gpus:
        yield Flag(("--n-gpu-layers", "999"), "all layers on the GPU")
    yield Flag(("--metrics",), "off by default")


def _gguf(model: str) -> Iterator[Flag]:
    """A file, or a repository of the hub with `:QUANTISATION`, whose file llama.cpp downloads."""
    if model.endswith(".gguf") or model.startswith("/"):
        yield Flag(("--model", model), "the GGUF file")
        return
    if model.startswith(".") or model.count("/") != 1:
        raise SettingError(
            f"llama.cpp loads GGUF files, and {model} is not one: give one, or a repository of the "
            f"hub that holds some, such as {GGUF}"
        )
    yield Flag(("--hf-repo", model), "a repository of GGUF files; llama.cpp downloads one of them")


def _address(launch: Launch) -> Iterator[Flag]:
    yield Flag(("--host", launch.host), "the address to listen on")
    yield Flag(("--port", str(launch.port)), "the port to listen on")


def _name(flag: str, launch: Launch) -> Iterator[Flag]:
    if launch.name:
        yield Flag((flag, launch.name), "the model name in requests")


def _gpus(flag: str, launch: Launch) -> Iterator[Flag]:
    if launch.gpus > 1:
        yield Flag(
            (flag, str(launch.gpus)),
            "every layer on all of these GPUs: only for a model that one can't hold, replicas are "
            "faster",
        )


ENGINES: dict[str, Callable[[Launch], Iterator[Flag]]] = {
    "sglang": _sglang,
    "vllm": _vllm,
    "tei": _tei,
    "llamacpp": _llamacpp,
}
