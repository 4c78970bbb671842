"""Every example runs against a real service and prints what it promises."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from tests.pages import blocks
from tests.real_texts import DATA
from tests.service import Service, started

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def base_url(service: Service) -> str:
    return service.base_url


def printed(command: list[str], base_url: str) -> list[str]:
    """Run an example; give the lines that it printed."""
    done = subprocess.run(
        command,
        env=os.environ | {"EMBEDFLEET_URL": base_url, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def python(example: str, base_url: str) -> list[str]:
    return printed([sys.executable, "-W", "error", str(EXAMPLES / example)], base_url)


def test_passages_are_ranked_with_openai_s_client(base_url: str) -> None:
    question, *ranking = python("01-openai-client/rank.py", base_url)
    assert question.endswith("?")
    scores = [float(line.split()[0]) for line in ranking]
    assert scores == sorted(scores, reverse=True)
    assert ranking[0].split()[1] == "df:"
    assert len(ranking) == 6


def test_the_article_s_snippet_runs_unchanged_but_for_the_port(
    base_url: str, tmp_path: Path
) -> None:
    snippet = (EXAMPLES / "01-openai-client" / "article.py").read_text(encoding="utf-8")
    with OpenAI(base_url=base_url, api_key="none") as client:
        model = client.models.list().data[0].id
    assert "http://localhost:8080/v1" in snippet
    # A service for tests has a port of its own, and may not serve a model by the article's name.
    changed = snippet.replace("http://localhost:8080/v1", base_url)
    copy = tmp_path / "article.py"
    copy.write_text(changed.replace("Qwen3-Embedding-4B", model), encoding="utf-8")
    (line,) = printed([sys.executable, str(copy)], base_url)
    assert re.fullmatch(r"\[-?[\d.e-]+(, -?[\d.e-]+){4}\]", line)


def test_an_instruction_finds_the_document_that_the_bare_question_does_not(base_url: str) -> None:
    _, plain, query, instruction = python("02-query-and-document/search.py", base_url)
    tokens = [int(re.findall(r"(\d+) tokens", line)[0]) for line in (plain, query, instruction)]
    assert tokens[0] < min(tokens[1:])
    assert "tokens: primes" in plain
    assert "tokens: twin primes" in instruction
    assert lead(plain) < lead(query) < lead(instruction)


def lead(line: str) -> float:
    """By how much the sentence that answers is before the other one."""
    found = {name: float(score) for name, score in re.findall(r"([a-z ]+) (0\.\d+)", line)}
    return found[" twin primes"] - found[" primes"]


def test_shorter_vectors_find_the_same_passage(base_url: str) -> None:
    lines = python("03-dimensions/shorter.py", base_url)
    dimensions = [int(line.split()[0]) for line in lines]
    assert dimensions == sorted(dimensions, reverse=True)
    assert dimensions[-1] == 32
    assert all(": grep" in line for line in lines[:2])


def test_curl_gets_floats_base64_and_errors(base_url: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    lines = printed(["sh", str(EXAMPLES / "04-curl" / "embed.sh")], base_url)
    answers = [line for line in lines if line.startswith("{")]
    assert len(answers) == 4
    assert '"embedding":[' in answers[0]
    assert '"embedding":"' in answers[1]
    assert '"embedding":[' in answers[2]
    assert answers[3].startswith('{"error":{"message":"`input[1]` is empty')


def test_a_long_document_is_counted_and_cut_into_pieces_that_fit(base_url: str) -> None:
    total, *pieces, usage = python("05-counting-tokens/split.py", base_url)
    limit = int(total.rpartition(" ")[2].replace(",", ""))
    sizes = [int(re.findall(r"(\d+) tokens", line)[0]) for line in pieces]
    assert len(sizes) > 1
    assert max(sizes) < limit
    assert f"usage: {sum(sizes) + len(sizes):,} tokens" in usage


@pytest.mark.parametrize(
    "example",
    [
        *("01-openai-client/rank.py", "02-query-and-document/search.py"),
        *("03-dimensions/shorter.py", "05-counting-tokens/split.py", "04-curl/embed.sh"),
    ],
)
def test_where_no_service_is_an_example_says_so_in_one_line(example: str) -> None:
    url = "http://127.0.0.1:1/v1"
    program = ["sh"] if example.endswith(".sh") else [sys.executable]
    done = subprocess.run(
        [*program, str(EXAMPLES / example)],
        env=os.environ | {"EMBEDFLEET_URL": url},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    assert f"no service answers at {url}: start one with `make serve`" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def reranking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a service with both built-in models."""
    log = tmp_path_factory.mktemp("log") / "service.log"
    words = ["serve", "builtin", "builtin-reranker", "--replicas", "1"]
    with started("", log=log, command=words) as service:
        yield service.base_url


def test_what_is_retrieved_is_reranked(reranking: str) -> None:
    question, *ranking = python("07-rerank/search.py", reranking)
    assert question.endswith("?")
    scores = [float(line.split()[0]) for line in ranking]
    assert len(scores) == 2
    assert scores == sorted(scores, reverse=True)
    assert ranking[0].endswith("disk space usage.")


@pytest.mark.parametrize("page", ["README.md", "docs/client.md"])
def test_what_a_page_shows_of_python_runs_as_it_is_written(
    page: str, reranking: str, tmp_path: Path
) -> None:
    program = tmp_path / "page.py"
    code = "\n".join(
        block.text for block in blocks(EXAMPLES.parent / page) if block.language == "python"
    )
    assert "http://127.0.0.1:8080" in code
    program.write_text(
        code.replace("http://127.0.0.1:8080", reranking.removesuffix("/v1")), "utf-8"
    )
    lines = printed([sys.executable, str(program)], reranking)
    if page == "docs/client.md":
        cosines, best, _ = lines
        first, second = map(float, re.findall(r"-?\d+\.\d+", cosines))
        assert first > second
        assert best.endswith("Paris is in France.")


TUTORIAL = (EXAMPLES.parent / "docs" / "rag.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    """Of the tutorial, in order, as words."""
    prose = re.sub(r"(?ms)^```.*?^```$", "", TUTORIAL)
    return [shlex.split(line) for line in re.findall(r"(?m)^    (\S.*)$", prose)]


@pytest.fixture
def services() -> Iterator[contextlib.ExitStack]:
    """Stops what a test starts."""
    with contextlib.ExitStack() as stack:
        yield stack


def test_the_tutorial_of_retrieval_runs_as_it_is_written(
    service: Service, services: contextlib.ExitStack, tmp_path: Path
) -> None:
    (tmp_path / "examples").symlink_to(EXAMPLES)
    programs = {
        ".venv/bin/python": [sys.executable, "-W", "error"],
        ".venv/bin/embedfleet": [sys.executable, "-m", "embedfleet"],
    }
    url, answers = service.base_url, []
    for program, *arguments in commands():
        if [program, *arguments] == ["make", "serve"]:
            continue  # which runs
        if arguments[0] == "serve":
            words = [*arguments, "--replicas", "1"]
            another = started("", log=tmp_path / "reranking.log", command=words)
            url = services.enter_context(another).base_url
            continue
        words = [each.replace("http://127.0.0.1:8080", service.root) for each in arguments]
        done = subprocess.run(
            [*programs[program], *words],
            cwd=tmp_path,
            env=os.environ | {"EMBEDFLEET_URL": url, "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        answers.append(done.stdout)
    passages, _, copied, foreign, reranked, prompt = answers
    assert int(passages.split()[0]) > 2000
    (shown,) = re.findall(r"(?ms)^```text\n(.*?)^```$", TUTORIAL)
    assert without_scores(shown)[0] == without_scores(copied)[0]
    assert similarity(foreign) < similarity(copied) - 0.05
    assert 0 < similarity(reranked) <= 1
    assert without_scores(reranked)[0].endswith(" () says:")
    assert "How do I copy a whole directory tree?" in prompt
    assert len(re.findall(r"(?m)^\[[\w.]+#\d+\]$", prompt)) == 3


def without_scores(answer: str) -> list[str]:
    return re.sub(r"\(-?\d\.\d+\)", "()", answer).splitlines()


def similarity(answer: str) -> float:
    (found, *_) = re.findall(r"\((-?\d\.\d+)\)", answer)
    return float(found)


@pytest.mark.parametrize(
    ("kind", "package"),
    [("sqlite-vec", "sqlite_vec"), ("faiss", "faiss"), ("qdrant", "qdrant_client")],
)
def test_a_corpus_is_indexed_after_a_kill_and_searched(
    kind: str, package: str, base_url: str, tmp_path: Path
) -> None:
    pytest.importorskip(package, reason=f"{kind} is not installed")
    if kind == "sqlite-vec" and not hasattr(sqlite3.Connection, "enable_load_extension"):
        pytest.importorskip("pysqlite3", reason="this Python's sqlite3 loads no extensions")
    archive = DATA / "python_docs_en_zh" / "python-docs-zh-cn-3.13.tar.xz"
    if not archive.exists():
        pytest.skip(f"no {archive}: set EMBEDFLEET_DATA to the folder of real texts")
    example = "08-index-a-corpus"
    whole, corpus = tmp_path / "whole.jsonl", tmp_path / "corpus.jsonl"
    programs = [sys.executable, str(EXAMPLES / example / "corpus.py"), str(archive), str(whole)]
    assert printed(programs, base_url) == []
    lines = whole.read_text(encoding="utf-8").splitlines(keepends=True)
    assert len(lines) > 100_000
    corpus.write_text("".join(lines[:1500]), encoding="utf-8")
    out = tmp_path / "vectors"
    bulk = [sys.executable, "-m", "embedfleet", "bulk", str(corpus), str(out)]
    bulk += ["--id", "id", "--carry", "page,text", "--format", "jsonl", "--url", base_url]
    bulk += ["--fragment-rows", "200"]
    first = subprocess.Popen(bulk, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while first.poll() is None and not list(out.glob("*-00001.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    first.kill()
    first.wait()
    subprocess.run(bulk, check=True, timeout=300, stdout=subprocess.DEVNULL)
    index = [sys.executable, str(EXAMPLES / example / "index.py")]
    target = str(tmp_path / "index.db")
    assert printed([*index, "fill", kind, str(out), target], base_url) == []
    row = json.loads(lines[700])
    best, *_ = printed([*index, "search", kind, target, row["text"]], base_url)
    assert row["id"] in best
