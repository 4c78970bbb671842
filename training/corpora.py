"""Reads the raw data sets into plain records; decides which of them may be trained on.

Functions under "training" return only what the model may see. SQuAD dev, XQuAD, the CMRC dev and
trial sets, SciFact's test queries and STS-B appear only under "evaluation". Nothing here knows
about tokens, batches or models.
"""

import csv
import io
import json
import lzma
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Paragraph:
    """A passage, the article that it comes from, and the questions that it answers."""

    article: str
    text: str
    questions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Retrieval:
    """A retrieval test: every query has one or more relevant documents, given as indices."""

    queries: list[str]
    documents: list[str]
    relevant: list[set[int]]


@dataclass(frozen=True)
class Similarity:
    """Sentence pairs with a human similarity score from 0 to 5."""

    left: list[str] = field(default_factory=list)
    right: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)


def data_directory() -> Path:
    """Where the raw data lies: $EMBEDFLEET_DATA, or ../shared/data beside the checkout."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("EMBEDFLEET_DATA", default))


def _read_text(path: Path) -> str:
    if path.suffix == ".xz":
        with lzma.open(path, "rt", encoding="utf-8") as stream:
            return stream.read()
    return path.read_text(encoding="utf-8")


def _squad_layout(name: str) -> list[Paragraph]:
    """The layout that SQuAD, XQuAD and CMRC share."""
    articles: list[dict[str, Any]] = json.loads(_read_text(data_directory() / name))["data"]
    return [
        Paragraph(
            article=article.get("title", ""),
            text=paragraph["context"],
            questions=tuple(qa["question"] for qa in paragraph["qas"]),
        )
        for article in articles
        for paragraph in article["paragraphs"]
    ]


# -- training ---------------------------------------------------------------------------------


@cache
def squad_train() -> list[Paragraph]:
    return _squad_layout("squad_v1.1/train.json.xz")


@cache
def cmrc_train() -> list[Paragraph]:
    return _squad_layout("cmrc2018/train.json.xz")


@cache
def scifact_abstracts() -> dict[str, tuple[str, str]]:
    """Document id -> (title, abstract). The abstracts are the corpus of the test as well."""
    lines = _read_text(data_directory() / "scifact/corpus.jsonl.xz").splitlines()
    rows = (json.loads(line) for line in lines)
    return {row["_id"]: (row["title"], row["text"]) for row in rows}


def _scifact_pairs(split: str) -> Iterator[tuple[str, str]]:
    """(claim, document id) for each judgement of the split."""
    folder = data_directory() / "scifact"
    lines = (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    claims = {row["_id"]: row["text"] for row in map(json.loads, lines)}
    with (folder / f"qrels_{split}.tsv").open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream, delimiter="\t"):
            if int(row["score"]) > 0:
                yield claims[row["query-id"]], row["corpus-id"]


def scifact_train() -> list[tuple[str, str]]:
    """(claim, title and abstract) pairs of the training judgements."""
    abstracts = scifact_abstracts()
    return [(claim, " ".join(abstracts[doc])) for claim, doc in _scifact_pairs("train")]


def _unquote(block: str) -> str:
    joined = "".join(re.findall(r'"(.*)"', block))
    return joined.replace('\\"', '"').replace("\\n", " ").replace("\\\\", "\\")


def _plain(text: str) -> str:
    """Strips reStructuredText markup: roles, targets, emphasis and link addresses."""
    text = re.sub(r":[\w:+-]+:`[!~]?([^`<]*?)\s*(?:<[^`>]*>)?`", r"\1", text)
    text = re.sub(r"`([^`<]*?)\s*<[^`>]*>`_*", r"\1", text)
    return re.sub(r"\s+", " ", re.sub(r"`{1,2}_?|\*\*|\\ ", " ", text)).strip()


@cache
def python_docs() -> list[tuple[str, str]]:
    """(English, Chinese) paragraphs of the Python documentation."""
    pattern = re.compile(r'msgid ((?:".*"\n?)+)msgstr ((?:".*"\n?)+)')
    path = data_directory() / "python_docs_en_zh/python-docs-zh-cn-3.13.tar.xz"
    pairs: dict[tuple[str, str], None] = {}
    with tarfile.open(path) as archive:
        for entry in archive:
            stream = archive.extractfile(entry) if entry.name.endswith(".po") else None
            if stream is None:
                continue
            for match in pattern.finditer(stream.read().decode("utf-8")):
                english, chinese = (_plain(_unquote(block)) for block in match.groups())
                if english and re.search(r"[\u4e00-\u9fff]", chinese):
                    pairs[english, chinese] = None
    return list(pairs)


@cache
def tatoeba() -> list[tuple[str, str]]:
    """(English, Chinese) sentences."""
    stem = data_directory() / "tatoeba"
    english = (stem / "tatoeba.cmn-eng.eng").read_text(encoding="utf-8").splitlines()
    chinese = (stem / "tatoeba.cmn-eng.cmn").read_text(encoding="utf-8").splitlines()
    return list(zip(english, chinese, strict=True))


@dataclass(frozen=True)
class Page:
    """A tldr page in one language: what the command is for, and its examples."""

    summary: str
    examples: tuple[tuple[str, str], ...]


def _tldr_page(text: str) -> Page:
    summary = " ".join(line[2:] for line in text.splitlines() if line.startswith("> "))
    summary = re.sub(r"[^.。]*<https?://[^>]*>[.。]?", "", summary).replace("`", "").strip()
    examples = re.findall(r"^- (.+?)[:：]?\n\n`(.+)`", text, flags=re.MULTILINE)
    return Page(
        summary=summary,
        examples=tuple(
            (description.replace("`", ""), re.sub(r"\{\{|\}\}", "", command))
            for description, command in examples
        ),
    )


@cache
def tldr() -> dict[str, dict[str, Page]]:
    """Language ("en", "zh") -> platform/command -> page."""
    pages: dict[str, dict[str, Page]] = {"en": {}, "zh": {}}
    with tarfile.open(data_directory() / "tldr/tldr-pages-en-zh.tar.gz") as archive:
        for entry in archive:
            stream = archive.extractfile(entry) if entry.name.endswith(".md") else None
            if stream is None or len(Path(entry.name).parts) < 3:  # the archive's own notes
                continue
            folder, platform, command = Path(entry.name).parts[-3:]
            language = "zh" if folder.endswith("zh") else "en"
            text = io.TextIOWrapper(stream, encoding="utf-8").read()
            pages[language][f"{platform}/{command}"] = _tldr_page(text)
    return pages


# -- evaluation: never trained on -------------------------------------------------------------


def _retrieval(questions: list[Paragraph], documents: list[Paragraph]) -> Retrieval:
    """Every distinct paragraph once; a question is answered by the paragraph at its place."""
    index: dict[str, int] = {}
    for paragraph in documents:
        index.setdefault(paragraph.text, len(index))
    queries: list[str] = []
    relevant: list[set[int]] = []
    for source, target in zip(questions, documents, strict=True):
        queries.extend(source.questions)
        relevant.extend({index[target.text]} for _ in source.questions)
    return Retrieval(queries, list(index), relevant)


def squad_dev() -> Retrieval:
    paragraphs = _squad_layout("squad_v1.1/dev.json")
    return _retrieval(paragraphs, paragraphs)


def cmrc_dev() -> Retrieval:
    paragraphs = _squad_layout("cmrc2018/dev.json")
    return _retrieval(paragraphs, paragraphs)


def xquad(queries: str, documents: str) -> Retrieval:
    """Questions in one language over paragraphs in another (or the same) one."""
    names = (f"xquad/xquad.{language}.json" for language in (queries, documents))
    return _retrieval(*map(_squad_layout, names))


def scifact_test() -> Retrieval:
    abstracts = scifact_abstracts()
    index = {identifier: position for position, identifier in enumerate(abstracts)}
    judged: dict[str, set[int]] = {}
    for claim, document in _scifact_pairs("test"):
        judged.setdefault(claim, set()).add(index[document])
    documents = [" ".join(pair) for pair in abstracts.values()]
    return Retrieval(list(judged), documents, list(judged.values()))


def stsb_test(language: str) -> Similarity:
    path = data_directory() / f"stsb_multi_mt/stsb-{language}-test.csv"
    result = Similarity()
    with path.open(encoding="utf-8", newline="") as stream:
        for left, right, score in csv.reader(stream):
            result.left.append(left)
            result.right.append(right)
            result.scores.append(float(score))
    return result
