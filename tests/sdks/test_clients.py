"""Clients made for OpenAI embed, rank and get errors here as they do there.

Each runs as a process in an environment of its own (`make sdks`), against `embedfleet serve`, and
for keys and overload against the same endpoint with vectors made on the spot.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from numpy.typing import NDArray

from embedfleet.transport.access import KeyRing
from embedfleet.transport.access.records import plain
from tests.contract.computed_in_place import answering
from tests.real_texts import DATA
from tests.sdks.busy import BusyAtFirst
from tests.sdks.clients.task import Task
from tests.service import Service

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CLIENTS = Path(__file__).parent / "clients"
PYTHON = ROOT / ".venv-sdks" / "bin" / "python"
KEY = "a-key-of-the-sdk-tests"
TIMEOUT_S = 600.0

NAMES = [
    "with_openai.py",
    "with_openai_async.py",
    "with_langchain.py",
    "with_llama_index.py",
    "with_haystack.py",
    "with_litellm.py",
    "with_openai.mjs",
]

TLDR = {
    "How do I see how much disk space is used?": "Display an overview of the filesystem disk "
    "space usage.",
    "find lines that match a pattern": "Find patterns in files using regexes.",
    "convert a video to another format": "Video conversion tool.",
    "make a key pair for logins": "Generate SSH keys used for authentication and password-less "
    "logins.",
}
"""Descriptions of commands from tldr-pages (CC BY 4.0), where there are no other texts."""


@dataclass(frozen=True)
class Texts:
    """Questions, and for each the passage of the same place that answers it."""

    questions: list[str]
    passages: list[str]


def real_texts() -> Texts:
    """The first question on every tenth paragraph of XQuAD; examples where it is absent."""
    path = DATA / "xquad" / "xquad.en.json"
    if not path.exists():
        return Texts(list(TLDR), list(TLDR.values()))
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    paragraphs = [each for article in articles for each in article["paragraphs"]][::10]
    return Texts(
        [each["qas"][0]["question"] for each in paragraphs],
        [each["context"] for each in paragraphs],
    )


@dataclass(frozen=True)
class Work:
    """The task of every client, and what must come out."""

    task: Task
    passages: NDArray[np.float32]
    nearest: list[int]
    busy: BusyAtFirst


@pytest.fixture(scope="module")
def work(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Work]:
    texts = real_texts()
    with openai.OpenAI(base_url=service.base_url, api_key="none") as client:
        card = client.models.list().data[0]

        def embed(inputs: list[str], **extra: str) -> NDArray[np.float32]:
            answer = client.embeddings.create(model=card.id, input=inputs, extra_body=extra)
            return np.array([one.embedding for one in answer.data], np.float32)

        passages = embed(texts.passages)
        questions = embed(texts.questions, input_type="query")
    around: list[BusyAtFirst] = []

    def busy(app: Any) -> BusyAtFirst:
        around.append(BusyAtFirst(app))
        return around[0]

    keys = KeyRing(plain([KEY], datetime.now(UTC), "tests"))
    directory = tmp_path_factory.mktemp("model")
    with (
        answering(directory, around=busy) as busy_url,
        answering(directory, access=keys) as guarded_url,
    ):
        task = Task(
            url=service.base_url,
            busy_url=busy_url,
            guarded_url=guarded_url,
            guarded_key=KEY,
            model=card.id,
            small_model="bag-of-tokens",
            prompt="Instruct: Given a web search query, retrieve relevant passages that answer "
            "the query\nQuery:",
            questions=texts.questions,
            passages=texts.passages,
            too_long="to and fro " * int(card.model_dump()["max_tokens"]),
        )
        nearest = (questions @ passages.T).argmax(axis=1).tolist()
        yield Work(task, passages, nearest, around[0])


@pytest.fixture(scope="module", params=NAMES)
def found(request: pytest.FixtureRequest, work: Work) -> dict[str, Any]:
    """What a client did with the task."""
    return ran(CLIENTS / request.param, asdict(work.task))


def ran(script: Path, task: object) -> dict[str, Any]:
    """What a client prints of the task that it reads."""
    done = subprocess.run(
        [runner(script), str(script)],
        input=json.dumps(task),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    answer: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    return answer


def runner(script: Path) -> str:
    """The program that runs a client; skips where it or its packages are missing."""
    if script.suffix == ".mjs":
        node = shutil.which("node")
        if node is None or not (CLIENTS.parent / "node_modules" / "openai").exists():
            pytest.skip("no node, or not its packages: `make sdks` installs them")
        return node
    if not PYTHON.exists():
        pytest.skip("no .venv-sdks: `make sdks` makes it")
    return str(PYTHON)


def environment() -> dict[str, str]:
    """Ours without what libraries would send elsewhere or load from there.

    Hugging Face's client takes "offline" for every address, that of the service tried here too.
    """
    quiet = {
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "HAYSTACK_TELEMETRY_ENABLED": "False",
        "PYTHONIOENCODING": "utf-8",
    }
    return {**os.environ, **quiet}


def test_a_client_gets_the_vectors_that_every_client_gets(
    found: dict[str, Any], work: Work
) -> None:
    vectors = np.array(found["passages"], np.float32)
    assert vectors.shape == work.passages.shape
    # Batches differ from run to run, and with them the last digits of a vector.
    assert (vectors * work.passages).sum(axis=1).min() > 0.998


def test_a_client_finds_the_passages_that_answer(found: dict[str, Any], work: Work) -> None:
    right = list(range(len(work.nearest)))
    assert sum(a == b for a, b in zip(found["nearest"], right, strict=True)) >= 0.8 * len(right)
    agreeing = sum(a == b for a, b in zip(found["nearest"], work.nearest, strict=True))
    assert agreeing >= len(right) - 1  # two passages that are equally near may change places


def test_a_client_gets_short_vectors(found: dict[str, Any]) -> None:
    assert found["short"] == 32


def test_an_unknown_model_is_a_not_found_error(found: dict[str, Any]) -> None:
    assert "NotFoundError" in found["unknown model"]["classes"]
    assert "no-such-model" in found["unknown model"]["message"]


def test_a_text_too_long_is_a_bad_request_error(found: dict[str, Any]) -> None:
    assert "BadRequestError" in found["too long"]["classes"]
    assert "maximum context length" in found["too long"]["message"]


def test_a_wrong_key_is_an_authentication_error(found: dict[str, Any]) -> None:
    assert "AuthenticationError" in found["wrong key"]["classes"]
    assert KEY not in found["wrong key"]["message"]


def test_the_right_key_opens_the_door(found: dict[str, Any]) -> None:
    assert found["right key"] == 1


def test_a_client_tries_again_after_429(found: dict[str, Any], work: Work) -> None:
    assert found["after 429"] == 1
    assert work.busy.refused
