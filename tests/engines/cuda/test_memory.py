"""Whether a model fits a device, from sizes alone."""

from __future__ import annotations

import re

import pytest

from embedfleet.engines.cuda.memory import RESERVED_MIB, Need, Sizes, chosen_sizes
from embedfleet.engines.qwen3 import Qwen3Config
from embedfleet.vocabulary import Precision, SettingError

FOUR_B = Qwen3Config(2560, 36, 32, 8, 128, 9728, 151_665, 1e-6, 1e6, 40_960, True)


def sizes(
    precision: Precision = Precision.BF16, wanted: int | None = None, free: int = 140_000
) -> Sizes:
    return chosen_sizes(
        Need(FOUR_B, precision),
        batch_tokens=8_192,
        max_tokens=32_768,
        wanted_mib=wanted,
        free_mib=free,
        total_mib=143_000,
    )


def test_the_weights_of_the_4b_take_what_is_published() -> None:
    assert Need(FOUR_B, Precision.BF16).weights_mib == pytest.approx(8_044 / 1.048_576, rel=0.01)
    assert Need(FOUR_B, Precision.FP8).weights_mib == pytest.approx(4_410 / 1.048_576, rel=0.01)


def test_a_large_device_takes_the_batches_that_were_asked_for() -> None:
    assert sizes().batch_tokens == 8_192


def test_a_tight_budget_makes_batches_smaller_before_it_refuses() -> None:
    tight = sizes(wanted=2_200)
    assert 512 <= tight.batch_tokens < 8_192
    assert tight.limit_mib == Need(FOUR_B, Precision.BF16).weights_mib + 2_200 + RESERVED_MIB


def test_what_is_planned_is_weights_the_longest_text_a_batch_and_libraries() -> None:
    need = Need(FOUR_B, Precision.BF16)
    passes = need.pass_mib(32_768, 8_192) + need.pass_mib(8_192, 8_192)
    assert sizes() == Sizes(8_192, need.weights_mib + passes + RESERVED_MIB)
    assert sizes(free=sizes().limit_mib).batch_tokens == 8_192
    assert sizes(free=sizes().limit_mib - 1).batch_tokens < 8_192


def test_a_model_that_does_not_fit_is_refused_with_numbers_and_what_would_help() -> None:
    with pytest.raises(
        SettingError, match=r"take 767\d MiB in bf16.* 8000 MiB free of 143000.*fp8"
    ):
        sizes(free=8_000)


def test_a_budget_below_the_longest_text_is_refused() -> None:
    with pytest.raises(SettingError, match=r"a text of 32768 tokens.*memory_mib is 300"):
        sizes(wanted=300)


def test_it_fits_in_fp8_where_it_does_not_in_bf16() -> None:
    free = Need(FOUR_B, Precision.BF16).weights_mib + RESERVED_MIB
    with pytest.raises(SettingError, match="does not fit"):
        sizes(free=free)
    assert sizes(Precision.FP8, free=free).batch_tokens == 8_192


@pytest.mark.parametrize("free", range(2_000, 12_000, 500))
@pytest.mark.parametrize("precision", [Precision.F32, Precision.BF16, Precision.FP8])
def test_what_is_told_to_fit_fits(precision: Precision, free: int) -> None:
    try:
        sizes(precision, free=free)
    except SettingError as error:
        said = str(error)
    else:
        return
    for shorter in re.findall(r"max_tokens (\d+)", said):
        need = Need(FOUR_B, precision)
        found = chosen_sizes(
            need,
            batch_tokens=8_192,
            max_tokens=int(shorter),
            wanted_mib=None,
            free_mib=free,
            total_mib=24_000,
        )
        assert found.limit_mib <= free
    if "dtype fp8" in said:
        assert sizes(Precision.FP8, free=free).limit_mib <= free
    assert ("What fits: " in said) != ("Take a smaller model" in said)
