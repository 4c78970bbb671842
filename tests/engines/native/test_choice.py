"""Which kernels compute: decided from instructions, sizes and wishes alone."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.engines.native.choice import (
    Around,
    choose_kernels,
    choose_precision,
    choose_set,
    has_tiles,
    misfit,
)
from embedfleet.engines.native.library import InstructionSet, Numbers
from embedfleet.engines.qwen3 import Qwen3Config
from embedfleet.vocabulary import Precision, SettingError

QWEN_06B = Qwen3Config(1024, 28, 16, 8, 128, 3072, 151_669, 1e-6, 1e6, 32_768, tied=True)
NUMBERS = Numbers(192, 24, 16, 256, 64, 32, 256, 48)
ALONE = Around(obstacle=None, openvino=False, tiles=False)
TILES = Around(obstacle=None, openvino=True, tiles=True)


def set_of(name: str, *, runs: bool) -> InstructionSet:
    return InstructionSet(0, name, ("one", "two"), runs, False, True, 16, 16, 4, 64)


SETS = (set_of("avx512_vnni", runs=False), set_of("avx2", runs=True), set_of("portable", runs=True))


@pytest.mark.parametrize("dtype", ["auto", "f32", "int8"])
@pytest.mark.parametrize("openvino", [False, True])
def test_our_kernels_compute_where_they_can(dtype: str, *, openvino: bool) -> None:
    choice = choose_kernels("auto", dtype, replace(ALONE, openvino=openvino))
    assert choice.kernels == "native"
    assert choice.reason


@pytest.mark.parametrize("tiles", [False, True])
def test_elsewhere_openvino_computes_where_it_is_and_numpy_where_it_is_not(*, tiles: bool) -> None:
    around = Around(obstacle="they were not compiled", openvino=False, tiles=tiles)
    choice = choose_kernels("auto", "auto", around)
    assert (choice.kernels, choice.reason) == ("numpy", "they were not compiled")
    choice = choose_kernels("auto", "auto", replace(around, openvino=True))
    assert (choice.kernels, choice.reason) == ("openvino", "they were not compiled")


@pytest.mark.parametrize("dtype", ["auto", "int8"])
def test_int8_is_left_to_openvino_where_there_are_tiles_and_float32_is_not(dtype: str) -> None:
    choice = choose_kernels("auto", dtype, TILES)
    assert choice.kernels == "openvino"
    assert "AMX" in choice.reason
    assert choose_kernels("auto", "f32", TILES).kernels == "native"
    assert choose_kernels("auto", dtype, replace(TILES, openvino=False)).kernels == "native"


def test_any_can_be_asked_for() -> None:
    for kernels in ("native", "openvino", "numpy"):
        assert choose_kernels(kernels, "int8", TILES).kernels == kernels
    assert choose_kernels("openvino", "f32", replace(TILES, obstacle="none")).kernels == "openvino"


def test_what_is_asked_for_and_can_not_is_refused_with_the_reason() -> None:
    with pytest.raises(SettingError, match=r"native, but they are not here\. Use auto"):
        choose_kernels("native", "f32", replace(ALONE, obstacle="they are not here"))
    with pytest.raises(SettingError, match=r"not installed.*pip install.*openvino"):
        choose_kernels("openvino", "f32", ALONE)


def test_kernels_that_nobody_has_are_refused_with_those_there_are() -> None:
    with pytest.raises(SettingError, match="'mkl'; there are auto, native, openvino, numpy"):
        choose_kernels("mkl", "f32", ALONE)


def test_the_best_instruction_set_that_runs_is_taken_or_the_one_that_is_named() -> None:
    assert choose_set("auto", SETS).name == "avx2"
    assert choose_set("portable", SETS).name == "portable"


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (
            "avx512_vnni",
            "avx512_vnni, which takes one, two, .* lacks that; here run avx2, portable",
        ),
        ("neon", "'neon', which is not for this architecture; here run avx2, portable"),
        ("sse9", "'sse9', which is unknown; here run avx2, portable"),
    ],
)
def test_an_instruction_set_that_can_not_run_is_refused_with_those_that_can(
    wanted: str, said: str
) -> None:
    with pytest.raises(SettingError, match=said):
        choose_set(wanted, SETS)


def test_by_default_it_computes_in_int8_where_that_is_exact_and_faster() -> None:
    def chosen(dtype: str, *, exact: bool, quick: bool) -> Precision:
        return choose_precision(dtype, exact=exact, quick=quick, of="native")

    assert chosen("auto", exact=True, quick=True) is Precision.INT8
    assert chosen("auto", exact=True, quick=False) is Precision.F32
    assert chosen("auto", exact=False, quick=True) is Precision.F32
    assert chosen("f32", exact=True, quick=True) is Precision.F32
    assert chosen("int8", exact=True, quick=False) is Precision.INT8


def test_int8_is_refused_where_its_products_overflow_or_there_are_none() -> None:
    with pytest.raises(SettingError, match=r"overflow .* no VNNI or AMX\. Use kernels native"):
        choose_precision("int8", exact=False, quick=False, of="openvino")
    with pytest.raises(SettingError, match=r"numpy's, which compute in f32 alone"):
        choose_precision("int8", exact=False, quick=False, of="numpy")


@given(st.sets(st.sampled_from(["amx_int8", "avx2", "avx512_vnni"])))
def test_tiles_are_those_that_multiply_int8(flags: set[str]) -> None:
    assert has_tiles(frozenset(flags)) is ("amx_int8" in flags)


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
    assert misfit(config, NUMBERS) is None


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
    changed: dict[str, Any], said: str
) -> None:
    config = replace(QWEN_06B, **changed)
    reason = misfit(config, NUMBERS)
    assert reason is not None
    assert re.search(said, reason)
