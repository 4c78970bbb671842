"""The commands that start third-party engines."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from embedfleet.fleet.providers.engine_commands import ENGINES, GGUF, Launch, command, shell, words
from embedfleet.fleet.providers.third_party import ThirdPartyProvider, process_words, visible_gpus
from embedfleet.vocabulary import SettingError, SetupError

MODEL = "Qwen/Qwen3-Embedding-4B"
LAUNCH = Launch(MODEL, name="embeddings")

INVENTED = {
    *("--max-batch-size", "--schedule-constraint", "--enable-chunked-prefill"),
    *("--task", "--override-pooler-config"),
}
"""Flags of published articles that no current release has."""


def value(engine: str, flag: str, launch: Launch = LAUNCH) -> str:
    """What follows a flag."""
    given = words(command(engine, launch))
    return given[given.index(flag) + 1]


@pytest.mark.parametrize("engine", ENGINES)
def test_every_flag_has_its_reason(engine: str) -> None:
    flags = command(engine, LAUNCH)
    assert all(flag.words and len(flag.reason.split()) > 1 for flag in flags)
    assert len({flag.words[0] for flag in flags}) == len(flags), "no flag twice"
    assert not INVENTED & set(words(flags))


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_is_started_with_model_name_and_address(engine: str) -> None:
    given = words(command(engine, LAUNCH))
    assert MODEL in given
    assert "embeddings" in given
    assert {"127.0.0.1", "30000"} <= set(given)


def test_sglang_takes_the_fast_path_of_embeddings() -> None:
    """As it was recorded on a GPU: no radix cache, whole texts, no keys and values kept."""
    given = words(command("sglang", LAUNCH))
    fast = {"--is-embedding", "--disable-radix-cache", "--prefill-only-disable-kv-cache"}
    assert fast | {"--enable-metrics"} <= set(given)
    assert value("sglang", "--chunked-prefill-size") == "-1"
    assert "--gpu-memory-utilization" not in given
    assert value("sglang", "--mem-fraction-static") == "0.85"


RERANKER = Launch("Qwen/Qwen3-Reranker-4B", reranks=True, generates=True)


def test_engines_are_started_for_scores_as_their_routes_want_it() -> None:
    """VLLM makes a classifier of the published model, SGLang generates, llama.cpp has a flag."""
    assert value("vllm", "--convert", RERANKER) == "classify"
    override = json.loads(value("vllm", "--hf-overrides", RERANKER))
    assert override["classifier_from_token"] == ["no", "yes"]
    assert override["is_original_qwen3_reranker"]
    converted = Launch("a-classifier", reranks=True)
    assert "--hf-overrides" not in words(command("vllm", converted))
    assert "--is-embedding" not in words(command("sglang", RERANKER))
    llama = words(command("llamacpp", Launch("/model.gguf", reranks=True, generates=True)))
    assert "--reranking" in llama
    assert not {"--embeddings", "--pooling"} & set(llama)
    assert "--pooling" not in words(command("tei", converted))
    with pytest.raises(SettingError, match="does not compute Qwen3-Reranker"):
        command("tei", RERANKER)


def test_vllm_pools_the_last_token() -> None:
    assert value("vllm", "--convert") == "embed"
    assert value("vllm", "--runner") == "pooling"
    assert value("vllm", "--gpu-memory-utilization") == "0.85"


@pytest.mark.parametrize(
    ("engine", "flag"), [("sglang", "--json-model-override-args"), ("vllm", "--hf-overrides")]
)
def test_dimensions_are_allowed_where_they_would_be_refused(engine: str, flag: str) -> None:
    assert json.loads(value(engine, flag)) == {"is_matryoshka": True}


@pytest.mark.parametrize(
    ("engine", "flags"),
    [
        ("sglang", ["--context-length", "--max-prefill-tokens"]),
        ("vllm", ["--max-model-len", "--max-num-batched-tokens"]),
        ("tei", ["--max-batch-tokens"]),
        ("llamacpp", ["--ctx-size", "--batch-size", "--ubatch-size"]),
    ],
)
def test_the_longest_text_fits_into_a_batch(engine: str, flags: list[str]) -> None:
    """TEI and llama.cpp would cut it off or fail it by default."""
    assert {value(engine, flag) for flag in flags} == {"32768"}


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_several_gpus_and_fp8_are_for_engines_that_have_them(engine: str) -> None:
    large = Launch(MODEL, gpus=2, fp8=True, memory_share=0.5)
    assert value(engine, "--tensor-parallel-size", large) == "2"
    assert value(engine, "--quantization", large) == "fp8"
    assert "--tensor-parallel-size" not in words(command(engine, LAUNCH))


@pytest.mark.parametrize(
    ("engine", "launch", "advice"),
    [
        ("tei", Launch(MODEL, gpus=2), "start more replicas"),
        ("tei", Launch(MODEL, fp8=True), "SGLang or vLLM"),
        ("llamacpp", Launch("m.gguf", fp8=True), "another file"),
    ],
)
def test_what_an_engine_can_not_do_is_refused_with_advice(
    engine: str, launch: Launch, advice: str
) -> None:
    with pytest.raises(SettingError, match=advice):
        command(engine, launch)


def test_float16_is_chosen_for_nothing_that_has_another_way() -> None:
    """It overflows in the 8B."""
    assert value("sglang", "--dtype") == value("vllm", "--dtype") == "bfloat16"


def test_the_command_can_be_pasted_into_a_shell() -> None:
    """JSON is quoted, one flag stands on a line."""
    lines = shell(command("sglang", LAUNCH)).splitlines()
    assert lines[0] == "python -m sglang.launch_server \\"
    assert "  --json-model-override-args '{\"is_matryoshka\": true}' \\" in lines


def test_replicas_on_one_machine_see_gpus_of_their_own() -> None:
    assert [visible_gpus(f"local-{number}", 2) for number in range(3)] == ["0,1", "2,3", "4,5"]
    around = process_words(["vllm", "serve"], "0,1", setpriv=True)
    assert around[-2:] == ["vllm", "serve"]
    assert {"CUDA_VISIBLE_DEVICES=0,1", "DO_NOT_TRACK=1", "VLLM_NO_USAGE_STATS=1"} < set(around)
    assert around[0] == "setpriv", "an engine ends with the gateway that started it"


async def test_an_engine_that_is_not_installed_is_named_with_how_to_install_it(
    tmp_path: Path,
) -> None:
    provider = ThirdPartyProvider("tei", Launch(str(tmp_path)))
    with pytest.raises(SetupError, match=r"text-embeddings-router.* is not on the path: cargo"):
        await provider.start("local-0")


async def test_a_started_process_has_its_address_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And ends when it is told to."""
    folder = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", folder, prepend=os.pathsep)  # Debian itself has no `python`
    provider = ThirdPartyProvider("sglang", Launch(str(tmp_path)))
    replica = await provider.start("local-0")
    assert replica.url.startswith("http://127.0.0.1:")
    end = await replica.ended()  # this Python has no sglang
    assert end.reason == "exit code 1", sys.executable


def test_llama_cpp_is_given_a_file_or_a_repository_of_them() -> None:
    assert "--model ./m.gguf" in " ".join(words(command("llamacpp", Launch("./m.gguf"))))
    assert f"--hf-repo {GGUF}" in " ".join(words(command("llamacpp", Launch(GGUF))))
    for wrong in ("./models/qwen", "builtin"):
        with pytest.raises(SettingError, match="loads GGUF files"):
            command("llamacpp", Launch(wrong))
