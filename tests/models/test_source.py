"""Where models come from: directories, the built-in one, and a hub on a real socket."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedfleet.models.source import BUILT_IN, builtin, explain, local, resolve
from embedfleet.vocabulary import ModelError
from tests.models.fake_hub import COMMIT, REPOSITORY, FakeHub, serving

WEIGHTS = bytes(range(256)) * 400
FILES = {
    "config.json": b'{"model_type": "qwen3"}',
    "tokenizer.json": b'{"model": {}}',
    "model.safetensors": WEIGHTS,
    "1_Pooling/config.json": b"{}",
    "README.md": b"# small",
    "pytorch_model.bin": b"pickled",
    "onnx/model.safetensors": b"the same again",
}
NEEDED = {"config.json", "tokenizer.json", "model.safetensors", "1_Pooling/config.json"}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving(FakeHub(dict(FILES))) as started:
        yield started


def fetch(model: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `embedfleet model fetch` as a person would, with a cache of its own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment = kept | {"HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"} | variables
    return subprocess.run(
        [sys.executable, "-m", "embedfleet", "model", "fetch", model],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_only_the_needed_files_of_a_hub_model_are_fetched(hub: FakeHub, tmp_path: Path) -> None:
    done = fetch(f"{REPOSITORY}@v1", tmp_path, HF_ENDPOINT=hub.endpoint)
    assert done.returncode == 0, done.stderr
    directory = Path(done.stdout.strip())
    assert directory.is_relative_to(tmp_path)
    assert {
        f"{path.relative_to(directory)}" for path in directory.rglob("*") if path.is_file()
    } == (NEEDED)
    assert hub.fetched() == NEEDED
    assert (directory / "model.safetensors").read_bytes() == WEIGHTS
    assert f"{REPOSITORY}@{COMMIT}" in done.stderr


def test_a_broken_download_goes_on_near_the_byte_where_it_broke(
    hub: FakeHub, tmp_path: Path
) -> None:
    hub.files["model.safetensors"] = content = WEIGHTS * 250
    hub.break_at["model.safetensors"] = 22_000_000
    done = fetch(REPOSITORY, tmp_path, HF_ENDPOINT=hub.endpoint)
    assert done.returncode == 0, done.stderr
    assert (Path(done.stdout.strip()) / "model.safetensors").read_bytes() == content
    spans = [span for _, path, span in hub.requests if path.endswith("model.safetensors")]
    assert "bytes=20971520-" in spans  # what came after the last whole 10 MiB comes again


def test_whole_files_are_not_fetched_twice_and_work_offline(hub: FakeHub, tmp_path: Path) -> None:
    first = fetch(REPOSITORY, tmp_path, HF_ENDPOINT=hub.endpoint)
    hub.requests.clear()
    again = fetch(REPOSITORY, tmp_path, HF_ENDPOINT=hub.endpoint)
    offline = fetch(REPOSITORY, tmp_path, HF_HUB_OFFLINE="1")
    assert first.stdout == again.stdout == offline.stdout
    assert hub.fetched() == set()


@pytest.mark.parametrize(
    ("model", "gated", "said"),
    [
        ("org/other", False, "org/other is neither a directory here nor a model at"),
        (f"{REPOSITORY}@v9", False, f"{REPOSITORY} has no revision v9 at"),
        (REPOSITORY, True, f"{REPOSITORY} is gated: accept its terms at"),
    ],
)
def test_a_refusing_hub_is_explained_in_one_line(
    hub: FakeHub, tmp_path: Path, model: str, gated: bool, said: str
) -> None:
    hub.gated = gated
    done = fetch(model, tmp_path, HF_ENDPOINT=hub.endpoint)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"embedfleet: error: {said}")


def test_an_unreachable_hub_is_named_with_the_ways_out(tmp_path: Path) -> None:
    done = fetch(REPOSITORY, tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 2
    assert "can't be fetched from http://127.0.0.1:9" in done.stderr
    assert "`builtin`" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_hub_that_answers_nothing_is_not_waited_for(hub: FakeHub, tmp_path: Path) -> None:
    """Some networks swallow packets: what is in the cache is used then, as without a network."""
    cached = fetch(REPOSITORY, tmp_path / "cached", HF_ENDPOINT=hub.endpoint)
    hub.silent = True
    patience = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_ETAG_TIMEOUT": "1"}
    assert fetch(REPOSITORY, tmp_path / "cached", **patience).stdout == cached.stdout
    done = fetch(REPOSITORY, tmp_path / "empty", **patience)
    assert (done.returncode, "can't be fetched from" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("HF_HUB_ETAG_TIMEOUT", "soon", "(HF_…) is invalid: invalid literal for int"),
        ("HF_TOKEN", "ключ", "'ascii' codec can't encode"),
        ("https_proxy", "http://proxy:port", "Invalid port: 'port'; check the variables"),
        ("all_proxy", "socks5://127.0.0.1:9", "`pip install socksio`"),
    ],
)
def test_an_invalid_variable_of_the_hub_is_reported_in_one_line(
    tmp_path: Path, variable: str, value: str, said: str
) -> None:
    variables = {"HF_ENDPOINT": "http://127.0.0.1:9", variable: value}
    done = fetch(REPOSITORY, tmp_path, **variables)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert said in line


def test_offline_without_a_cached_model_says_so(tmp_path: Path) -> None:
    done = fetch(REPOSITORY, tmp_path, HF_HUB_OFFLINE="1")
    assert done.returncode == 2
    assert "HF_HUB_OFFLINE is set" in done.stderr


def test_a_directory_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    found = resolve(str(tmp_path / "mine"), progress=False)
    assert (found.directory, found.name, found.revision) == (tmp_path / "mine", "mine", None)


@pytest.mark.parametrize("path", ["./absent", "/absent/model", "~/absent", ""])
def test_a_path_that_does_not_exist_is_not_taken_for_a_hub_id(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ModelError, match="there is no directory"):
        resolve(path, progress=False)


@pytest.mark.parametrize("name", ["gpt2", "a/b/c", "org/small@", "org/sm all", "org/modèle"])
def test_what_is_neither_path_nor_hub_id_is_refused_with_examples(name: str) -> None:
    with pytest.raises(ModelError, match="neither a directory here nor a hub id such as"):
        resolve(name, progress=False)


def test_a_file_is_refused_and_its_directory_suggested(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.touch()
    with pytest.raises(ModelError, match=f"is a file.*{tmp_path}"):
        resolve(str(weights), progress=False)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk of .* is full"),
        (RuntimeError("IO error: No space left on device (os error 28)"), "is full"),
        (PermissionError(errno.EACCES, "Permission denied", "/cache/x"), "Permission denied: /cac"),
        (TimeoutError(), r"\(TimeoutError\)"),
    ],
)
def test_local_errors_are_distinguished_from_errors_of_the_hub(error: Exception, said: str) -> None:
    assert re.search(said, explain(error, REPOSITORY, None))


@pytest.mark.parametrize("name", BUILT_IN)
def test_an_installation_without_a_built_in_model_is_reported(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"does not have the model {name}"):
        builtin(tmp_path, name)
    (tmp_path / "config.json").touch()
    assert builtin(tmp_path, name).name == name


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_models_are_found_by_their_names(name: str) -> None:
    found = resolve(name, progress=False)
    assert found.name == name
    assert found.revision is None
    assert (found.directory / "model.safetensors").is_file()


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_tokenizer_may_be_that_of_a_built_in_model(name: str) -> None:
    assert local(Path(name)) == resolve(name, progress=False)


def test_a_directory_goes_before_a_built_in_model_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The setting is a directory, and a path does not keep the `./` that would tell them apart."""
    monkeypatch.chdir(tmp_path)
    Path("builtin").mkdir()
    assert local(Path("builtin")).directory == Path("builtin")


def test_a_missing_directory_is_reported_with_an_alternative() -> None:
    with pytest.raises(ModelError, match=r"`embedfleet model fetch Qwen/Qwen3-Embedding-0\.6B`"):
        local(Path("Qwen/Qwen3-Embedding-0.6B"))
    with pytest.raises(ModelError, match=r'no directory "nothing", and builtin and .* built in'):
        local(Path("nothing"))
