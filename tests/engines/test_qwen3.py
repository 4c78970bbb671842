"""Which checkpoints are read, and how all others are refused."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfleet.engines.qwen3 import Qwen3Checkpoint, Qwen3Config, read_config
from embedfleet.vocabulary import ModelError
from tests.checkpoints import (
    SMALL,
    Geometry,
    Layout,
    config,
    int8_rows,
    quantization,
    random_weights,
    write_checkpoint,
    write_safetensors,
)

TINY = Geometry(64, 2, 4, 2, 32, 96, vocabulary=50)


def write_config(directory: Path, **changes: Any) -> Path:
    path = directory / "config.json"
    path.write_text(json.dumps(config(TINY, **changes)), encoding="utf-8")
    return path


def test_the_architecture_is_read_from_config_json(tmp_path: Path) -> None:
    assert read_config(write_config(tmp_path)) == Qwen3Config(
        hidden=64,
        layers=2,
        heads=4,
        kv_heads=2,
        head_dim=32,
        intermediate=96,
        vocabulary=50,
        epsilon=1e-6,
        rope_theta=1_000_000.0,
        max_positions=4_096,
        tied=True,
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architectures": ["Qwen3ForTokenClassification"]}, "architectures is.*Qwen3Model"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'.*'silu'"),
        ({"attention_bias": True}, "attention_bias is on"),
        ({"use_sliding_window": True, "sliding_window": 512}, "sliding-window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding-window"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_scaling has 'yarn'"),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope_parameters has 'linear'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "'gptq'.*'compressed-tensors'"),
        (
            {"quantization_config": quantization() | {"format": "pack-quantized"}},
            "'pack-quantized'.*'int-quantized'",
        ),
        ({"is_causal": False}, "is_causal is False.*both directions.*--engine tei, vllm"),
        ({"rope_scaling": "yarn"}, "rope_scaling is 'yarn'; it must be an object"),
        ({"rope_scaling": {"rope_theta": "x"}}, "rope_theta is 'x'"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "own for full_attention"),
        ({"architectures": [{}]}, "architectures is"),
        ({"layer_types": 5}, "layer_types is 5"),
        ({"quantization_config": "x"}, "quantization_config is 'x'; it must be an object"),
        ({"rope_theta": 10**40}, "rope_theta is 1e\\+40; it must be a positive number"),
        ({"hidden_size": 2**40}, "hidden_size is 1099511627776"),
        ({"hidden_size": None}, "hidden_size is None"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"rope_theta": None}, "rope_theta is None"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps is 'small'"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is not a multiple"),
        ({"head_dim": 33}, "head_dim 33 is odd"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelError, match=rf"config\.json: .*{said}"):
        read_config(write_config(tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "theta"),
    [
        ({"rope_theta": 5e6}, 5e6),
        ({"rope_theta": 1e6, "rope_scaling": {"rope_type": "default", "rope_theta": 1e4}}, 1e4),
        ({"rope_theta": 1e6, "rope_parameters": {"rope_theta": 2e4}}, 2e4),
        ({"rope_scaling": {"rope_theta": 1e4}, "rope_parameters": {"rope_theta": 2e4}}, 1e4),
        ({"rope_scaling": {"rope_type": "default"}, "rope_parameters": {"rope_theta": 2e4}}, 1e6),
        ({"rope_scaling": {}, "rope_parameters": {"rope_theta": 2e4}}, 2e4),
    ],
)
def test_a_nested_base_of_rope_wins_over_the_one_at_the_top(
    tmp_path: Path, changes: dict[str, Any], theta: float
) -> None:
    """As in transformers."""
    assert read_config(write_config(tmp_path, **changes)).rope_theta == theta


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": "swish"},
        {"use_sliding_window": True, "max_window_layers": 2, "sliding_window": 64},
        {"layer_types": ["full_attention", "full_attention"], "use_sliding_window": True},
        {"is_causal": True},
        {"rope_scaling": None},
    ],
    ids=str,
)
def test_other_words_for_what_is_supported_change_nothing(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    plain = read_config(write_config(tmp_path))
    assert read_config(write_config(tmp_path, **changes)) == plain


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=9), inside),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(key=st.sampled_from([*config(TINY), "quantization_config", "layer_types"]), value=JSON)
def test_any_value_anywhere_is_read_or_refused_in_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: Any
) -> None:
    path = write_config(tmp_path_factory.mktemp("odd"), **{key: value})
    with contextlib.suppress(ModelError):
        read_config(path)


def test_an_adapter_beside_the_weights_is_refused(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, random_weights(TINY), TINY)
    (directory / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"PEFT adapter.*merge_and_unload"):
        Qwen3Checkpoint(directory)


def test_more_layers_than_the_configuration_has_are_refused(tmp_path: Path) -> None:
    weights = random_weights(TINY)
    directory = write_checkpoint(tmp_path, weights, TINY)
    write_config(directory, num_hidden_layers=1)
    with pytest.raises(
        ModelError, match=r"tensor layers\.1\..*according to config\.json the model has 1 layers"
    ):
        Qwen3Checkpoint(directory)


def test_int8_by_group_is_refused_with_what_would_be_right(tmp_path: Path) -> None:
    raw = quantization()
    raw["config_groups"]["group_0"]["weights"]["strategy"] = "group"
    with pytest.raises(ModelError, match=r"group_0\.weights has .*'group'.*supported is .*'chan"):
        read_config(write_config(tmp_path, quantization_config=raw))


def test_a_missing_broken_or_odd_config_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(ModelError, match="is missing"):
        read_config(path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="is not valid JSON"):
        read_config(path)
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(ModelError, match="does not hold a JSON object"):
        read_config(path)


def test_rows_of_the_embedding_table_are_looked_up_in_every_stored_type(tmp_path: Path) -> None:
    weights = random_weights(TINY)
    table = weights["embed_tokens.weight"]
    ids = np.array([3, 49, 3, 0], np.int32)
    for kind in ("F32", "F16", "BF16"):
        stored = Qwen3Checkpoint(write_checkpoint(tmp_path / kind, weights, TINY, Layout(kind)))
        np.testing.assert_allclose(stored.embed(ids), table[ids], atol=1e-6)
    stored = Qwen3Checkpoint(write_checkpoint(tmp_path / "I8", weights, TINY, Layout("I8")))
    quantised, scales = int8_rows(table)
    np.testing.assert_array_equal(stored.embed(ids), (quantised * scales)[ids])


def test_int8_weights_stay_as_they_are_stored(tmp_path: Path) -> None:
    weights = random_weights(TINY)
    stored = Qwen3Checkpoint(write_checkpoint(tmp_path, weights, TINY, Layout("I8"))).layer(1).gate
    expected, scales = int8_rows(weights["layers.1.mlp.gate_proj.weight"])
    np.testing.assert_array_equal(stored.int8()[0], expected)
    np.testing.assert_array_equal(stored.int8()[1], scales)
    np.testing.assert_array_equal(stored.floats(), expected * scales)


def test_float_weights_become_int8_by_row_within_half_a_step(tmp_path: Path) -> None:
    weights = random_weights(TINY)
    weights["layers.0.mlp.up_proj.weight"][5] = 0  # a dead row must not divide by zero
    up = Qwen3Checkpoint(write_checkpoint(tmp_path, weights, TINY)).layer(0).up
    values, scales = up.int8()
    error = np.abs(values * scales - up.floats())
    assert (error <= scales / 2 * 1.001).all()
    assert not values[5].any()


def test_a_missing_tensor_is_named_with_its_shape(tmp_path: Path) -> None:
    weights = random_weights(TINY)
    del weights["layers.1.self_attn.k_norm.weight"]
    with pytest.raises(ModelError, match=r"layers\.1\.self_attn\.k_norm\.weight is missing.*\[32"):
        Qwen3Checkpoint(write_checkpoint(tmp_path, weights, TINY))


def test_a_misshapen_tensor_is_named_with_both_shapes(tmp_path: Path) -> None:
    weights = random_weights(TINY)
    name = "layers.0.self_attn.q_proj.weight"
    weights[name] = weights[name][:64]
    with pytest.raises(ModelError, match=r"q_proj\.weight has shape \[64, 64\].*\[128, 64\]"):
        Qwen3Checkpoint(write_checkpoint(tmp_path, weights, TINY))


def test_a_bias_is_refused(tmp_path: Path) -> None:
    weights = random_weights(TINY)
    weights["layers.0.self_attn.q_proj.bias"] = np.zeros(128, np.float32)
    with pytest.raises(ModelError, match=r"q_proj.*bias"):
        Qwen3Checkpoint(write_checkpoint(tmp_path, weights, TINY))


def test_int8_without_scales_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, random_weights(TINY), TINY)
    values = np.zeros((TINY.vocabulary, TINY.hidden), np.int8)
    write_safetensors(tmp_path / "model.safetensors", {"embed_tokens.weight": ("I8", values)})
    with pytest.raises(ModelError, match=r"embed_tokens\.weight_scale is missing"):
        Qwen3Checkpoint(tmp_path)


def test_the_language_model_head_is_not_needed_and_not_in_the_way(tmp_path: Path) -> None:
    weights = random_weights(TINY)
    weights["lm_head.weight"] = weights["embed_tokens.weight"]
    assert Qwen3Checkpoint(write_checkpoint(tmp_path, weights, TINY)).config.layers == 2


def test_the_small_geometry_of_the_tests_has_wide_heads() -> None:
    """As in the 0.6B: heads in sum are wider than the residual stream."""
    assert SMALL.heads * SMALL.head_dim > SMALL.hidden


@pytest.mark.parametrize("declared", ["modules.json", "1_Pooling/config.json"])
def test_a_causal_model_that_no_file_declares_an_embedding_model_is_refused(
    tmp_path: Path, declared: str
) -> None:
    """A chat model or a reranker would be served as if it were one."""
    directory = write_checkpoint(tmp_path, random_weights(TINY), TINY)
    (directory / "1_Pooling" / "config.json").unlink()
    with pytest.raises(ModelError, match=r"chat model or a reranker.*1_Pooling/config\.json"):
        Qwen3Checkpoint(directory)

    (directory / declared).write_text("{}")
    assert Qwen3Checkpoint(directory).config.layers == TINY.layers


def test_a_base_model_without_a_head_needs_no_declaration(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"architectures": ["Qwen3Model"]}
    directory = write_checkpoint(tmp_path, random_weights(TINY), TINY, **changes)
    (directory / "1_Pooling" / "config.json").unlink()
    assert Qwen3Checkpoint(directory).config.layers == TINY.layers
