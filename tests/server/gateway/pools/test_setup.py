"""What settings become for replicas that are not embedfleet's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from embedfleet.fleet.providers.engine_commands import command, words
from embedfleet.models.description import ModelDescription, describe
from embedfleet.models.source import BUILTIN_DIRECTORY
from embedfleet.runtime.settings import LaunchSettings, Pool, Settings
from embedfleet.server.gateway.pools.setup import launch, local_model, replica_client
from embedfleet.server.gateway.replicas.third_party.http import read_key
from embedfleet.server.gateway.replicas.upstream import Upstream
from embedfleet.transport.asgi import Request, Response, Router
from embedfleet.transport.serving import Listener, bind, serving
from embedfleet.vocabulary import Pooling, ReplicaError, SettingError, UnfitReplicaError
from tests.small_tokenizer import write_model

CLS = '{"pooling_mode_cls_token": true}'
MEAN = '{"pooling_mode_mean_tokens": true}'
DENSE = """[
  {"type": "sentence_transformers.models.Transformer", "path": ""},
  {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
  {"type": "sentence_transformers.models.Dense", "path": "2_Dense"},
  {"type": "sentence_transformers.models.Normalize", "path": "3_Normalize"}
]"""


@pytest.fixture
def small(tmp_path: Path) -> ModelDescription:
    return describe(write_model(tmp_path / "small"))


def test_a_gateway_may_tokenise_for_a_built_in_model_elsewhere() -> None:
    """As `embedfleet gateway --model builtin --replica URL` asks for."""
    model = local_model(Pool(tokenizer_dir=Path("builtin")), None)
    assert model is not None
    assert (model.identity.name, model.directory) == ("builtin", BUILTIN_DIRECTORY)


def test_an_engine_is_started_for_the_model_its_limit_and_its_name(
    small: ModelDescription,
) -> None:
    settings = Settings(launch=LaunchSettings(gpus=2, memory_share=0.5, fp8=True))
    made = launch(settings, Pool(engine="sglang"), small, ("embeddings", "other"))
    assert (made.model, made.name) == (str(small.directory), "embeddings")
    assert (made.gpus, made.memory_share, made.fp8) == (2, 0.5, True)
    assert made.max_tokens == small.identity.max_tokens


def test_llama_cpp_is_started_with_the_one_gguf_file_of_the_directory(
    small: ModelDescription,
) -> None:
    """With none or several nobody can know which is meant."""
    pool = Pool(engine="llamacpp")
    with pytest.raises(SettingError, match="holds 0 GGUF files"):
        launch(Settings(), pool, small, ("m",))
    file = small.directory / "model.gguf"
    file.touch()
    assert launch(Settings(), pool, small, ("m",)).model == str(file)
    (small.directory / "another.gguf").touch()
    with pytest.raises(SettingError, match="holds 2 GGUF files"):
        launch(Settings(), pool, small, ("m",))


def test_a_key_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("sk-secret\n")
    assert read_key(path) == "sk-secret"
    assert read_key(None) == ""


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines", "schlüssel".encode(), b"\xff"])
def test_a_file_that_holds_no_key_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(SettingError, match=f"replica_key_file: {path}"):
        read_key(path)
    with pytest.raises(SettingError, match="can't be read"):
        read_key(tmp_path / "none")


async def test_a_key_is_shown_nowhere(tmp_path: Path) -> None:
    """Not in a representation either, which tracebacks may print."""
    own = Upstream.open(connect_timeout_s=30, probe_timeout_s=30)
    path = tmp_path / "key"
    path.write_text("sk-secret")
    client = replica_client(own, Pool(replica_key_file=path), None)
    assert "sk-secret" not in repr(client._http)
    assert "sk-secret" not in repr(client._own)
    own.close()


async def test_engines_of_others_give_no_tokenizer_away(
    small: ModelDescription, tmp_path: Path
) -> None:
    own = Upstream.open(connect_timeout_s=30, probe_timeout_s=30)
    client = replica_client(own, Pool(), small)
    assert client._third_party is not None
    with pytest.raises(UnfitReplicaError, match="--model DIR"):
        await client._third_party.fetch_files("http://10.0.0.1:1", tmp_path)
    own.close()


async def test_a_key_does_not_follow_to_where_an_address_sends_it(tmp_path: Path) -> None:
    """Who answers there may not be who was meant."""
    asked: list[str | None] = []

    async def elsewhere(request: Request) -> Response:
        asked.append(request.header(b"authorization"))
        return Response(b"{}")

    target = Listener(Router({("GET", "/v1/replica"): elsewhere}), bind("127.0.0.1", 0))

    async def moved(_: Request) -> Response:
        return Response(b"", 307, headers=[(b"location", f"{target.url}/v1/replica".encode())])

    address = Listener(Router({("GET", "/v1/replica"): moved}), bind("127.0.0.1", 0))
    path = tmp_path / "key"
    path.write_text("sk-secret")
    async with serving([target, address], stop_timeout_s=1):
        own = Upstream.open(connect_timeout_s=30, probe_timeout_s=30)
        client = replica_client(own, Pool(replica_key_file=path), None)
        for describe_it in (client.describe, client._own.describe):
            with pytest.raises(ReplicaError):
                await describe_it(address.url)
        own.close()
    assert asked == []


@pytest.mark.parametrize(
    ("config", "files", "pooling"),
    [
        ({"model_type": "qwen3"}, {}, Pooling.LAST),
        ({"model_type": "bert"}, {}, Pooling.MEAN),
        ({"model_type": "bert"}, {"1_Pooling/config.json": CLS}, Pooling.FIRST),
        ({"model_type": "xlm-roberta"}, {"1_Pooling/config.json": CLS}, Pooling.FIRST),
        ({"model_type": "gemma3_text"}, {}, None),
        ({"model_type": "gemma3_text"}, {"modules.json": DENSE}, None),
        ({"model_type": "nomic_bert"}, {"1_Pooling/config.json": MEAN}, Pooling.MEAN),
    ],
)
def test_an_engine_is_started_with_the_models_pooling_or_reads_it_itself(
    small: ModelDescription, config: dict[str, str], files: dict[str, str], pooling: Pooling | None
) -> None:
    """A wrong one would be another vector for every text, and no error."""
    described = json.loads((small.directory / "config.json").read_text())
    (small.directory / "config.json").write_text(json.dumps(described | config))
    for name, content in files.items():
        path = small.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    made = launch(Settings(), Pool(engine="tei"), small, ("m",))
    assert made.pooling is pooling
    given = words(command("tei", made))
    told = {Pooling.LAST: "last-token", Pooling.FIRST: "cls", Pooling.MEAN: "mean"}
    if pooling is None:
        assert "--pooling" not in given
    else:
        assert given[given.index("--pooling") + 1] == told[pooling]
