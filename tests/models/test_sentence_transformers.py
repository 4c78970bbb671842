"""Files of sentence-transformers 2 to 6: what they ask for is done, told or refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from embedfleet.engines.architectures import open_checkpoint
from embedfleet.engines.loading import EngineOptions, load_engine
from embedfleet.models.description import describe
from embedfleet.models.sentence_transformers import TRANSFORMER_FILES
from embedfleet.vocabulary import ModelError
from tests.checkpoints import Geometry, random_weights, write_checkpoint
from tests.small_tokenizer import tokenizer

TINY = Geometry(64, 1, 2, 1, 32, 64, tokenizer().get_vocab_size(), 256)
FORWARD = {"method": "forward", "method_output_name": "last_hidden_state"}
SAVED_BY_6 = {
    "config_sentence_transformers.json": {
        "__version__": {"sentence_transformers": "6.2.0", "transformers": "5.5.4"},
        "default_prompt_name": None,
        "model_type": "SentenceTransformer",
        "prompts": {"query": "query: ", "document": ""},
        "similarity_fn_name": "dot",
    },
    "modules.json": [
        {
            "idx": 0,
            "name": "0",
            "path": "",
            "type": "sentence_transformers.base.modules.transformer.Transformer",
        },
        {
            "idx": 1,
            "name": "1",
            "path": "1_Pooling",
            "type": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
        },
        {
            "idx": 2,
            "name": "2",
            "path": "2_Normalize",
            "type": "sentence_transformers.base.modules.normalize.Normalize",
        },
    ],
    "1_Pooling/config.json": {
        "embedding_dimension": 64,
        "pooling_mode": "lasttoken",
        "include_prompt": True,
    },
    "sentence_bert_config.json": {
        "transformer_task": "feature-extraction",
        "modality_config": {"text": FORWARD},
        "module_output_name": "token_embeddings",
    },
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    write_checkpoint(directory, random_weights(TINY), TINY)
    tokenizer().save(str(directory / "tokenizer.json"))
    (directory / "1_Pooling").mkdir(exist_ok=True)
    for name, content in SAVED_BY_6.items():
        (directory / name).write_text(json.dumps(content))
    return directory


def change(directory: Path, name: str, **changes: object) -> None:
    path = directory / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_version_6_writes_is_served(directory: Path) -> None:
    description = describe(directory)
    assert description.identity.prompts == {"query": "query: "}
    assert description.pooling == "last"
    open_checkpoint(directory)


@pytest.mark.parametrize("name", TRANSFORMER_FILES)
def test_the_first_module_s_file_has_the_name_of_whichever_class_wrote_it(
    directory: Path, name: str
) -> None:
    (directory / "sentence_bert_config.json").unlink()
    (directory / name).write_text('{"max_seq_length": 100, "do_lower_case": true}')
    description = describe(directory)
    assert description.identity.max_tokens == 100
    assert description.lowercase


@pytest.mark.parametrize("there", [True, False], ids=["another-beside-it", "nothing-beside-it"])
def test_a_first_module_in_a_folder_of_its_own_is_refused(directory: Path, *, there: bool) -> None:
    modules = json.loads((directory / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (directory / "modules.json").write_text(json.dumps(modules))
    if not there:
        (directory / "config.json").unlink()
    for read in (describe, open_checkpoint):
        with pytest.raises(ModelError, match=r"first module is in '0_Transformer'.*Move"):
            read(directory)


def test_a_module_of_the_model_s_own_code_is_refused(directory: Path) -> None:
    modules = json.loads((directory / "modules.json").read_text())
    modules[0]["type"] = "custom_st.Transformer"
    (directory / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelError, match=r"'custom_st\.Transformer' is code of the model's own"):
        open_checkpoint(directory)


@pytest.mark.parametrize("kind", ["SparseEncoder", "CrossEncoder", "MultiVectorEncoder"])
def test_a_model_of_another_kind_is_refused(directory: Path, kind: str) -> None:
    change(directory, "config_sentence_transformers.json", model_type=kind)
    with pytest.raises(ModelError, match=f"model_type is '{kind}'.*--engine"):
        open_checkpoint(directory)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"transformer_task": "fill-mask"}, "transformer_task is 'fill-mask'"),
        ({"module_output_name": "sentence_embedding"}, "module_output_name is 'sentence_emb"),
        ({"query_length": 32}, "query_length is 32"),
        ({"modality_config": {"text": FORWARD | {"method_output_name": "pooler_output"}}}, "pool"),
        ({"modality_config": {"message": FORWARD}}, "modality_config has None for text"),
        ({"modality_config": []}, None),
        ({"modality_config": "text"}, "modality_config is 'text'; it must be an object"),
        ({"processing_kwargs": {"text": {"max_length": 8}}}, "kwargs.text sets max_length"),
        ({"processing_kwargs": {"common": {"truncation": False}}}, "common sets truncation"),
        ({"processing_kwargs": {"text": {"padding": True, "truncation": True}}}, None),
        ({"processing_kwargs": {"chat_template": {"add_generation_prompt": True}}}, None),
        ({"config_args": {"is_causal": False}}, "config_args sets is_causal"),
        ({"model_args": {"torch_dtype": "float16", "attn_implementation": "sdpa"}}, None),
        ({"processor_kwargs": {"padding_side": "left"}}, None),
        ({"tokenizer_args": {"model_max_length": 9}}, "tokenizer_args sets model_max_length"),
        ({"model_kwargs": 5}, "model_kwargs is 5; it must be an object"),
    ],
    ids=str,
)
def test_what_would_change_vectors_in_the_first_module_is_refused(
    directory: Path, changes: dict[str, object], complaint: str | None
) -> None:
    change(directory, "sentence_bert_config.json", **changes)
    if complaint is None:
        open_checkpoint(directory)
        return
    with pytest.raises(ModelError, match=rf"sentence_bert_config\.json: .*{complaint}"):
        open_checkpoint(directory)


@pytest.mark.parametrize(("modes", "fits"), [(["lasttoken"], True), (["lasttoken", "cls"], False)])
def test_one_pooling_in_a_list_is_that_pooling(
    directory: Path, modes: list[str], *, fits: bool
) -> None:
    change(directory, "1_Pooling/config.json", pooling_mode=modes)
    assert describe(directory).pooling == ("last" if fits else "other")
    if not fits:
        with pytest.raises(ModelError, match="pooling lasttoken, cls is not supported"):
            open_checkpoint(directory)


def test_a_prompt_that_is_null_is_none(directory: Path) -> None:
    change(directory, "config_sentence_transformers.json", prompts={"query": None, "passage": "p"})
    assert describe(directory).identity.prompts == {"document": "p"}


@pytest.mark.parametrize(("cut", "told"), [(32, True), (64, False), (None, False)])
def test_vectors_are_whole_and_truncate_dim_is_reported(
    directory: Path, caplog: pytest.LogCaptureFixture, cut: int | None, *, told: bool
) -> None:
    change(directory, "config_sentence_transformers.json", truncate_dim=cut)
    assert load_engine(directory, EngineOptions(kernels="numpy")).info.width == 64
    assert ("cut vectors to 32 dimensions" in caplog.text) is told
