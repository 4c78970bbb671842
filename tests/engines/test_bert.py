"""BERT and XLM-RoBERTa: which checkpoints are read, and their vectors against transformers'.

`tests/fixtures/make_encoder_reference.py` made the fixture: texts of 1 to 512 tokens, each alone.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfleet.engines.architectures import open_checkpoint, read_geometry
from embedfleet.engines.bert import EncoderConfig, places, read_config
from embedfleet.engines.loading import EngineOptions, load_engine
from embedfleet.engines.native.choice import misfit
from embedfleet.engines.native.library import load
from embedfleet.engines.pooling import finite_rows
from embedfleet.engines.protocol import Engine
from embedfleet.vocabulary import Encoding, ModelError, Pooling, SettingError, Vectors
from tests import encoder_checkpoints as checkpoints
from tests.checkpoints import Layout
from tests.conformance.engine_conformance import ClosingConformance, EngineConformance
from tests.encoder_checkpoints import (
    BERT,
    GEOMETRIES,
    ODD,
    POOLINGS,
    XLM_ROBERTA,
    EncoderGeometry,
    encoder_config,
    random_encoder,
    write_encoder,
)
from tests.engines.kernels import OURS, RUNNING, needs_native, way

FIXTURE = Path(__file__).parents[1] / "fixtures" / "encoder_reference.npz"


@dataclass(frozen=True, slots=True)
class Reference:
    texts: list[Encoding]
    vectors: Vectors


def reference(name: str, pooling: str) -> Reference:
    with np.load(FIXTURE) as fixture:
        ids = fixture[f"{name}_ids"].astype(np.int32)
        texts = np.split(ids, np.cumsum(fixture["lengths"])[:-1])
        return Reference(texts, fixture[f"{name}_{pooling}"])


def engine_of(directory: Path, kernels: str, dtype: str = "f32", **options: Any) -> Engine:
    return load_engine(
        directory, EngineOptions(device="cpu", dtype=dtype, **way(kernels), **options)
    )


def embed(engine: Engine, texts: list[Encoding]) -> Vectors:
    return engine.prepare(texts)()


class TestVectors:
    @pytest.mark.parametrize("kernels", [*OURS, "numpy"])
    @pytest.mark.parametrize("name", GEOMETRIES)
    @pytest.mark.parametrize("pooling", POOLINGS)
    def test_float32_agrees_with_transformers_alone_and_in_a_batch_with_the_same_bits(
        self, name: str, pooling: checkpoints.Pooling, kernels: str, tmp_path: Path
    ) -> None:
        if GEOMETRIES[name] is ODD and kernels != "numpy":
            pytest.skip("kernels of our own can't divide these sizes")
        known = reference(name, pooling)
        write_encoder(tmp_path, GEOMETRIES[name], pooling=pooling)
        engine = engine_of(tmp_path, kernels, batch_tokens=700)
        together = embed(engine, known.texts)
        assert np.abs(together - known.vectors).max() < 1e-5
        alone = np.concatenate([embed(engine, [text]) for text in known.texts])
        if kernels == "numpy":
            np.testing.assert_allclose(alone, together, atol=1e-6)
        else:
            np.testing.assert_array_equal(alone, together)

    @needs_native
    @pytest.mark.parametrize("instructions", OURS)
    @pytest.mark.parametrize("name", ["bert", "xlm-roberta"])
    def test_int8_is_near_and_has_the_same_bits_alone_and_in_a_batch(
        self, name: str, instructions: str, tmp_path: Path
    ) -> None:
        known = reference(name, "mean")
        engine = engine_of(write_encoder(tmp_path, GEOMETRIES[name]), instructions, "int8")
        together = embed(engine, known.texts)
        cosines = np.einsum("ij,ij->i", together, known.vectors)
        assert cosines.mean() > 0.999
        assert cosines.min() > 0.998
        alone = np.concatenate([embed(engine, [text]) for text in known.texts])
        np.testing.assert_array_equal(alone, together)

    @needs_native
    def test_auto_finds_out_whether_int8_suits_the_model(self, tmp_path: Path) -> None:
        """Where the weights of norms differ by orders of magnitude, small numbers are lost."""
        weights, rng = random_encoder(BERT), np.random.default_rng(3)
        for name in [name for name in weights if name.endswith("LayerNorm.weight")]:
            weights[name] *= np.exp(1.5 * rng.standard_normal(BERT.hidden)).astype(np.float32)
        uneven = write_encoder(tmp_path / "uneven", BERT, weights=weights)
        even = write_encoder(tmp_path / "even", BERT)
        quick = {one.name: one.quick_int8 for one in load().sets}[RUNNING[0]]
        assert engine_of(uneven, "native", "auto").info.precision == "f32"
        assert engine_of(even, "native", "auto").info.precision == ("int8" if quick else "f32")

    @pytest.mark.parametrize("layout", [Layout("F16"), Layout("BF16", prefix="bert.")], ids=str)
    def test_every_layout_of_a_checkpoint_means_the_same(
        self, layout: Layout, tmp_path: Path
    ) -> None:
        texts = reference("bert", "mean").texts[:6]
        published = write_encoder(tmp_path / "published", BERT)
        other = write_encoder(tmp_path / "other", BERT, layout=layout)
        found, right = (embed(engine_of(one, "numpy"), texts) for one in (other, published))
        np.testing.assert_allclose(found, right, atol=2e-3 if layout.kind == "F16" else 1e-6)

    def test_norms_under_the_names_of_tensorflow_are_the_same(self, tmp_path: Path) -> None:
        weights = random_encoder(BERT)
        old = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            ): values
            for name, values in weights.items()
        }
        texts = reference("bert", "mean").texts[:4]
        found, expected = (
            embed(engine_of(write_encoder(tmp_path / name, BERT, weights=each), "numpy"), texts)
            for name, each in (("old", old), ("new", weights))
        )
        np.testing.assert_array_equal(found, expected)

    @pytest.mark.parametrize("kernels", [*OURS, "numpy"])
    def test_a_text_that_overflows_is_no_vector_and_leaves_its_neighbours_alone(
        self, kernels: str, tmp_path: Path
    ) -> None:
        weights = random_encoder(BERT)
        weights["embeddings.word_embeddings.weight"][7] = np.nan
        engine = engine_of(write_encoder(tmp_path, BERT, weights=weights), kernels)
        good = np.arange(10, 90, dtype=np.int32)
        bad = np.array([5, 7, 9], np.int32)
        found = embed(engine, [good, bad, good])
        assert finite_rows(found).tolist() == [True, False, True]
        np.testing.assert_array_equal(found[0], embed(engine, [good])[0])


@needs_native
class TestEngineConformance(EngineConformance, ClosingConformance):
    tolerance: ClassVar[float] = 0.0

    @pytest.fixture
    def engine(self, tmp_path: Path) -> Engine:
        return engine_of(write_encoder(tmp_path, XLM_ROBERTA), "native")

    @pytest.fixture
    def closing(self, engine: Engine) -> Engine:
        return engine


@dataclass(frozen=True, slots=True)
class Bits:
    engines: list[Engine]
    texts: list[Encoding]
    alone: list[bytes]


@pytest.fixture(scope="module", params=["f32", "int8"])
def bits(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bits:
    directory = write_encoder(tmp_path_factory.mktemp("bits"), BERT)
    engines = [
        engine_of(directory, "native", request.param, threads=threads, batch_tokens=tokens)
        for threads, tokens in ((1, 1_024), (2, 1_024), (3, 200), (5, 64))
    ]
    rng = np.random.default_rng(5)
    lengths = [1, 2, 15, 16, 17, 47, 48, 49, *rng.integers(1, 400, 12)]
    texts = [rng.integers(0, BERT.vocabulary, n).astype(np.int32) for n in lengths]
    return Bits(engines, texts, [embed(engines[0], [text])[0].tobytes() for text in texts])


@needs_native
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_text_has_the_same_bits_alone_and_anywhere_in_any_batch_on_any_threads(
    bits: Bits, data: st.DataObject
) -> None:
    engine = data.draw(st.sampled_from(bits.engines))
    batch = data.draw(st.lists(st.integers(0, len(bits.texts) - 1), min_size=1, max_size=20))
    vectors = embed(engine, [bits.texts[index] for index in batch])
    assert [vector.tobytes() for vector in vectors] == [bits.alone[index] for index in batch]


class TestReading:
    def test_the_architecture_is_read_from_config_json(self, tmp_path: Path) -> None:
        write_encoder(tmp_path, XLM_ROBERTA)
        found = read_config(tmp_path / "config.json")
        assert found == EncoderConfig(
            hidden=128,
            layers=2,
            heads=2,
            head_dim=64,
            intermediate=384,
            vocabulary=1_000,
            epsilon=1e-5,
            positions=514,
            first_position=2,
            token_types=1,
        )
        assert found.max_positions == 512

    def test_what_older_configurations_leave_out_is_what_transformers_takes(
        self, tmp_path: Path
    ) -> None:
        write_encoder(
            tmp_path, BERT, layer_norm_eps=None, type_vocab_size=None, position_embedding_type=None
        )
        config = read_config(tmp_path / "config.json")
        assert (config.epsilon, config.token_types) == (1e-12, 2)

    @pytest.mark.parametrize("pooling", [*POOLINGS, None])
    def test_pooling_is_that_of_its_file_and_the_mean_without_one(
        self, tmp_path: Path, pooling: checkpoints.Pooling | None
    ) -> None:
        found = open_checkpoint(write_encoder(tmp_path, BERT, pooling=pooling)).pooling
        assert found is (Pooling.FIRST if pooling == "cls" else Pooling.MEAN)

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"hidden_act": "relu"}, "hidden_act is 'relu'.*'gelu'"),
            ({"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new'"),
            ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative"),
            ({"is_decoder": True}, "is_decoder is True"),
            ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config is"),
            ({"architectures": ["BertForSequenceClassification"]}, "is not a text encoder"),
            ({"architectures": "BertModel"}, "architectures is"),
            ({"num_attention_heads": 5}, "hidden_size 128 is not a multiple"),
            ({"layer_norm_eps": "small"}, "layer_norm_eps is 'small'"),
            ({"vocab_size": 0}, "vocab_size is 0"),
        ],
        ids=str,
    )
    def test_what_is_not_supported_is_refused_by_name(
        self, tmp_path: Path, changes: dict[str, Any], said: str
    ) -> None:
        write_encoder(tmp_path, BERT, **changes)
        with pytest.raises(ModelError, match=rf"config\.json: .*{said}"):
            read_geometry(tmp_path)

    def test_a_pooling_that_it_is_not_made_for_is_refused(self, tmp_path: Path) -> None:
        write_encoder(tmp_path, BERT)
        path = tmp_path / "1_Pooling" / "config.json"
        path.write_text(json.dumps({"pooling_mode_lasttoken": True}))
        with pytest.raises(
            ModelError, match=r"last pooling.*BERT models by first or mean.*--engine"
        ):
            read_geometry(tmp_path)

    def test_unsupported_modules_are_refused_with_an_alternative(self, tmp_path: Path) -> None:
        write_encoder(tmp_path, BERT)
        kinds = ("Transformer", "Pooling", "Dense")
        modules = [{"type": f"sentence_transformers.models.{kind}"} for kind in kinds]
        (tmp_path / "modules.json").write_text(json.dumps(modules))
        with pytest.raises(ModelError, match=r"Transformer, Pooling, Dense are not.*--engine tei"):
            read_geometry(tmp_path)

    @pytest.mark.parametrize("count", [2, 3])
    def test_vectors_have_unit_length_without_a_module_for_it_and_the_log_says_so(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, count: int
    ) -> None:
        write_encoder(tmp_path, BERT)
        kinds = ("Transformer", "Pooling", "Normalize")[:count]
        modules = [
            {"type": f"sentence_transformers.models.{kind}", "path": path}
            for kind, path in zip(kinds, ("", "1_Pooling", "2_Normalize"), strict=False)
        ]
        (tmp_path / "modules.json").write_text(json.dumps(modules))
        (found,) = embed(engine_of(tmp_path, "numpy"), [np.array([5, 6], np.int32)])
        assert abs(float(np.linalg.norm(found)) - 1) < 1e-6
        assert ("no Normalize" in caplog.text) is (count == 2)

    def test_positions_that_padding_takes_up_are_refused(self, tmp_path: Path) -> None:
        write_encoder(tmp_path, XLM_ROBERTA, max_position_embeddings=2)
        with pytest.raises(ModelError, match="leaves no position"):
            read_config(tmp_path / "config.json")

    @pytest.mark.parametrize(
        ("name", "change", "said"),
        [
            ("encoder.layer.1.attention.self.query.bias", None, "query.bias is missing"),
            ("embeddings.LayerNorm.weight", None, r"LayerNorm.weight is missing.*\[128\]"),
            ("embeddings.position_embeddings.weight", (100, 128), r"shape \[100, 128\].*\[512"),
            (
                "encoder.layer.3.output.dense.weight",
                (128, 512),
                "according to config.json the model has 3 layers",
            ),
        ],
    )
    def test_a_tensor_that_is_missing_misshapen_or_too_many_is_named(
        self, tmp_path: Path, name: str, change: tuple[int, ...] | None, said: str
    ) -> None:
        weights = random_encoder(BERT)
        weights.pop(name, None)
        if change is not None:
            weights[name] = np.zeros(change, np.float32)
        with pytest.raises(ModelError, match=said):
            open_checkpoint(write_encoder(tmp_path, BERT, weights=weights))

    @settings(max_examples=150, deadline=None)
    @given(data=st.data())
    def test_a_configuration_with_any_value_in_any_place_is_read_or_refused(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        values = st.one_of(
            *(st.none(), st.booleans(), st.integers(-5, 10**10), st.floats(), st.text(max_size=5)),
            *(st.lists(st.integers(), max_size=2), st.dictionaries(st.text(), st.none())),
        )
        raw = encoder_config(data.draw(st.sampled_from([BERT, XLM_ROBERTA])))
        raw[data.draw(st.sampled_from([*raw, "is_decoder", "quantization_config"]))] = data.draw(
            values
        )
        directory = tmp_path_factory.mktemp("config")
        (directory / "config.json").write_text(json.dumps(raw))
        with contextlib.suppress(ModelError):
            read_geometry(directory)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=12), min_size=1, max_size=4))
def test_padding_tokens_in_a_text_are_not_counted_as_places(texts: list[list[int]]) -> None:
    """As transformers does for RoBERTa, whose padding token is 1; BERT counts all."""
    ids = np.concatenate(texts).astype(np.int32)
    positions = np.concatenate([np.arange(len(text)) for text in texts]).astype(np.int32)
    expected: list[int] = []
    for text in texts:
        kept = np.array(text) != 1
        expected += (np.cumsum(kept) * kept + 1).tolist()
    assert places(ids, positions, 2).tolist() == expected
    assert places(ids, positions, 0).tolist() == positions.tolist()


@needs_native
@pytest.mark.parametrize(
    "geometry", [checkpoints.MINILM_L6, checkpoints.BGE_BASE, checkpoints.BGE_M3], ids=str
)
def test_the_published_models_sizes_suit_the_kernels(
    geometry: EncoderGeometry, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(encoder_config(geometry)))
    config = read_config(path)
    assert misfit(config, load().numbers) is None
    assert config.max_positions == geometry.most_tokens


def test_openvino_is_refused_where_it_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"kernels is openvino.*Use native"):
        engine_of(write_encoder(tmp_path, BERT), "openvino")
