"""Model files of any content are served, or refused in one sentence."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedfleet.engines.loading import EngineOptions, load_engine
from embedfleet.models.description import describe
from embedfleet.models.encoding.encoder import Encoder
from embedfleet.models.files import Snapshot
from embedfleet.vocabulary import ModelError, Truncation
from tests.checkpoints import Geometry, random_weights, write_checkpoint
from tests.small_tokenizer import tokenizer

TINY = Geometry(64, 1, 2, 1, 32, 64, tokenizer().get_vocab_size(), 256)
MODULES = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
FILES: dict[str, Any] = {
    "config.json": {"rope_scaling": None, "layer_types": ["full_attention"], "is_causal": True},
    "modules.json": [
        {"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in MODULES
    ],
    "1_Pooling/config.json": {"pooling_mode_lasttoken": True, "include_prompt": True},
    "sentence_bert_config.json": {"max_seq_length": 200, "do_lower_case": False},
    "tokenizer_config.json": {"model_max_length": 2048, "pad_token": {"content": "<|endoftext|>"}},
    "special_tokens_map.json": {"pad_token": "<|endoftext|>"},
    "generation_config.json": {"eos_token_id": 1},
    "config_sentence_transformers.json": {"prompts": {"query": "q: "}, "default_prompt_name": None},
    "tokenizer.json": {},
}
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 1.5, 1e308, "", "x", "a" * 10_000, "\0"),
    *("NaN", "..", "../..", "/etc", "naïve\n", [], [1], [[]], [None], {}, {"a": 1}, {"": []}, [{}]),
)
BYTES = (
    *(b"", b"{", b"null", b"[]", b"{}", b"1", b'"x"', b"\xff\xfe", b"\xef\xbb\xbf{}", b"\0"),
    *(b"[" * 100_000, b'{"a":' * 100_000, b'{"vocab_size": 1e999}', b'{"a": NaN}'),
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_checkpoint(tmp_path_factory.mktemp("any"), random_weights(TINY), TINY)
    tokenizer().save(str(directory / "tokenizer.json"))
    for name in ("config.json", "tokenizer.json"):
        FILES[name] = json.loads((directory / name).read_text("utf-8")) | FILES[name]
    for name, content in FILES.items():
        (directory / name).write_text(json.dumps(content), encoding="utf-8")
    return directory


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Of all values in a file, by keys from the top; of a long list the first few."""
    yield at
    inside = value.items() if isinstance(value, dict) else enumerate(value[:4])
    for key, each in inside:
        if isinstance(each, dict | list):
            yield from places(each, (*at, key))
        else:
            yield (*at, key)


def changed(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    content = copy.deepcopy(content)
    inside = content
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    return content


def serve(directory: Path) -> None:
    """Everything that reads a model's files, and a text. Raises ModelError."""
    Snapshot.of(directory)
    description = describe(directory)
    (encoded,) = Encoder(description).encode(["the sea"], prompt="", truncate=Truncation.END)
    engine = load_engine(
        directory, EngineOptions(kernels="numpy", max_tokens=description.identity.max_tokens)
    )
    assert engine.prepare([encoded.ids])().shape == (1, engine.info.width)


def refusal(directory: Path) -> str | None:
    """What is said where the model is refused; None where it is served."""
    try:
        serve(directory)
    except ModelError as error:
        return error.message
    return None


def is_served_or_refused(directory: Path, name: str, content: bytes) -> None:
    path = directory / name
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        said = refusal(directory)
    finally:
        path.write_bytes(before)
    assert said is None or ("\n" not in said and len(said) < 700 and str(directory) in said)


def test_as_they_are_they_are_served(directory: Path) -> None:
    serve(directory)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", BYTES, ids=lambda content: repr(content[:12]))
def test_bytes_of_any_kind_are_served_or_refused_in_one_sentence(
    directory: Path, name: str, content: bytes
) -> None:
    is_served_or_refused(directory, name, content)


@given(data=st.data())
@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_value_anywhere_is_served_or_refused_in_one_sentence(
    directory: Path, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(FILES)))
    content = FILES[name]
    place = data.draw(st.sampled_from(list(places(content))))
    value = data.draw(st.sampled_from(ODD))
    is_served_or_refused(directory, name, json.dumps(changed(content, place, value)).encode())


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_every_odd_value_at_every_place_is_served_or_refused_in_one_sentence(
    directory: Path, name: str
) -> None:
    for place in places(FILES[name]):
        for value in ODD:
            content = json.dumps(changed(FILES[name], place, value)).encode()
            is_served_or_refused(directory, name, content)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_a_folder_and_a_circular_link_are_reported(
    directory: Path, name: str
) -> None:
    path = directory / name
    before = path.read_bytes()
    path.unlink()
    path.mkdir()
    folder = refusal(directory)
    path.rmdir()
    path.symlink_to(path.name)
    link = refusal(directory)
    path.unlink()
    for said in (folder, link):
        assert said is None or name in said
    path.write_bytes(before)
