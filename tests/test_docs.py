"""What pages, units and messages tell people to type and to set exists."""

from __future__ import annotations

import ast
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from embedfleet.cli.command_line import app
from embedfleet.models.description import describe
from embedfleet.models.golden.vectors import read
from embedfleet.runtime.settings import load
from embedfleet.runtime.settings.loading import NOT_SETTINGS
from embedfleet.runtime.settings.options import AREAS, options
from embedfleet.server.gateway.scaling import HOLDS, TERMS
from tests.pages import UsageError, parsed
from tests.service import started

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for path in [
        *(
            ROOT / name
            for name in ("README.md", "README.zh-CN.md", "CONTRIBUTING.md", "ARCHITECTURE.md")
        ),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "deploy").rglob("*"),
        *(ROOT / "examples").rglob("*"),
        *(ROOT / "benchmarks").glob("*.md"),
    ]
    if path.is_file() and path.suffix in {".md", ".toml", ".service", ".yml", ".yaml", ".sh", ""}
)
SOURCES = sorted((ROOT / "src" / "embedfleet").rglob("*.py"))
COMMAND = re.compile(r"(?:^|[`$&;|]\s*|\s)(?:\S*/bin/)?embedfleet ((?:[a-z]+)(?: [^`\n]*)?)")
VARIABLE = re.compile(r"\bEMBEDFLEET_[A-Z][A-Z_0-9]*[A-Z0-9]\b")
SETTING = re.compile(rf"`({'|'.join(AREAS)})\.([a-z_]+)(?: ?=[^`]*)?`")
FILES = {"metrics", "py", "md", "toml", "yml", "json"}


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


def typed(text: str) -> Iterator[list[str]]:
    """Every command line of embedfleet in blocks and in backticks, as words."""
    joined = text.replace("\\\n", " ")
    quoted = re.findall(r"`(?:\S*/bin/)?embedfleet ([a-z][^`]*)`", joined)
    blocks = [
        found[1]
        for line in joined.splitlines()
        if (
            found := re.match(
                r"(?:    +|#\s+|\$ )(?:\S+=\S+ )*(?:\S*/bin/)?embedfleet ([a-z].*)", line
            )
        )
    ]
    for line in (*quoted, *blocks):
        plain = re.split(r"\s#|\s{2,}|[;&|>)]|\s\(", line)[0].replace("…", "")
        try:
            yield shlex.split(plain)
        except ValueError:
            yield plain.split()


def trouble(words: list[str]) -> str:
    """What is wrong with a command: a command or an option that there is not. In prose, values may
    stand for others and arguments be left out.
    """
    try:
        parsed(["embedfleet", *words])
    except UsageError as error:
        said = str(error)
        return said if re.match(r"No such (?:option|command '[a-z-]+')", said) else ""
    except typer.Exit:  # help, where a group is named alone
        return ""
    return ""


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_commands_of_a_page_exist_with_their_options(page: Path) -> None:
    wrong = {
        " ".join(words): said
        for words in typed(page.read_text(encoding="utf-8"))
        if (said := trouble(words))
    }
    # Decisions tell of what was tried; prose such as "embedfleet itself" is no command.
    assert not {line: said for line, said in wrong.items() if "option" in said}, wrong


def test_commands_of_messages_and_help_exist_with_their_options() -> None:
    wrong = {
        f"{source.name}: {' '.join(words)}": said
        for source in SOURCES
        for words in typed(source.read_text(encoding="utf-8"))
        if (said := trouble(words))
    }
    assert not wrong


def runnable() -> list[list[str]]:
    """Commands of the pages that need neither a service nor a cluster nor a download."""
    found = [words for page in PAGES for words in typed(page.read_text(encoding="utf-8"))]
    return [
        words
        for words in found
        if words[:1] in (["config"], ["engines"], ["plan"])
        and not any(word.isupper() or "/" in word or word == ">" for word in words[1:])
        and not {"--config", "--replica-profile"} & set(words)  # files of the reader
    ]


@pytest.mark.parametrize("words", runnable(), ids=" ".join)
def test_commands_of_pages_that_can_run_here_run(words: list[str]) -> None:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("name", ["search", "backfill"])
def test_keys_as_the_page_of_security_has_them(name: str, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    (line,) = re.findall(rf"embedfleet (keys create .*--name {name}.*)", page)
    words = shlex.split(line.replace("keys.json", str(tmp_path / "keys.json")))
    key = CliRunner().invoke(app, words).stdout.strip()
    shown = CliRunner().invoke(app, ["keys", "list", "--file", str(tmp_path / "keys.json")])
    assert key.split("-")[1] in shown.stdout
    ended = ["keys", "revoke", "--file", str(tmp_path / "keys.json"), key.split("-")[1]]
    assert CliRunner().invoke(app, ended).exit_code == 0


def test_the_command_of_the_page_writes_what_kubectl_takes(tmp_path: Path) -> None:
    """docs/kubernetes.md, first block, with a digest in the place of its dots."""
    page = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    block = re.search(r"    embedfleet (deploy kubernetes (?:.*\\\n)*.*)\n", page)
    assert block
    line = block[1].replace("\\\n", " ").replace("sha256:…", "sha256:" + 64 * "0")
    words = shlex.split(line.replace("-o deployment", f"-o {tmp_path / 'deployment'}"))
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "deployment" / "kustomization.yaml").is_file()
    written = "".join(file.read_text("utf-8") for file in (tmp_path / "deployment").rglob("*.yaml"))
    named = {*re.findall(r"deployment/([a-z-]+)", page), *re.findall(r"svc/([a-z-]+)", page)}
    assert named
    assert {name for name in named if f"name: {name}\n" not in written} == set()


def test_the_pages_do_have_commands() -> None:
    found = [words for page in PAGES for words in typed(page.read_text(encoding="utf-8"))]
    assert len(found) > 60
    assert {"serve", "gateway", "keys", "golden", "deploy", "status"} <= {each[0] for each in found}


@pytest.mark.parametrize("page", [*PAGES, *SOURCES], ids=names)
def test_variables_of_ours_that_are_named_are_read(page: Path) -> None:
    known = {option.variable for option in options().values()}
    named = set(VARIABLE.findall(page.read_text(encoding="utf-8")))
    if page.name == "loading.py":
        named.discard("EMBEDFLEET_PORT")  # told there as what people try
    ours = {each for each in named if not NOT_SETTINGS.fullmatch(each)}
    assert {each for each in ours - known if not each.startswith("EMBEDFLEET_SERVICE")} == set()


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_settings_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = {f"{area}.{name}" for area, name in SETTING.findall(text)}
    named |= {
        f"{area}.{name}"
        for area, name in re.findall(rf"^#\s+({'|'.join(AREAS)})\.([a-z_]+) = ", text, re.MULTILINE)
    }
    assert {each for each in named - set(options()) if each.partition(".")[2] not in FILES} == set()


@pytest.mark.parametrize("page", [page for page in PAGES if page.suffix == ".toml"], ids=names)
def test_settings_files_are_taken(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    if set(tomllib.loads(text)) <= set(AREAS):
        load(text, {}, {})


def test_targets_of_make_that_are_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        named = set(re.findall(r"(?:`|^\$ |^    )(?:PORT=\S+ )?make ([a-z-]+)", text, re.MULTILINE))
        assert named <= targets, page


def test_every_reason_of_a_scaling_decision_is_explained() -> None:
    page = (ROOT / "docs" / "autoscaling.md").read_text(encoding="utf-8")
    assert {name for name in (*TERMS, *HOLDS) if f"`{name}`" not in page} == set()


@pytest.mark.slow
def test_golden_vectors_beside_the_weights_as_the_page_says(tmp_path: Path) -> None:
    """docs/kubernetes.md, step 3, on a copy of the built-in model that was changed."""
    page = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    assert "`embedfleet golden make DIR -o golden.safetensors`" in page
    model = tmp_path / "model"
    model.mkdir()
    for file in (ROOT / "src" / "embedfleet" / "models" / "builtin").rglob("*"):
        if file.is_file():
            copy = model / file.relative_to(ROOT / "src" / "embedfleet" / "models" / "builtin")
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(file.read_bytes())
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 2e-6}))
    before = describe(model).identity.revision
    golden = model / "golden.safetensors"
    done = CliRunner().invoke(app, ["golden", "make", str(model), "-o", str(golden)])
    assert done.exit_code == 0, done.output
    assert describe(model).identity.revision == before == read(golden).revision
    with started(str(model), log=tmp_path / "log") as service:
        service.wait_for(["ready", "ready"])
        assert "embedfleet_golden_mismatches_total" in service.metrics()
        assert "no golden vectors" not in service.log.read_text()


def test_messages_of_the_page_of_symptoms_are_those_of_the_code() -> None:
    """Whoever searches for the words that they saw must find them."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    quoted = re.findall(r"^\| `([^`]+)`(?: or `([^`]+)`)?(?: \(\d+\))? \|", page, re.MULTILINE)
    messages = {each for found in quoted for each in found if each}
    assert len(messages) > 20
    strings = "\n".join(strings_of(path) for path in SOURCES)
    assert {each for each in messages if each not in strings} == set()


def strings_of(path: Path) -> str:
    """The literals of a module, those of f-strings with a sign in place of each value."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.JoinedStr):
            parts = (each.value if isinstance(each, ast.Constant) else "…" for each in node.values)
            found.append("".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return "\n".join(found)
