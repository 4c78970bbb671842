"""What can never become ready is refused once, with the way out, before anything is started."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from embedfleet.engines.loading import EngineOptions, refuse_unsupported
from embedfleet.models.description import ModelDescription, describe
from embedfleet.models.golden.vectors import GoldenVectors, write
from embedfleet.runtime.settings import AutoscalingSettings, EngineSettings, Pool, Settings
from embedfleet.runtime.settings.batches import BatchesSettings
from embedfleet.server.gateway.pools.preflight import refuse_hopeless
from embedfleet.vocabulary import SetupError
from tests.small_tokenizer import write_model


@pytest.fixture
def model(tmp_path: Path) -> ModelDescription:
    return describe(write_model(tmp_path / "small"))


def refusal(pool: Pool, model: ModelDescription | None, **engine: str) -> str:
    """The message with which a start is refused; empty where it is not."""

    def suits(described: ModelDescription, chosen: EngineSettings) -> None:
        options = EngineOptions(device=chosen.device, dtype=chosen.dtype)
        refuse_unsupported(described.directory, options)

    try:
        refuse_hopeless(
            Settings(pools=(pool,), engine=EngineSettings(**engine)),  # type: ignore[arg-type]
            [model],
            suits,
        )
    except SetupError as error:
        return str(error)
    return ""


def keeping_in(folder: Path, setting: str) -> Settings:
    kept = {
        "autoscaling.state_directory": {
            "autoscaling": AutoscalingSettings(state_directory=str(folder))
        },
        "batches.directory": {"batches": BatchesSettings(directory=str(folder))},
    }
    return Settings(pools=(), **kept[setting])  # type: ignore[arg-type]


def of_type(model: ModelDescription, model_type: str) -> ModelDescription:
    file = model.directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_type": model_type}))
    return model


@pytest.mark.parametrize("kind", ["modernbert", "nomic_bert", "llama"])
def test_another_architecture_names_the_engines_that_may_serve_it(
    model: ModelDescription, kind: str
) -> None:
    said = refusal(Pool(model="m"), of_type(model, kind))
    assert f"model_type is '{kind}'" in said
    assert "--engine tei, vllm, sglang or llamacpp" in said


def test_engines_of_others_and_replicas_elsewhere_may_have_any_architecture(
    model: ModelDescription, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "bin" / "text-embeddings-router"
    program.parent.mkdir()
    program.symlink_to(sys.executable)  # a file of our own may not be executed under any /tmp
    monkeypatch.setenv("PATH", str(program.parent))
    bert = of_type(model, "bert")
    assert refusal(Pool(model="m", engine="tei"), bert) == ""
    assert refusal(Pool(replicas=0, replica_urls=("http://a:1",)), bert) == ""
    assert refusal(Pool(replicas=0, replica_urls=("http://a:1",)), None) == ""


@pytest.mark.parametrize("engine", ["vllm", "sglang", "tei"])
def test_an_engine_that_is_not_installed_is_refused_with_how_to_get_it(
    model: ModelDescription, engine: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    said = refusal(Pool(model="m", engine=engine), model)  # type: ignore[arg-type]
    assert f"pools.engine is {engine}, but `" in said
    assert "is not on the path" in said


def test_numbers_and_devices_that_this_machine_lacks_are_refused(model: ModelDescription) -> None:
    of_type(model, "qwen3")
    if find_spec("torch") is None:
        assert "torch is not installed: " in refusal(Pool(model="m"), model, device="cuda")
    assert "bf16, which is for GPUs" in refusal(Pool(model="m"), model, dtype="bf16", device="cpu")


def test_golden_vectors_that_are_missing_or_of_another_model_are_refused(
    model: ModelDescription, tmp_path: Path
) -> None:
    absent = tmp_path / "nosuch.golden"
    here = Pool(model="m", golden=absent)
    assert f"there is no file {absent}; `embedfleet golden make" in refusal(here, model)
    elsewhere = Pool(replicas=0, replica_urls=("http://a:1",), golden=absent)
    assert "there is no file" in refusal(elsewhere, None)
    vectors = GoldenVectors("r", ("a",), (np.array([1], np.int32),), np.ones((1, 64), np.float32))
    write(absent, vectors)
    assert refusal(elsewhere, None) == ""


def test_tei_is_refused_for_a_reranker_that_it_does_not_compute(model: ModelDescription) -> None:
    file = model.directory / "config.json"
    published = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
    file.write_text(json.dumps(json.loads(file.read_text()) | published))
    (model.directory / "reranker.json").write_text('{"pair": "{query}", "after": "."}')
    said = refusal(Pool(model="m", engine="tei"), describe(model.directory))
    assert "TEI does not compute Qwen3-Reranker: use SGLang, vLLM or llama.cpp" in said


DIRECTORIES = ["autoscaling.state_directory", "batches.directory"]


@pytest.mark.parametrize("setting", DIRECTORIES)
def test_a_folder_for_what_is_kept_is_made_and_left_empty(tmp_path: Path, setting: str) -> None:
    folder = tmp_path / "new" / "folder"
    refuse_hopeless(keeping_in(folder, setting), [], lambda _model, _engine: None)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("setting", DIRECTORIES)
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("file", "is a file"),
        ("file/below", "Not a directory"),
        ("dangling", "is a dangling symbolic link"),
        ("loop", "is a dangling symbolic link"),
        ("/proc/1/x", "nothing can be written in /proc/1/x"),
    ],
)
def test_one_that_can_not_be_written_is_refused(
    tmp_path: Path, setting: str, name: str, why: str
) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(SetupError) as refused:
        refuse_hopeless(keeping_in(tmp_path / name, setting), [], lambda _model, _engine: None)
    assert str(refused.value).startswith(f"{setting}: ")
    assert why in str(refused.value)
