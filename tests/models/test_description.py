"""What a model directory says, and what it may not say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, processors

from embedfleet.models.description import DOCUMENTED_TOKENS, describe
from embedfleet.models.encoding.encoder import Encoder
from embedfleet.models.sentence_transformers import normalizes, read_pooling
from embedfleet.vocabulary import ModelError, Pooling, Truncation
from tests.small_tokenizer import END, id_of, tokenizer, write_model

QWEN_MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {
        "idx": 2,
        "name": "2",
        "path": "2_Normalize",
        "type": "sentence_transformers.models.Normalize",
    },
]
QWEN_POOLING = {
    "word_embedding_dimension": 64,
    "pooling_mode_cls_token": False,
    "pooling_mode_mean_tokens": False,
    "pooling_mode_lasttoken": True,
    "include_prompt": True,
}
WEB_SEARCH = (
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_model(tmp_path / "small-embedder")


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_weights(directory: Path, seed: int = 0, name: str = "model.safetensors") -> None:
    rows = np.random.default_rng(seed).standard_normal((600, 1024), dtype=np.float32)
    save_file({"embed_tokens.weight": rows}, directory / name)


class TestIdentity:
    def test_sizes_come_from_the_configuration(self, directory: Path) -> None:
        identity = describe(directory).identity
        assert identity.width == 64
        assert identity.max_tokens == 512
        assert identity.vocabulary == tokenizer().get_vocab_size()

    @pytest.mark.parametrize(
        ("width", "positions"),
        [("dim", "max_position_embeddings"), ("d_model", "n_positions"), ("n_embd", "n_positions")],
        ids=["DistilBERT", "T5", "GPT-2"],
    )
    def test_sizes_may_have_the_names_of_other_families(
        self, directory: Path, width: str, positions: str
    ) -> None:
        """Engines of others compute them."""
        config = json.loads((directory / "config.json").read_text())
        del config["hidden_size"], config["max_position_embeddings"]
        write(directory / "config.json", config | {width: 96, positions: 300})
        identity = describe(directory).identity
        assert (identity.width, identity.max_tokens) == (96, 300)

    def test_the_name_is_the_directory_s_unless_one_is_given(self, directory: Path) -> None:
        assert describe(directory).identity.name == "small-embedder"
        assert describe(directory, name="Org/Model").identity.name == "Org/Model"

    def test_the_context_is_capped_at_what_qwen_documents(self, tmp_path: Path) -> None:
        directory = write_model(tmp_path, max_position_embeddings=40_960)
        assert describe(directory).identity.max_tokens == DOCUMENTED_TOKENS == 32_768
        assert describe(directory, max_tokens=40_000).identity.max_tokens == 40_000

    @pytest.mark.parametrize("wanted", [-1, 0, 1, 513])
    def test_a_context_that_the_model_does_not_have_is_refused(
        self, directory: Path, wanted: int
    ) -> None:
        with pytest.raises(ModelError, match="max_tokens must be from 2 to 512"):
            describe(directory, max_tokens=wanted)

    @pytest.mark.parametrize("key", ["vocab_size", "hidden_size", "max_position_embeddings"])
    @pytest.mark.parametrize("value", [None, 0, "64", 1.5, True])
    def test_a_configuration_without_a_size_is_refused_by_its_key(
        self, tmp_path: Path, key: str, value: Any
    ) -> None:
        directory = write_model(tmp_path, **{key: value})
        with pytest.raises(ModelError, match=rf"config\.json: {key}"):
            describe(directory)

    def test_absent_and_broken_files_are_named(self, directory: Path, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="is not a directory"):
            describe(tmp_path / "nowhere")
        for name in ("tokenizer.json", "config.json"):
            content = (directory / name).read_text()
            (directory / name).write_text("{")
            with pytest.raises(ModelError, match=name):
                describe(directory)
            (directory / name).unlink()
            with pytest.raises(ModelError, match=rf"{name} is missing"):
                describe(directory)
            (directory / name).write_text(content)
        (directory / "config.json").write_text("[]")
        with pytest.raises(ModelError, match="does not hold a JSON object"):
            describe(directory)


class TestLongestText:
    """Where sentence-transformers would cut, a text ends here, too."""

    @pytest.mark.parametrize(
        ("bert", "tokenizer", "tokens"),
        [
            ({"max_seq_length": 128}, {}, 128),
            ({"max_seq_length": 128, "do_lower_case": False}, {"model_max_length": 64}, 128),
            ({"max_seq_length": None}, {"model_max_length": 10**30}, 512),
            ({}, {"model_max_length": 1e30}, 512),
            ({"max_seq_length": 100_000}, {}, 512),
            (None, {"model_max_length": 200}, 200),
        ],
        ids=str,
    )
    def test_is_what_sentence_transformers_own_file_says_or_else_the_tokenizers(
        self,
        directory: Path,
        bert: dict[str, object] | None,
        tokenizer: dict[str, object],
        tokens: int,
    ) -> None:
        if bert is not None:
            write(directory / "sentence_bert_config.json", bert)
        path = directory / "tokenizer_config.json"
        before = json.loads(path.read_text()) if path.exists() else {}
        write(path, before | tokenizer)

        assert describe(directory).identity.max_tokens == tokens

    def test_may_be_set_beyond_that_as_far_as_the_model_has_positions(
        self, directory: Path
    ) -> None:
        write(directory / "sentence_bert_config.json", {"max_seq_length": 128})
        assert describe(directory, max_tokens=256).identity.max_tokens == 256

    def test_lower_casing_is_detected_and_makes_another_tokenizer(self, directory: Path) -> None:
        before = describe(directory)
        assert not before.lowercase
        write(directory / "sentence_bert_config.json", {"do_lower_case": True})
        assert describe(directory).lowercase
        assert describe(directory).identity.tokenizer != before.identity.tokenizer

    @pytest.mark.parametrize("value", ["512", -1, True, [512]], ids=str)
    def test_an_odd_limit_is_refused(self, directory: Path, value: object) -> None:
        write(directory / "sentence_bert_config.json", {"max_seq_length": value})
        with pytest.raises(ModelError, match="max_seq_length must be a positive number"):
            describe(directory)


class TestRevision:
    def test_without_weights_there_is_none(self, directory: Path) -> None:
        assert describe(directory).identity.revision == ""

    def test_is_the_same_wherever_the_files_lie_and_through_links(
        self, directory: Path, tmp_path: Path
    ) -> None:
        write_weights(directory)
        revision = describe(directory).identity.revision
        assert len(revision) == 32
        copy = tmp_path / "elsewhere" / "copy"
        shutil.copytree(directory, copy)
        assert describe(copy).identity.revision == revision
        linked = tmp_path / "linked"
        linked.mkdir()
        for file in directory.iterdir():
            (linked / file.name).symlink_to(file)
        assert describe(linked).identity.revision == revision

    def test_changes_with_numbers_and_configuration(self, directory: Path) -> None:
        revisions = set()
        for seed in (0, 1):
            write_weights(directory, seed)
            revisions.add(describe(directory).identity.revision)
        config = json.loads((directory / "config.json").read_text())
        write(directory / "config.json", config | {"rope_theta": 1e6})
        revisions.add(describe(directory).identity.revision)
        assert len(revisions) == 3

    def test_does_not_change_with_files_that_are_no_weights(self, directory: Path) -> None:
        write_weights(directory)
        revision = describe(directory).identity.revision
        (directory / "README.md").write_text("A model.")
        write_weights(directory, seed=1, name="golden.safetensors")
        assert describe(directory).identity.revision == revision

    def test_a_weights_file_that_is_cut_off_is_refused(self, directory: Path) -> None:
        (directory / "model.safetensors").write_bytes((10**6).to_bytes(8, "little") + b"{")
        with pytest.raises(ModelError, match="cut off after 9 bytes"):
            describe(directory)

    def test_the_tokenizer_has_a_fingerprint_of_its_own(self, tmp_path: Path) -> None:
        one = describe(write_model(tmp_path / "one")).identity
        same = describe(write_model(tmp_path / "same")).identity
        other = write_model(tmp_path / "other", built=tokenizer(post_processor=False))
        assert one.tokenizer == same.tokenizer
        assert one.tokenizer != describe(other).identity.tokenizer


class TestPrompts:
    def test_without_files_of_its_own_it_has_qwen_s_query_prompt_and_no_other(
        self, directory: Path
    ) -> None:
        assert describe(directory).identity.prompts == {"query": WEB_SEARCH}

    def test_come_from_the_sentence_transformers_file(self, directory: Path) -> None:
        config = {"prompts": {"query": "q: ", "document": "d: ", "clustering": "c: "}}
        write(directory / "config_sentence_transformers.json", config)
        assert describe(directory).identity.prompts == {"query": "q: ", "document": "d: "}

    def test_an_empty_prompt_is_none(self, directory: Path) -> None:
        config = {"prompts": {"query": WEB_SEARCH, "document": ""}, "default_prompt_name": None}
        write(directory / "config_sentence_transformers.json", config)
        assert describe(directory).identity.prompts == {"query": WEB_SEARCH}

    def test_passage_is_another_word_for_document(self, directory: Path) -> None:
        write(directory / "config_sentence_transformers.json", {"prompts": {"passage": "p: "}})
        assert describe(directory).identity.prompts == {"document": "p: "}

    @pytest.mark.parametrize(
        ("config", "complaint"),
        [
            ({"default_prompt_name": "query"}, "default_prompt_name"),
            ({"prompts": ["query"]}, "prompts must be"),
            ({"prompts": {"query": 1}}, "prompts must be"),
        ],
    )
    def test_a_file_that_means_something_else_is_refused(
        self, directory: Path, config: dict[str, Any], complaint: str
    ) -> None:
        write(directory / "config_sentence_transformers.json", config)
        with pytest.raises(ModelError, match=complaint):
            describe(directory)


class TestPooling:
    def pooling(self, directory: Path) -> Pooling:
        return read_pooling(directory, Pooling.LAST)

    def test_is_the_family_s_where_no_file_tells(self, directory: Path) -> None:
        assert read_pooling(directory, Pooling.MEAN) is Pooling.MEAN

    @pytest.mark.parametrize("count", [2, 3])
    def test_qwen_s_own_files_are_accepted_and_unit_length_need_not_be_asked_for(
        self, directory: Path, count: int
    ) -> None:
        write(directory / "modules.json", QWEN_MODULES[:count])
        write(directory / "1_Pooling" / "config.json", QWEN_POOLING)
        assert self.pooling(directory) is Pooling.LAST
        assert normalizes(directory) is (count == 3)

    @pytest.mark.parametrize(
        ("names", "pooling"),
        [
            (("lasttoken", "lasttoken"), Pooling.LAST),
            (("cls_token", "cls"), Pooling.FIRST),
            (("mean_tokens", "mean"), Pooling.MEAN),
        ],
    )
    def test_is_read_from_flags_and_in_newer_files_from_a_name(
        self, directory: Path, names: tuple[str, str], pooling: Pooling
    ) -> None:
        flag, name = names
        nothing = dict.fromkeys(QWEN_POOLING, False) | {"include_prompt": True}
        for config in (nothing | {f"pooling_mode_{flag}": True}, {"pooling_mode": name}):
            write(directory / "1_Pooling" / "config.json", config)
            assert self.pooling(directory) is pooling

    def test_another_pooling_is_refused_by_name(self, directory: Path) -> None:
        pooling = QWEN_POOLING | {"pooling_mode_lasttoken": False, "pooling_mode_max_tokens": True}
        write(directory / "1_Pooling" / "config.json", pooling)
        with pytest.raises(ModelError, match="pooling max_tokens is not supported"):
            self.pooling(directory)

    def test_two_poolings_side_by_side_are_refused(self, directory: Path) -> None:
        pooling = QWEN_POOLING | {"pooling_mode_mean_tokens": True}
        write(directory / "1_Pooling" / "config.json", pooling)
        with pytest.raises(ModelError, match="mean_tokens, lasttoken"):
            self.pooling(directory)

    def test_leaving_the_prompt_out_of_the_pooling_is_refused(self, directory: Path) -> None:
        write(directory / "1_Pooling" / "config.json", QWEN_POOLING | {"include_prompt": False})
        with pytest.raises(ModelError, match="include_prompt"):
            self.pooling(directory)

    @pytest.mark.parametrize(
        ("modules", "complaint"),
        [
            (QWEN_MODULES[:1], "modules Transformer are not supported"),
            ([*QWEN_MODULES, {"type": "sentence_transformers.models.Dense"}], "Dense"),
            ([], "modules none"),
            ({"0": "Transformer"}, "list of objects"),
        ],
    )
    def test_other_modules_are_refused_by_name(
        self, directory: Path, modules: object, complaint: str
    ) -> None:
        write(directory / "modules.json", modules)
        write(directory / "1_Pooling" / "config.json", QWEN_POOLING)
        with pytest.raises(ModelError, match=complaint):
            self.pooling(directory)

    def test_modules_without_the_pooling_file_are_refused(self, directory: Path) -> None:
        write(directory / "modules.json", QWEN_MODULES)
        with pytest.raises(ModelError, match=r"1_Pooling/config\.json is missing"):
            self.pooling(directory)

    def test_a_gateway_describes_a_model_that_its_own_engine_refuses(self, directory: Path) -> None:
        write(directory / "modules.json", [*QWEN_MODULES, {"type": "models.Dense"}])
        write_weights(directory)
        assert describe(directory).identity.revision

    def test_two_models_that_differ_in_it_alone_have_two_revisions(self, directory: Path) -> None:
        write_weights(directory)
        revisions = {describe(directory).identity.revision}
        for name in ("lasttoken", "cls", "mean", "max"):
            write(directory / "1_Pooling" / "config.json", {"pooling_mode": name})
            revisions.add(describe(directory).identity.revision)
        assert len(revisions) == 4


class TestEndOfText:
    def test_is_what_the_post_processor_appends(self, directory: Path) -> None:
        assert describe(directory).end_of_text == id_of(END)

    def test_is_none_where_a_fine_tune_was_saved_with_a_tokenizer_that_appends_none(
        self, tmp_path: Path
    ) -> None:
        """As sentence-transformers saves them; it reads the last token of the text itself."""
        built = tokenizer(post_processor=False)
        directory = write_model(tmp_path, built=built, architectures=["Qwen3Model"])
        (encoded,) = Encoder(describe(directory)).encode(
            ["the sea"], prompt="", truncate=Truncation.END
        )
        assert encoded.ids.tolist() == built.encode("the sea").ids

    def test_is_known_without_a_post_processor(self, tmp_path: Path) -> None:
        directory = write_model(tmp_path, built=tokenizer(post_processor=False))
        assert describe(directory).end_of_text == id_of(END)

    def test_is_the_padding_token_where_the_usual_one_does_not_exist(self, tmp_path: Path) -> None:
        definition = tokenizer(post_processor=False).to_str().replace(END, "<|stop|>")
        renamed = Tokenizer.from_str(definition)
        directory = write_model(tmp_path, built=renamed)
        with pytest.raises(ModelError, match="appends no token"):
            describe(directory)
        for token in ("<|stop|>", {"content": "<|stop|>", "special": True}):
            write(directory / "tokenizer_config.json", {"pad_token": token})
            assert describe(directory).end_of_text == renamed.token_to_id("<|stop|>")

    def test_a_tokenizer_that_adds_tokens_elsewhere_is_refused(self, tmp_path: Path) -> None:
        built = tokenizer()
        built.post_processor = processors.TemplateProcessing(
            single=f"{END} $A {END}", special_tokens=[(END, built.token_to_id(END))]
        )
        with pytest.raises(ModelError, match="adds other tokens than one at the end"):
            describe(write_model(tmp_path, built=built))

    def test_must_have_a_row_in_the_embedding_table(self, tmp_path: Path) -> None:
        directory = write_model(tmp_path, vocab_size=id_of(END))
        with pytest.raises(ModelError, match="not in the embedding table"):
            describe(directory)
