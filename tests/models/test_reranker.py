"""How a reranker is recognised, and what a pair looks like."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from embedfleet.models.description import describe
from embedfleet.models.encoding.encoder import Encoder
from embedfleet.models.reranker import (
    QWEN3_RERANKER,
    TEMPLATE_FILE,
    PairTemplate,
    Scoring,
    pair_prompt,
    scoring_of,
    task_of,
    template_of,
)
from embedfleet.models.source import resolve
from embedfleet.vocabulary import SCORE_WIDTH, ModelError, Task, Truncation
from tests.encoder_tokenizers import Kind
from tests.small_tokenizer import write_model
from tests.stand_ins.rerankers import classifier_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A causal language model that no file says anything of."""
    directory = write_model(tmp_path / "model")
    config = directory / "config.json"
    causal = {"architectures": ["Qwen3ForCausalLM"]}
    config.write_text(json.dumps(json.loads(config.read_text()) | causal))
    for name in ("modules.json", "1_Pooling/config.json", "config_sentence_transformers.json"):
        (directory / name).unlink(missing_ok=True)
    return directory


def put(directory: Path, name: str, content: object) -> Path:
    path = directory / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return directory


def changed(directory: Path, **keys: object) -> Path:
    return put(directory, "config.json", json.loads((directory / "config.json").read_text()) | keys)


def test_a_chat_model_is_not_taken_for_a_reranker(model: Path) -> None:
    assert task_of(model) is Task.EMBED


@pytest.mark.parametrize("name", ["Qwen/Qwen3-Reranker-0.6B", "our-re-ranker", "RERANK"])
def test_a_reranker_is_recognised_by_its_name(model: Path, name: str) -> None:
    assert task_of(model, name) is Task.RERANK


def test_a_reranker_is_recognised_by_the_name_of_its_directory(model: Path) -> None:
    assert task_of(model.rename(model.with_name("Qwen3-Reranker-4B"))) is Task.RERANK


def test_a_model_card_with_the_task_text_ranking_decides(model: Path) -> None:
    put(model, "README.md", "---\nlicense: apache-2.0\npipeline_tag: text-ranking\n---\n# One")
    assert task_of(model) is Task.RERANK


def test_a_model_card_that_only_mentions_text_ranking_decides_nothing(model: Path) -> None:
    put(model, "README.md", "---\nlicense: apache-2.0\n---\nNot for text-ranking.")
    assert task_of(model) is Task.EMBED


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("1_LogitScore/config.json", {"true_token_id": 1, "false_token_id": 2}),
        ("modules.json", [{"type": "sentence_transformers.cross_encoder.modules.LogitScore"}]),
        ("config_sentence_transformers.json", {"model_type": "CrossEncoder"}),
        (TEMPLATE_FILE, {"pair": "{query}", "after": "."}),
    ],
)
def test_files_of_cross_encoders_tell(model: Path, name: str, content: object) -> None:
    assert task_of(put(model, name, content)) is Task.RERANK


def test_a_configuration_for_vllm_decides_the_task(model: Path) -> None:
    assert task_of(changed(model, classifier_from_token=["no", "yes"])) is Task.RERANK


def test_a_converted_checkpoint_decides_the_task(model: Path) -> None:
    converted = changed(model, architectures=["Qwen3ForSequenceClassification"])
    assert task_of(converted) is Task.RERANK
    with pytest.raises(ModelError, match="no embeddings"):
        task_of(converted, wanted=Task.EMBED)


def test_an_embedding_model_is_one_whatever_it_is_called(model: Path) -> None:
    put(model, "1_Pooling/config.json", {"pooling_mode_lasttoken": True})
    assert task_of(model, "reranker") is Task.EMBED


def test_what_the_settings_say_goes_before_names_and_files(model: Path) -> None:
    assert task_of(model, wanted=Task.RERANK) is Task.RERANK
    assert task_of(model, "reranker", wanted=Task.EMBED) is Task.EMBED


def test_a_pair_is_written_as_qwen3_reranker_has_it() -> None:
    prompts = QWEN3_RERANKER.prompts
    assert pair_prompt(prompts, "what is a {query}?", None) == (
        "<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n"
        "<Query>: what is a {query}?\n<Document>: "
    )
    assert pair_prompt(prompts, "{instruction}", "Rank").startswith(
        "<Instruct>: Rank\n<Query>: {instruction}\n"
    )


def test_a_reranker_is_described_with_the_width_of_a_score_and_the_tokens_around_a_pair(
    model: Path,
) -> None:
    template = {"before": "the", "pair": "{query} ", "after": "sea", "instruction": "rank"}
    put(model, TEMPLATE_FILE, template)
    found = describe(model)
    assert (found.identity.task, found.identity.width) == (Task.RERANK, SCORE_WIDTH)
    assert found.identity.prompts == {"pair": "{query} ", "instruction": "rank"}
    assert found.template.before
    assert found.template.after


def test_another_template_is_another_revision(model: Path) -> None:
    put(model, "model.safetensors", "")
    template = {"before": "the", "pair": "{query} ", "after": "sea"}
    revisions = set()
    for after in ("sea", "the"):
        put(model, TEMPLATE_FILE, template | {"after": after})
        revisions.add(template_of(model))
    assert len(revisions) == 2


@pytest.mark.parametrize(
    "wrong", [{"pair": "no place"}, {"pair": "{query}"}, {"pair": 1, "after": "x"}]
)
def test_an_invalid_template_is_refused_by_name(model: Path, wrong: object) -> None:
    with pytest.raises(ModelError, match=TEMPLATE_FILE):
        template_of(put(model, TEMPLATE_FILE, wrong))


@pytest.mark.parametrize(
    ("kind", "before", "between", "after"),
    [("wordpiece", "[CLS]", "[SEP]", "[SEP]"), ("unigram", "<s>", "</s></s>", "</s>")],
)
def test_a_classifier_with_one_label_is_a_reranker_of_two_texts(
    tmp_path: Path, kind: Kind, before: str, between: str, after: str
) -> None:
    """A pair has the tokens that the tokenizer itself makes of two texts."""
    described = classifier_model(tmp_path, kind)
    assert described.identity.task is Task.RERANK
    assert template_of(described.directory) == PairTemplate(before, "{query}" + between, after, "")
    prompt = pair_prompt(described.identity.prompts, "the river", None)
    (pair,) = Encoder(described).encode(["the sea"], prompt=prompt, truncate=Truncation.NONE)
    both = Tokenizer.from_file(str(described.tokenizer_file)).encode("the river", "the sea")
    assert pair.ids.tolist() == both.ids
    scoring = scoring_of(described.directory)
    assert scoring == Scoring(causal=False, segments=kind == "wordpiece", answers=None)


def test_a_classifier_of_an_unknown_family_needs_a_template(model: Path) -> None:
    names = {"architectures": ["ModernBertForSequenceClassification"], "id2label": {"0": "x"}}
    changed(model, model_type="modernbert", **names)
    with pytest.raises(
        ModelError, match=r"how modernbert models read .* write it to reranker.json"
    ):
        describe(model)


def test_a_classifier_with_several_labels_is_none(model: Path) -> None:
    labels = {"0": "good", "1": "bad"}
    changed(model, architectures=["BertForSequenceClassification"], id2label=labels)
    assert task_of(model) is Task.EMBED


def test_a_document_of_end_of_text_tokens_takes_none_of_the_template_with_it() -> None:
    """Else it would be another pair, with a score that nobody can foresee."""
    described = describe(resolve("builtin-reranker", progress=False).directory)
    encoder = Encoder(described)
    prompt = pair_prompt(described.identity.prompts, "the river", None)
    texts = ["x", "<|endoftext|>", "x<|endoftext|><|endoftext|>"]
    found = encoder.encode(texts, prompt=prompt, truncate=Truncation.END)
    one, end, ends = (each.ids.tolist() for each in found)
    (token,) = described.template.after
    assert end == [*one[:-2], token, token]
    assert ends == [*one, token, token]
