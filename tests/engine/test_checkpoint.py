"""Which checkpoints are read, and how all others are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedfleet.engine.checkpoint import Checkpoint, Qwen3Config, read_config
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
        ({"model_type": "qwen2"}, "model_type is 'qwen2'.*computes qwen3; .*--engine tei, vllm"),
        ({"architectures": ["Qwen3ForSequenceClassification"]}, "architectures is.*Qwen3Model"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'.*'silu'"),
        ({"attention_bias": True}, "attention_bias is on"),
        ({"use_sliding_window": True, "sliding_window": 512}, "sliding-window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding-window"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_scaling asks for 'yarn'"),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope_parameters asks for 'linear'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "'gptq'.*'compressed-tensors'"),
        (
            {"quantization_config": quantization() | {"format": "pack-quantized"}},
            "'pack-quantized'.*'int-quantized'",
        ),
        ({"hidden_size": None}, "hidden_size is None"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"rope_theta": None}, "rope_theta is None"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps is 'small'"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is no multiple"),
        ({"head_dim": 33}, "head_dim 33 is odd"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelError, match=rf"config\.json: .*{said}"):
        read_config(write_config(tmp_path, **changes))


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
    with pytest.raises(ModelError, match="is no JSON"):
        read_config(path)
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(ModelError, match="holds list"):
        read_config(path)


def test_rows_of_the_embedding_table_are_looked_up_in_every_stored_type(tmp_path: Path) -> None:
    weights = random_weights(TINY)
    table = weights["embed_tokens.weight"]
    ids = np.array([3, 49, 3, 0], np.int32)
    for kind in ("F32", "F16", "BF16"):
        stored = Checkpoint(write_checkpoint(tmp_path / kind, weights, TINY, Layout(kind)))
        np.testing.assert_allclose(stored.embed(ids), table[ids], atol=1e-6)
    stored = Checkpoint(write_checkpoint(tmp_path / "I8", weights, TINY, Layout("I8")))
    quantised, scales = int8_rows(table)
    np.testing.assert_array_equal(stored.embed(ids), (quantised * scales)[ids])


def test_int8_weights_stay_as_they_are_stored(tmp_path: Path) -> None:
    weights = random_weights(TINY)
    stored = Checkpoint(write_checkpoint(tmp_path, weights, TINY, Layout("I8"))).layer(1).gate
    expected, scales = int8_rows(weights["layers.1.mlp.gate_proj.weight"])
    np.testing.assert_array_equal(stored.int8()[0], expected)
    np.testing.assert_array_equal(stored.int8()[1], scales)
    np.testing.assert_array_equal(stored.floats(), expected * scales)


def test_float_weights_become_int8_by_row_within_half_a_step(tmp_path: Path) -> None:
    weights = random_weights(TINY)
    weights["layers.0.mlp.up_proj.weight"][5] = 0  # a dead row must not divide by zero
    up = Checkpoint(write_checkpoint(tmp_path, weights, TINY)).layer(0).up
    values, scales = up.int8()
    error = np.abs(values * scales - up.floats())
    assert (error <= scales / 2 * 1.001).all()
    assert not values[5].any()


def test_a_missing_tensor_is_named_with_its_shape(tmp_path: Path) -> None:
    weights = random_weights(TINY)
    del weights["layers.1.self_attn.k_norm.weight"]
    with pytest.raises(ModelError, match=r"layers\.1\.self_attn\.k_norm\.weight is missing.*\[32"):
        Checkpoint(write_checkpoint(tmp_path, weights, TINY))


def test_a_misshapen_tensor_is_named_with_both_shapes(tmp_path: Path) -> None:
    weights = random_weights(TINY)
    name = "layers.0.self_attn.q_proj.weight"
    weights[name] = weights[name][:64]
    with pytest.raises(ModelError, match=r"q_proj\.weight has shape \[64, 64\].*\[128, 64\]"):
        Checkpoint(write_checkpoint(tmp_path, weights, TINY))


def test_a_bias_is_refused(tmp_path: Path) -> None:
    weights = random_weights(TINY)
    weights["layers.0.self_attn.q_proj.bias"] = np.zeros(128, np.float32)
    with pytest.raises(ModelError, match=r"q_proj.*bias"):
        Checkpoint(write_checkpoint(tmp_path, weights, TINY))


def test_int8_without_scales_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, random_weights(TINY), TINY)
    values = np.zeros((TINY.vocabulary, TINY.hidden), np.int8)
    write_safetensors(tmp_path / "model.safetensors", {"embed_tokens.weight": ("I8", values)})
    with pytest.raises(ModelError, match=r"embed_tokens\.weight_scale is missing"):
        Checkpoint(tmp_path)


def test_the_language_model_head_is_not_needed_and_not_in_the_way(tmp_path: Path) -> None:
    weights = random_weights(TINY)
    weights["lm_head.weight"] = weights["embed_tokens.weight"]
    assert Checkpoint(write_checkpoint(tmp_path, weights, TINY)).config.layers == 2


def test_the_small_geometry_of_the_tests_has_wide_heads() -> None:
    """As in the 0.6B: heads in sum are wider than the residual stream."""
    assert SMALL.heads * SMALL.head_dim > SMALL.hidden
