"""The whole service with models of BERT's and XLM-RoBERTa's kind, as a person would start it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedfleet.engines.loading import EngineOptions, load_engine
from embedfleet.models.description import describe
from embedfleet.models.golden.vectors import compare, read
from embedfleet.vocabulary import Precision, Vectors
from tests.encoder_checkpoints import BERT, XLM_ROBERTA, write_encoder
from tests.encoder_tokenizers import KINDS, Kind, tokenizer, write_tokenizer
from tests.service import Service, started

pytestmark = pytest.mark.slow

TEXT = "The river rises in the Mountains and flows to the sea."


@dataclass(frozen=True, slots=True)
class Served:
    directory: Path
    kind: Kind
    service: Service

    def ask(self, path: str = "/v1/embeddings", **body: Any) -> tuple[int, dict[str, Any]]:
        return self.service.post(path, {"model": self.directory.name} | body)

    def vectors(self, **body: Any) -> Vectors:
        status, answer = self.ask(**body)
        assert status == 200, answer
        return np.array([each["embedding"] for each in answer["data"]], np.float32)

    def expected(self, *texts: str) -> Vectors:
        """What NumPy makes of what the tokenizers library does with the file."""
        library = tokenizer(self.kind)
        library.enable_truncation(128)
        ids = [np.array(library.encode(text).ids, np.int32) for text in texts]
        engine = load_engine(self.directory, EngineOptions(device="cpu", kernels="numpy"))
        return engine.prepare(ids)()


def embedfleet(*words: str) -> str:
    command = [sys.executable, "-m", "embedfleet", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=KINDS)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    kind: Kind = request.param
    directory = tmp_path_factory.mktemp("models") / f"small-{kind}"
    geometry, pooling = (BERT, "cls") if kind == "wordpiece" else (XLM_ROBERTA, "mean")
    write_encoder(directory, geometry, pooling=pooling)  # type: ignore[arg-type]
    write_tokenizer(directory, kind, model_max_length=128)
    prompts = {"prompts": {"query": "query: ", "passage": "passage: "}}
    (directory / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    embedfleet("golden", "make", str(directory), "-o", str(directory / "golden.safetensors"))
    with ExitStack() as stack:
        service = stack.enter_context(
            started(
                str(directory),
                log=tmp_path_factory.mktemp("service") / "log",
                arguments=["--replicas", "2", "--dtype", "f32", "--device", "cpu"],
            )
        )
        yield Served(directory, kind, service)


def test_vectors_are_those_of_the_model_s_own_tokens_and_pooling(served: Served) -> None:
    texts = [TEXT, "天空为什么是蓝色的?", "hello", TEXT.upper()]
    found = served.vectors(input=texts)
    np.testing.assert_allclose(found, served.expected(*texts), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_replicas_join_by_the_golden_vectors_and_int8_keeps_to_them(served: Served) -> None:
    served.service.wait_for(["ready", "ready"])
    golden = read(served.directory / "golden.safetensors")
    assert golden.revision == describe(served.directory).identity.revision
    first = {encoding[0] for encoding in golden.encodings}
    assert len(first) == 1  # the bracket, also of the texts that were cut
    engine = load_engine(served.directory, EngineOptions(device="cpu", dtype="auto"))
    verdict = compare(golden, engine.prepare(golden.encodings)(), Precision.INT8)
    assert verdict.passed, verdict.reason


def test_usage_counts_the_brackets(served: Served) -> None:
    _, answer = served.ask(input=[TEXT, "hello"])
    tokens = sum(len(tokenizer(served.kind).encode(text).ids) for text in (TEXT, "hello"))
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


def test_a_text_beyond_the_limit_is_refused_or_cut_inside_the_brackets(served: Served) -> None:
    long = f"{TEXT} " * 30
    status, answer = served.ask(input=long)
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
    assert "maximum context length is 128 tokens" in answer["error"]["message"]
    found = served.vectors(input=long, truncate=True)
    np.testing.assert_allclose(found, served.expected(long), atol=1e-5)


def test_prompts_are_those_of_the_model_s_files_by_input_type(served: Served) -> None:
    for role, prompt in (("query", "query: "), ("document", "passage: ")):
        found = served.vectors(input=TEXT, input_type=role)
        np.testing.assert_allclose(found, served.expected(prompt + TEXT), atol=1e-5)
    again = served.vectors(input=TEXT)  # and not from the cache of another prompt
    np.testing.assert_allclose(again, served.expected(TEXT), atol=1e-5)


def test_ids_with_and_without_brackets_are_one_text(served: Served) -> None:
    whole = tokenizer(served.kind).encode(TEXT).ids
    found = served.vectors(input=[whole, whole[1:-1]])
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_allclose(found[:1], served.expected(TEXT), atol=1e-5)
