"""From options to an engine."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from embedfleet.engines.loading import (
    Capability,
    EngineOptions,
    choose_cuda_precision,
    gpu_of,
    load_engine,
)
from embedfleet.vocabulary import ModelError, Precision, SettingError
from tests.checkpoints import SMALL, random_weights, write_checkpoint
from tests.engines.kernels import OURS, WAYS, needs_native, way


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("small"), random_weights(SMALL), SMALL)


def test_an_engine_says_what_it_can_do(directory: Path) -> None:
    info = load_engine(directory, EngineOptions(dtype="f32", batch_tokens=700)).info
    assert (info.width, info.vocabulary, info.max_tokens) == (256, 3_000, 4_096)
    assert (info.precision, info.device, info.batch_tokens) == (Precision.F32, "cpu", 700)


def test_on_a_gpu_it_computes_in_bf16_unless_the_pool_requires_more() -> None:
    assert choose_cuda_precision("auto", None) is Precision.BF16
    assert choose_cuda_precision("auto", Precision.BF16) is Precision.BF16
    assert choose_cuda_precision("auto", Precision.F32) is Precision.F32
    assert choose_cuda_precision("fp8", None) is Precision.FP8
    with pytest.raises(SettingError, match="int8, which is for processors"):
        choose_cuda_precision("int8", None)


T4, A100, L4, H100 = (7, 5), (8, 0), (8, 9), (9, 0)


@pytest.mark.parametrize(
    ("device", "place", "count", "chosen"),
    [
        ("auto", 0, 1, "cuda:0"),
        ("cuda", 3, 4, "cuda:3"),
        ("auto", 5, 4, "cuda:1"),
        ("cuda:2", 0, 4, "cuda:2"),
        ("cuda", 0, 0, "cuda"),
        ("cuda:7", 0, 4, "cuda:7"),  # that there is none is said where devices are opened
    ],
)
def test_each_replica_of_a_machine_has_a_gpu_of_its_own_while_there_are_enough(
    device: str, place: int, count: int, chosen: str
) -> None:
    assert gpu_of(device, place, [H100] * count, Precision.BF16) == chosen


@pytest.mark.parametrize(
    ("device", "precision", "place", "chosen"),
    [
        ("auto", Precision.BF16, 1, "cuda:2"),
        ("cuda", Precision.FP8, 1, "cuda:3"),
        ("auto", Precision.F32, 0, "cuda:1"),
        ("cuda", Precision.F32, 0, "cuda:0"),
        ("cuda:0", Precision.F32, 0, "cuda:0"),
    ],
)
def test_gpus_that_are_too_old_for_the_numbers_are_passed_over(
    device: str, precision: Precision, place: int, chosen: str
) -> None:
    gpus = [T4, A100, L4, H100]
    assert gpu_of(device, place, gpus, precision) == chosen


@pytest.mark.parametrize(
    ("device", "precision", "gpus", "said"),
    [
        ("cuda:0", Precision.BF16, [T4, H100], "bf16 takes .* 8.0 or newer; cuda:0 has 7.5"),
        ("cuda", Precision.FP8, [A100], "fp8 takes .* 8.9 or newer; cuda:0 has 8.0. Use bf16"),
        ("auto", Precision.BF16, [T4], "Use device cpu"),
    ],
)
def test_where_every_gpu_that_may_be_used_is_too_old_it_says_which_would_do(
    device: str, precision: Precision, gpus: list[Capability], said: str
) -> None:
    with pytest.raises(SettingError, match=said):
        gpu_of(device, 0, gpus, precision)


def test_on_a_processor_auto_keeps_the_precision_of_the_pool(directory: Path) -> None:
    for promise in (Precision.BF16, Precision.F32):
        engine = load_engine(directory, EngineOptions(device="cpu", at_least=promise))
        assert engine.info.precision is Precision.F32


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (EngineOptions(device="tpu"), "device is 'tpu'; there are auto, cpu, cuda and cuda:N"),
        (EngineOptions(dtype="fp4"), "dtype is 'fp4'; there are auto, f32, bf16, fp8, int8"),
        (EngineOptions(dtype="f16"), "dtype is f16: Qwen3-Embedding overflows.*Use bf16"),
        (EngineOptions(device="cpu", dtype="fp8"), "fp8, which is for GPUs; .* f32 or int8"),
        (EngineOptions(kernels="mkl"), "kernels is 'mkl'; there are auto, native, openvino, numpy"),
        (EngineOptions(threads=0), "threads is 0"),
        (EngineOptions(batch_tokens=-5), "batch_tokens is -5"),
        (EngineOptions(max_tokens=4_097), "max_tokens is 4097.*made for 4096"),
        (EngineOptions(memory_mib=2), "memory_mib is 2.*4096 tokens needs.*lower max_tokens"),
    ],
    ids=str,
)
def test_an_option_that_cannot_be_is_refused_with_what_could(
    directory: Path, options: EngineOptions, said: str
) -> None:
    with pytest.raises(SettingError, match=said):
        load_engine(directory, options)


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        load_engine(tmp_path, EngineOptions())


@pytest.mark.parametrize("model_type", ["qwen2", "modernbert", None])
def test_a_family_that_is_not_computed_here_is_named_with_a_way_out(
    tmp_path: Path, model_type: str | None
) -> None:
    write_checkpoint(tmp_path, random_weights(SMALL), SMALL, model_type=model_type)
    with pytest.raises(ModelError, match=rf"model_type is {model_type!r}.*--engine tei, vllm"):
        load_engine(tmp_path, EngineOptions())


def test_openvino_is_loaded_only_when_an_engine_is() -> None:
    code = "import embedfleet.engines.loading, sys; sys.exit('openvino' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


LOADING = """
import sys
from pathlib import Path
from embedfleet.engines.loading import EngineOptions, load_engine

load_engine(Path(sys.argv[1]), EngineOptions(kernels="native", threads=1))
sys.exit("openvino" in sys.modules)
"""


@needs_native
def test_who_computes_with_our_kernels_does_not_pay_for_openvino(directory: Path) -> None:
    command = [sys.executable, "-c", LOADING, str(directory)]
    assert subprocess.run(command, check=False).returncode == 0


@pytest.mark.parametrize("kernels", WAYS)
def test_an_engine_says_whose_kernels_compute(directory: Path, kernels: str) -> None:
    options = EngineOptions(device="cpu", dtype="f32", **way(kernels))
    info = load_engine(directory, options).info
    assert info.kernels == way(kernels)["kernels"]
    assert info.instructions == way(kernels).get("instructions", "")


@needs_native
def test_by_default_our_kernels_compute_where_they_can(directory: Path) -> None:
    engine = load_engine(directory, EngineOptions(device="cpu", dtype="f32"))
    assert engine.info.kernels == "native"


@pytest.mark.parametrize("instructions", OURS)
def test_auto_is_int8_with_every_instruction_set_that_is_faster_with_it(
    directory: Path, instructions: str
) -> None:
    info = load_engine(directory, EngineOptions(device="cpu", **way(instructions))).info
    expected = Precision.F32 if instructions == "portable" else Precision.INT8
    assert info.precision is expected


def test_a_shape_that_our_kernels_can_not_divide_is_computed_by_others_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    odd = replace(SMALL, hidden=260)
    write_checkpoint(tmp_path, random_weights(odd), odd)
    engine = load_engine(tmp_path, EngineOptions(device="cpu", dtype="f32"))
    if find_spec("openvino"):
        assert engine.info.kernels == "openvino"
    else:
        assert engine.info.kernels == "numpy"
        (record,) = [one for one in caplog.records if one.levelname == "WARNING"]
        assert "hidden_size is 260" in record.getMessage()
    with pytest.raises(SettingError, match="kernels is native, but "):
        load_engine(tmp_path, EngineOptions(device="cpu", kernels="native"))
