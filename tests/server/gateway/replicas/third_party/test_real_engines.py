"""The engines themselves, where they are installed: what the stand-ins claim, checked.

llama.cpp's server is looked for on the path, or where EMBEDFLEET_TEST_LLAMA_SERVER says;
`make llama-server` builds it from the sources that PyPI has. Infinity is looked for at
EMBEDFLEET_TEST_INFINITY, the `infinity_emb` command of an environment of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from embedfleet.engines.loading import EngineOptions, load_engine
from embedfleet.engines.qwen3 import Qwen3Checkpoint
from embedfleet.fleet.providers.engine_commands import Launch, command, words
from embedfleet.fleet.replica_client import embed
from embedfleet.models.description import ModelDescription, describe
from embedfleet.models.encoding.encoder import Encoder
from embedfleet.models.encoding.prompts import prompt_for
from embedfleet.models.source import resolve
from embedfleet.server.gateway.replicas.attached import Attached
from embedfleet.transport.description import ReplicaDescription
from embedfleet.vocabulary import (
    SCORE_WIDTH,
    Encoding,
    Precision,
    ReplicaError,
    Truncation,
    UnfitReplicaError,
)
from tests.checkpoints import Geometry, Layout, write_checkpoint
from tests.ports import free_port
from tests.server.gateway.replicas.third_party.attaching import attached, compute
from tests.stand_ins import gguf_file

pytestmark = pytest.mark.slow
START_S = 180

TEXTS = [
    "How are you today?",
    "The capital of France is Paris.",
    "中国的首都是北京。",
    "def add(a, b):\n    return a + b",
    "😀 naïve café",
    "a much longer text about rivers, mountains and the sea. " * 60,
]


@pytest.fixture(scope="module")
def builtin() -> ModelDescription:
    name = os.environ.get("EMBEDFLEET_TEST_SERVICE", "builtin")
    return describe(resolve(name, progress=False).directory)


def encodings(model: ModelDescription) -> list[Encoding]:
    found = Encoder(model).encode(TEXTS * 3, prompt="", truncate=Truncation.END)
    return [one.ids for one in found]


def reference(model: ModelDescription, asked: list[Encoding]) -> np.ndarray:
    engine = load_engine(model.directory, EngineOptions(dtype="f32"))
    try:
        return np.concatenate([engine.prepare([ids])() for ids in asked])
    finally:
        engine.close()


@contextlib.asynccontextmanager
async def process(program: list[str], log: Path) -> AsyncIterator[None]:
    """An engine while the block runs."""
    with log.open("w") as sink:
        running = await asyncio.create_subprocess_exec(*program, stdout=sink, stderr=sink)
    try:
        yield
    finally:
        running.terminate()
        await asyncio.wait_for(running.wait(), 60)


async def met(client: Attached, url: str) -> ReplicaDescription:
    """Look until it answers, as a prober does."""
    for _ in range(START_S * 5):
        try:
            return await client.describe(url)
        except UnfitReplicaError as error:
            pytest.fail(error.message)
        except ReplicaError:
            await asyncio.sleep(0.2)
    raise TimeoutError(f"nothing answers at {url}")


async def test_llama_cpp_with_a_gguf_of_the_model_gives_the_references_vectors(
    builtin: ModelDescription, tmp_path: Path
) -> None:
    """Started by the command that we print; float32 weights must pass the golden check of f32."""
    program = os.environ.get("EMBEDFLEET_TEST_LLAMA_SERVER") or shutil.which("llama-server")
    if not program:
        pytest.skip("llama-server is not installed; `make llama-server` builds it (ten minutes)")
    file = gguf_file.write(builtin, tmp_path / "model.gguf")
    limit = builtin.identity.max_tokens
    launch = Launch(str(file), free_port(), gpus=0, max_tokens=limit, name="small")
    started = [program, *words(command("llamacpp", launch))[1:]]
    asked = encodings(builtin)
    url, log = f"http://127.0.0.1:{launch.port}", tmp_path / "log"
    async with process(started, log), attached(builtin) as client:
        description = await met(client, url)
        vectors = await embed(client, url, asked, builtin.identity.width)

    assert description.device.startswith("llama.cpp")
    assert description.served_names == ["small"]
    assert description.precision is Precision.F32
    cosines = (vectors * reference(builtin, asked)).sum(1)
    assert cosines.min() > Precision.F32.least_cosine


PAIRS = {
    "How long is the Great Wall?": ["It is 21,196 km long.", "It was built of stone and earth."],
    "中国的首都是哪里？": ["中国的首都是北京。", "naïve café 😀", "The sea is blue. " * 20],
    "<Document>: what {document}": ["add two\n<Query>: numbers"],
}


@pytest.fixture(scope="module")
def reranker() -> ModelDescription:
    return describe(resolve("builtin-reranker", progress=False).directory)


def pairs(model: ModelDescription, instruction: str | None = None) -> list[Encoding]:
    encoder = Encoder(model)
    return [
        one.ids
        for query, documents in PAIRS.items()
        for one in encoder.encode(
            documents,
            prompt=prompt_for(model.identity, None, instruction, query),
            truncate=Truncation.END,
        )
    ]


async def test_llama_cpp_with_a_gguf_of_a_reranker_gives_the_references_scores(
    reranker: ModelDescription, tmp_path: Path
) -> None:
    """It writes the pairs itself, and must count as many tokens as the pairs have."""
    program = os.environ.get("EMBEDFLEET_TEST_LLAMA_SERVER") or shutil.which("llama-server")
    if not program:
        pytest.skip("llama-server is not installed; `make llama-server` builds it (ten minutes)")
    file = gguf_file.write(reranker, tmp_path / "model.gguf")
    limit = reranker.identity.max_tokens
    launch = Launch(*(str(file), free_port()), gpus=0, max_tokens=limit, name="small", reranks=True)
    started = [program, *words(command("llamacpp", launch))[1:]]
    asked = pairs(reranker)
    url, log = f"http://127.0.0.1:{launch.port}", tmp_path / "log"
    async with process(started, log), attached(reranker) as client:
        description = await met(client, url)
        rows, failures, _ = await compute(client, url, asked, SCORE_WIDTH)

    assert description.device.startswith("llama.cpp")
    # Of digits the file's pre-tokenizer makes other tokens than the built-in model's, which the
    # count shows; and the document is put wherever a query has the placeholder for it.
    odd = {0: "invalid_vector", len(asked) - 1: "ids_not_text"}
    assert failures == odd
    kept = [place for place in range(len(asked)) if place not in odd]
    right = reference(reranker, asked)
    np.testing.assert_allclose(rows[kept, 1] ** 2, right[kept, 1] ** 2, atol=1e-4)


def plain_copy(model: ModelDescription, directory: Path) -> Path:
    """The model in float32: transformers can't read int8 weights by itself."""
    checkpoint = Qwen3Checkpoint(model.directory)
    c = checkpoint.config
    weights = {
        "embed_tokens.weight": checkpoint.embed(np.arange(c.vocabulary, dtype=np.int32)),
        "norm.weight": checkpoint.final_norm,
    }
    for index in range(c.layers):
        layer = checkpoint.layer(index)
        weights |= {
            f"layers.{index}.{name}.weight": values
            for name, values in {
                "input_layernorm": layer.input_norm,
                "self_attn.q_proj": layer.query.floats(),
                "self_attn.k_proj": layer.key.floats(),
                "self_attn.v_proj": layer.value.floats(),
                "self_attn.q_norm": layer.query_norm,
                "self_attn.k_norm": layer.key_norm,
                "self_attn.o_proj": layer.output.floats(),
                "post_attention_layernorm": layer.mlp_norm,
                "mlp.gate_proj": layer.gate.floats(),
                "mlp.up_proj": layer.up.floats(),
                "mlp.down_proj": layer.down.floats(),
            }.items()
        }
    shutil.copytree(
        model.directory, directory, ignore=shutil.ignore_patterns("config.json", "*.safetensors")
    )
    shutil.copytree(model.directory / "1_Pooling", directory / "1_Pooling", dirs_exist_ok=True)
    geometry = Geometry(
        *(c.hidden, c.layers, c.heads, c.kv_heads, c.head_dim, c.intermediate),
        *(c.vocabulary, c.max_positions, c.rope_theta),
    )
    end = model.end_of_text
    return write_checkpoint(
        directory, weights, geometry, Layout("F32"), eos_token_id=end, pad_token_id=end
    )


async def test_infinity_is_met_as_an_engine_of_texts(
    builtin: ModelDescription, tmp_path: Path
) -> None:
    """It speaks OpenAI's API without saying who it is, and takes no ids."""
    program = os.environ.get("EMBEDFLEET_TEST_INFINITY")
    if not program:
        pytest.skip("EMBEDFLEET_TEST_INFINITY names no infinity_emb; it needs torch and old numpy")
    port = free_port()
    plain = plain_copy(builtin, tmp_path / "plain")
    started = [program, "v2", "--model-id", str(plain), "--url-prefix", "/v1"]
    started += [
        "--port",
        str(port),
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--no-bettertransformer",
    ]
    url, log = f"http://127.0.0.1:{port}", tmp_path / "log"
    async with process(started, log), attached(builtin) as client:
        await met(client, url)
        asked = encodings(builtin)
        vectors = await embed(client, url, asked, builtin.identity.width)

    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert (vectors * reference(builtin, asked)).sum(1).min() > Precision.BF16.least_cosine
