"""Every code block of the pages is of a known kind, and what it holds exists and can be parsed."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import itertools
import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import kubernetes_validate
import pytest
import yaml

from embedfleet.runtime.settings import load
from embedfleet.runtime.settings.options import AREAS
from embedfleet.server.gateway.app import admin_app, public_app
from tests.pages import (
    ROOT,
    Block,
    UsageError,
    blocks,
    headings,
    links,
    pages,
    parsed,
    simple_commands,
)
from tests.transport.access.gateway import running

PAGES = pages()
BLOCKS = [block for page in PAGES for block in blocks(page)]
COMMANDS = [
    (block, words)
    for block in BLOCKS
    for line in block.commands()
    for words in simple_commands(line)
]
PARSED = {"python": ast.parse, "toml": tomllib.loads, "yaml": yaml.safe_load, "json": json.loads}
SHOWN = {"text", "mermaid"}
"""Languages of blocks that nobody types: outputs, messages, figures."""
EXTRAS = set(
    tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
)


def of(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


def said(program: str) -> list[Any]:
    """The command lines that begin with a program, each with where it stands."""
    return [
        pytest.param(words, id=f"{block} {' '.join(words[1:4])}")
        for block, words in COMMANDS
        if Path(words[0]).name == program
    ]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_is_commands_or_names_its_language(block: Block) -> None:
    assert block.commands() or block.language in {*PARSED, *SHOWN}
    parse = PARSED.get(block.language, str)
    assert parse(block.text) is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for link in links(page):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        there = page.parent / target if target else page
        assert there.exists(), link
        assert not anchor or anchor in headings(there), link


@pytest.mark.parametrize("words", said("embedfleet"))
def test_a_command_line_of_ours_is_what_the_parser_takes(words: list[str]) -> None:
    parsed(words)


@pytest.mark.parametrize(
    "line",
    [
        "serve builtin --replica 2",
        "simulate conv.csv --copies 0",
        "keys create --file keys.json",
        "autoscale record day.jsonl --hour 2",
        "bulk",
        "frobnicate",
    ],
)
def test_a_command_line_that_is_wrong_is_noticed(line: str) -> None:
    with pytest.raises(UsageError):
        parsed(["embedfleet", *line.split()])


def test_commands_of_a_shell_are_found_behind_prompts_pipes_and_assignments() -> None:
    block = Block(
        ROOT, 1, "console", "$ A=1 one -x 'a b' \\\n  c | two > file && three # note\nout\n"
    )
    assert [words for line in block.commands() for words in simple_commands(line)] == [
        ["one", "-x", "a b", "c"],
        ["two"],
        ["three"],
    ]


def test_blocks_for_a_shell_are_programs_of_bash() -> None:
    lines = "\n".join(line for block in BLOCKS for line in block.commands())
    subprocess.run(["bash", "-n"], input=lines, text=True, check=True, timeout=60)


@pytest.mark.parametrize("words", [*said("pip"), *said("make")])
def test_extras_and_files_that_are_installed_exist(words: list[str]) -> None:
    asked = [found for word in words if (found := re.search(r"\[(.+)\]$|^EXTRAS=(.+)$", word))]
    assert {name for found in asked for name in (found[1] or found[2]).split(",")} <= EXTRAS
    assert all((ROOT / file).exists() for flag, file in itertools.pairwise(words) if flag == "-r")


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_nothing_is_installed_by_a_name_that_no_index_has(block: Block) -> None:
    """The package is on no index: whoever registers its name there would be run."""
    assert not re.search(
        r"""(?:pip install|pip:).*["' ]embedfleet(?:\[\w+\])?["',\]]""", block.text
    )


@pytest.mark.parametrize("words", [*said("python"), *said("python3")])
def test_programs_that_are_run_exist(words: list[str]) -> None:
    block = next(block for block, found in COMMANDS if found is words)
    if words[1] == "-m":
        assert importlib.util.find_spec(words[2])
        return
    assert (ROOT / words[1]).is_file() or (block.page.parent / words[1]).is_file()


@pytest.mark.parametrize("words", said("helm"))
def test_values_of_the_chart_are_what_its_schema_takes(words: list[str]) -> None:
    chart = ROOT / words[3]
    values = yaml.safe_load((chart / "values.yaml").read_text("utf-8"))
    for flag, given in itertools.pairwise(words):
        if flag == "--set":
            name, _, value = given.partition("=")
            values[name] = yaml.safe_load(value.replace("sha256:…", "sha256:" + 64 * "0"))
    jsonschema.validate(values, json.loads((chart / "values.schema.json").read_text("utf-8")))


@pytest.mark.parametrize("block", of("toml"), ids=str)
def test_settings_of_a_page_are_settings(block: Block) -> None:
    assert set(tomllib.loads(block.text)) <= set(AREAS)
    load(block.text, {}, {})


@pytest.mark.parametrize("block", of("yaml"), ids=str)
def test_manifests_of_a_page_have_the_form_of_their_kind(block: Block) -> None:
    manifest = yaml.safe_load(block.text)
    if manifest["kind"] == "Kustomization":
        assert all((ROOT / each).is_dir() for each in manifest["resources"])
    elif manifest["apiVersion"] == "ray.io/v1":
        cluster = manifest["spec"]["rayClusterSpec"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}} | group["template"]
            kubernetes_validate.validate(pod, "1.35", strict=True)
    else:
        kubernetes_validate.validate(manifest, "1.35", strict=True)


async def test_addresses_that_are_asked_have_a_route_and_bodies_are_json(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        tables = {8080: public_app(service.gateway), 8081: admin_app(service.gateway)}
    asked = [(block, words) for block, words in COMMANDS if words[0] == "curl"]
    assert len(asked) > 4
    for block, words in asked:
        (address,) = (word for word in words if re.match(r"(?:https?://|localhost)", word))
        url = urlsplit(address if "//" in address else f"http://{address}")
        sent = [body for flag, body in itertools.pairwise(words) if flag == "-d"]
        for body in sent:
            assert set(json.loads(body)) >= {"model"}, block
        assert url.port in tables, block
        assert ("POST" if sent else "GET", url.path) in tables[url.port].routes, block


def imported(tree: ast.AST) -> Iterator[tuple[str, object]]:
    """Name by name what a program has of our package; raises where there is no such thing."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("embedfleet"):
            for each in node.names:
                yield each.asname or each.name, attribute(node.module or "", each.name)
        elif isinstance(node, ast.Import):
            for each in node.names:
                if each.name.partition(".")[0] == "embedfleet":
                    yield each.asname or "embedfleet", importlib.import_module(each.name)


def attribute(module: str, name: str) -> object:
    """What a module has by a name; None where it has it and needs what is not installed here."""
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        found = importlib.util.find_spec(module)
        if (error.name or "").startswith("embedfleet") or found is None or found.origin is None:
            raise
    body = ast.parse(Path(found.origin).read_text("utf-8")).body
    assert name in {getattr(node, "name", "") for node in body}, (module, name)
    return None


def called(tree: ast.AST, known: dict[str, object]) -> Iterator[tuple[object, ast.Call]]:
    """Calls of what is ours, as `Name(…)` and `name.attribute(…)`."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and known.get(node.func.id):
            yield known[node.func.id], node
        elif isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
            owner = known.get(node.func.value.id)
            if owner is not None:
                yield getattr(owner, node.func.attr), node


@pytest.mark.parametrize(
    "page", sorted({block.page for block in of("python")}), ids=lambda p: p.name
)
def test_python_of_a_page_takes_what_the_package_has(page: Path) -> None:
    known: dict[str, object] = {}
    for block in of("python"):
        if block.page != page:
            continue
        tree = ast.parse(block.text)
        known |= dict(imported(tree))
        for thing, call in called(tree, known):
            words = {each.arg: None for each in call.keywords if each.arg}
            signature = inspect.signature(thing)  # type: ignore[arg-type]
            itself = [None] * ("self" in signature.parameters)
            signature.bind_partial(*itself, *([None] * len(call.args)), **words)
            if getattr(thing, "__name__", "") == "Client":
                known["client"] = thing
