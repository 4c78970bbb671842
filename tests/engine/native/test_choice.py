"""Which kernels compute: decided from instructions, sizes and wishes alone."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.engine.checkpoint import Qwen3Config
from embedfleet.engine.native.choice import (
    INSTRUCTIONS,
    choose_kernels,
    lacking,
    misfit,
)
from embedfleet.vocabulary import Precision, SettingError

QWEN_06B = Qwen3Config(1024, 28, 16, 8, 128, 3072, 151_669, 1e-6, 1e6, 32_768, tied=True)
VNNI = frozenset({"fpu", "avx2", *INSTRUCTIONS})
AMX = VNNI | {"amx_tile", "amx_int8", "amx_bf16"}


@pytest.mark.parametrize("precision", [Precision.F32, Precision.INT8])
def test_our_kernels_compute_where_they_can(precision: Precision) -> None:
    choice = choose_kernels("auto", precision, VNNI, None)
    assert choice.kernels == "native"
    assert choice.reason


@pytest.mark.parametrize("precision", [Precision.F32, Precision.INT8])
def test_elsewhere_openvino_computes_and_the_obstacle_is_the_reason(precision: Precision) -> None:
    choice = choose_kernels("auto", precision, VNNI, "they were not compiled")
    assert (choice.kernels, choice.reason) == ("openvino", "they were not compiled")


def test_int8_is_left_to_openvino_where_there_are_tiles_and_float32_is_not() -> None:
    choice = choose_kernels("auto", Precision.INT8, AMX, None)
    assert choice.kernels == "openvino"
    assert "AMX" in choice.reason
    assert choose_kernels("auto", Precision.F32, AMX, None).kernels == "native"


def test_either_can_be_asked_for() -> None:
    assert choose_kernels("native", Precision.INT8, AMX, None).kernels == "native"
    assert choose_kernels("openvino", Precision.INT8, VNNI, None).kernels == "openvino"
    assert choose_kernels("openvino", Precision.F32, frozenset(), "none").kernels == "openvino"


def test_ours_are_refused_with_the_reason_where_they_are_asked_for_and_can_not() -> None:
    with pytest.raises(SettingError, match=r"native, but this processor has no fma\. Use openvino"):
        choose_kernels("native", Precision.F32, VNNI, "this processor has no fma")


def test_kernels_that_nobody_has_are_refused_with_those_there_are() -> None:
    with pytest.raises(SettingError, match="'mkl'; there are auto, native, openvino"):
        choose_kernels("mkl", Precision.F32, VNNI, None)


def test_a_processor_with_all_instructions_lacks_none() -> None:
    assert lacking(VNNI) is None
    assert lacking(AMX) is None


@given(st.sets(st.sampled_from(INSTRUCTIONS), min_size=1))
def test_every_instruction_that_is_missing_is_named(missing: set[str]) -> None:
    said = lacking(VNNI - missing)
    assert said is not None
    assert set(said.removeprefix("this processor has no ").split(", ")) == missing


def test_where_the_system_names_no_instructions_nothing_is_risked() -> None:
    assert lacking(frozenset()) == "this is no x86 processor, or its system is not Linux"


@pytest.mark.parametrize(
    "config",
    [
        QWEN_06B,
        Qwen3Config(2560, 36, 32, 8, 128, 9728, 151_665, 1e-6, 1e6, 40_960, tied=True),
        Qwen3Config(4096, 36, 32, 8, 128, 12_288, 151_665, 1e-6, 1e6, 40_960, tied=False),
        Qwen3Config(640, 2, 10, 2, 64, 1_536, 12_288, 1e-6, 1e4, 2_048, tied=True),
    ],
    ids=["0.6B", "4B", "8B", "built-in"],
)
def test_the_published_models_and_the_one_that_ships_fit(config: Qwen3Config) -> None:
    assert misfit(config) is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"hidden": 1_000}, "hidden_size is 1000, which is no multiple of 64"),
        ({"intermediate": 3_104}, "intermediate_size is 3104, which is no multiple of 64"),
        ({"heads": 3, "kv_heads": 1, "head_dim": 32}, "times head_dim is 96.*multiple of 64"),
        ({"head_dim": 80}, "head_dim is 80.*multiple of 32"),
        ({"heads": 4, "kv_heads": 1, "head_dim": 16}, "num_key_value_heads times head_dim is 16"),
        ({"head_dim": 288}, "head_dim is 288, which is above 256"),
        ({"heads": 64, "kv_heads": 1}, "64 query heads of the model share a key head"),
    ],
    ids=str,
)
def test_a_size_that_does_not_fit_is_named_with_what_would(
    changed: dict[str, int], said: str
) -> None:
    config = replace(QWEN_06B, **changed)
    reason = misfit(config)
    assert reason is not None
    assert re.search(said, reason)
