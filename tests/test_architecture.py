"""Rules about the code itself: what may import what, names, sizes, and how tests are written.

Layers are checked by import-linter (pyproject.toml); here is what it can't see.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

from embedfleet.runtime.settings.options import options

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "embedfleet"
MODULES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

PURE = [
    "vocabulary.py",
    "work.py",
    "runtime/settings/*.py",
    "api/contracts/*.py",
    "api/vector_space.py",
    "transport/description.py",
    "transport/errors.py",
    "transport/frames.py",
    "api/formats/*.py",
    "scheduling/batching/packing.py",
    "models/tokenizer_kind.py",
    "cache/breaker.py",
    "cache/entry.py",
    "cache/key.py",
    "cache/memory.py",
    "transport/serving/limits.py",
    "transport/serving/rules.py",
    "scheduling/delivery/decisions.py",
    "scheduling/delivery/dispatch.py",
    "scheduling/delivery/queue.py",
    "scheduling/delivery/repeated_vectors.py",
    "fleet/balancing/*.py",
    "scheduling/urgency.py",
    "scheduling/delivery/admission.py",
    "server/gateway/replicas/third_party/answers.py",
    "server/gateway/replicas/third_party/dialects.py",
    "server/gateway/replicas/third_party/facts.py",
    "server/gateway/replicas/third_party/window.py",
    "fleet/providers/engine_commands.py",
    "fleet/backoff.py",
    "fleet/fleet.py",
    "fleet/health.py",
    "fleet/sizing.py",
    "fleet/states.py",
    *(f"autoscaling/{name}.py" for name in ("adapting", "cycle", "fleets_on_paper", "journal")),
    *(f"autoscaling/{name}.py" for name in ("policy", "queueing", "rhythm")),
    *(f"autoscaling/{name}.py" for name in ("schedule", "signals", "stance")),
    *(f"autoscaling/{name}.py" for name in ("stabilization", "sliding_windows")),
    *(f"transport/access/{name}.py" for name in ("access", "bucket", "keys", "quota")),
    *(f"bulk/{name}.py" for name in ("fragments", "ledger")),
    "api/batches/documents.py",
    *(f"client/{name}.py" for name in ("errors", "flow_control", "wire")),
]
"""Modules that decide and never do: time and chance are handed to them."""
IMPURE = {
    *("time", "datetime", "asyncio", "random", "secrets", "os", "socket", "threading", "signal"),
    *("subprocess", "multiprocessing", "ssl", "http", "urllib.request", "tempfile", "logging"),
    *("aiohttp", "uvicorn", "uvloop", "huggingface_hub", "openvino", "torch", "psutil"),
    *("prometheus_client", "typer", "rich"),
}
FORBIDDEN_NAMES = {
    *("utils", "util", "helpers", "helper", "common", "misc", "base", "manager", "handler"),
    *("service_layer", "core", "processor", "impl", "stuff"),
}
MOST_LINES_OF_A_MODULE = 500
MOST_LINES_OF_A_FUNCTION = 50
TRIVIAL_LINES = 20
"""A function up to this long, or a class of fields alone, may speak for itself."""

FEWEST_WORDS = 3
"""Of a test's name, its class included: fewer are no sentence."""
BROAD = {
    "api/batches/runner.py": "whatever is wrong with one batch, the others are run",
    "cache/redis.py": "whatever its client makes of odd answers costs hits and nothing else",
    "api/tokenizing.py": "whatever ends a slice in a thread is raised for its request",
    "models/tokenizer_library.py": "the tokenizers library raises plain Exception, and panics",
    "transport/untrusted.py": "whatever a parser raises of foreign bytes is its sender's error",
    "scheduling/delivery/pool.py": "a bug in a callback is raised where the pool is awaited",
    "server/gateway/replicas/connections.py": "what a reader raises ends the call that it is of",
    "scheduling/batching/batcher.py": "what an engine raises fails its batch and not the process",
    "transport/serving/protocol.py": "what an app raises ends its connection and not the process",
    "runtime/folders.py": "a driver of fsspec raises whatever the library beneath it does",
    "runtime/telemetry/logs.py": "a line that can not be written must not end what it tells of",
    "transport/asgi.py": "the outermost loop of a request answers whatever happens",
    "fleet/prober.py": "a watch that ended would leave a replica in its state for ever",
    "fleet/trials.py": "whatever a trial raises is a trial that failed",
    "transport/access/watching.py": "a watch that ended would let revoked keys work on",
    "autoscaling/scaler.py": "the loop goes on whatever a source, the policy or a target do",
}
"""Where everything may be caught, and why."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def shown(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, Function):
            yield node


def imported(statements: Iterable[ast.stmt]) -> Iterator[str]:
    """Name what is imported when the module loads, but not for the type checker alone."""
    for node in statements:
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names)
            case ast.ImportFrom(module=str(module), names=names):
                yield module
                yield from (f"{module}.{name.name}" for name in names)
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), orelse=orelse):
                yield from imported(orelse)
            case ast.If(body=body, orelse=orelse):
                yield from imported([*body, *orelse])
            case ast.Try(body=body, handlers=handlers):
                yield from imported([*body, *(each for one in handlers for each in one.body)])


def listed(found: list[str]) -> str:
    return "\n".join(["", *found])


def length(node: Function) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def pure_modules() -> list[Path]:
    return sorted(path for pattern in PURE for path in PACKAGE.glob(pattern))


def test_every_pattern_of_pure_modules_still_matches_something() -> None:
    assert [pattern for pattern in PURE if not list(PACKAGE.glob(pattern))] == []


@pytest.mark.parametrize("path", pure_modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_pure_module_reads_no_clock_and_does_no_io(path: Path) -> None:
    names = set(imported(tree_of(path).body))
    assert {name for name in names if name in IMPURE or name.split(".")[0] in IMPURE} == set()


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert [path for path in MODULES if path.stem.strip("_") in FORBIDDEN_NAMES] == []


def test_modules_are_short_enough_to_be_read_in_one_go() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    long = [
        f"{path.relative_to(ROOT)}: {lines} lines"
        for path, lines in lengths.items()
        if lines > MOST_LINES_OF_A_MODULE
    ]
    assert not long, listed(long)


def test_functions_are_short_enough_to_be_seen_at_once() -> None:
    long = [
        f"{shown(path, node)} {node.name}: {length(node)} lines"
        for path in MODULES
        for node in functions(path)
        if length(node) > MOST_LINES_OF_A_FUNCTION
    ]
    assert not long, listed(long)


def test_every_function_is_annotated_whole() -> None:
    bare = []
    for path in MODULES:
        for node in functions(path):
            names = node.args
            given = [*names.posonlyargs, *names.args, *names.kwonlyargs, names.vararg, names.kwarg]
            missing = [
                each.arg
                for each in given
                if each and each.annotation is None and each.arg not in {"self", "cls"}
            ]
            if missing or node.returns is None:
                bare.append(f"{shown(path, node)} {node.name} {missing or 'return'}")
    assert not bare, listed(bare)


def test_errors_are_caught_by_name() -> None:
    broad = {
        path.relative_to(PACKAGE).as_posix()
        for path in MODULES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"})
    }
    assert broad - set(BROAD) == set()
    assert set(BROAD) - broad == set(), "allowed and no longer needed"


def test_the_map_has_a_line_for_everything_at_the_top_of_the_package() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    packages = page.partition("## Packages")[2].partition("\n## ")[0]
    named = re.findall(r"^\| `(\w+)/?` \|", packages, re.MULTILINE)
    top = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES}
    assert sorted(named) == sorted(top - {"__init__", "__main__"})


def test_modules_that_the_map_names_exist() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    dotted = {name.replace(".", "/") for name in re.findall(r"\*\*([a-z_.]+)\*\*", page)}
    order = re.findall(r"`([a-z_/]+\.py)`", page.partition("## Reading order")[2])
    named = dotted | {name.removesuffix(".py") for name in order if "/" in name}
    assert named
    found = {path.relative_to(PACKAGE).with_suffix("").as_posix() for path in MODULES}
    found |= {path.relative_to(PACKAGE).parent.as_posix() for path in MODULES}
    assert named - found == set()


def test_every_module_says_what_it_decides() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in MODULES
        if tree_of(path).body and ast.get_docstring(tree_of(path)) is None
    ]
    assert not silent, listed(silent)


def test_public_classes_and_long_public_functions_say_what_they_are_for() -> None:
    silent = [
        f"{shown(path, node)} {node.name}"
        for path in MODULES
        for node in tree_of(path).body
        if isinstance(node, ast.ClassDef | Function)
        and not node.name.startswith("_")
        and ast.get_docstring(node) is None
        and not is_trivial(node)
    ]
    assert not silent, listed(silent)


def test_only_settings_and_the_command_line_read_the_environment() -> None:
    readers = [
        shown(path, node)
        for path in MODULES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute)
        and node.attr in {"environ", "getenv"}
        and path.name not in {"command_line.py", "flags.py"}
    ]
    assert not readers, listed(readers)


def test_every_setting_is_read_by_something_beside_the_settings() -> None:
    """By its name alone: a setting that nobody reads promises what does not happen."""
    read = {
        node.attr
        for path in MODULES
        if path.parent != PACKAGE / "runtime" / "settings"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    assert {path for path in options() if path.rpartition(".")[2] not in read} == set()


def test_names_of_tests_are_sentences() -> None:
    short = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in TESTS
        for name in names_of_tests(tree_of(path))
        if len(name.split()) < FEWEST_WORDS
    ]
    assert not short, listed(short)


def test_tests_use_real_objects_and_fakes_instead_of_patches() -> None:
    patching = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in TESTS
        for name in imported(tree_of(path).body)
        if name.startswith(("unittest.mock", "mock", "pytest_mock"))
    ]
    assert not patching, listed(patching)


def names_of_tests(parent: ast.Module | ast.ClassDef) -> Iterator[str]:
    """Spell each test as it reads: `TestRefusals.test_no_ids` is "Refusals no ids"."""
    for node in parent.body:
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            words = re.sub(r"(?<!^)([A-Z])", r" \1", node.name.removeprefix("Test"))
            yield from (f"{words} {name}" for name in names_of_tests(node))
        elif isinstance(node, Function) and node.name.startswith("test_"):
            yield node.name.removeprefix("test_").replace("_", " ")


def is_trivial(node: Function | ast.ClassDef) -> bool:
    if isinstance(node, ast.ClassDef):
        return all(isinstance(each, ast.Assign | ast.AnnAssign | ast.Pass) for each in node.body)
    return length(node) <= TRIVIAL_LINES
