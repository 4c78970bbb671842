"""What can be typed, what it becomes, and what a person reads when it is wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from embedfleet.cli.command_line import app
from embedfleet.cli.entry_points import Calls
from embedfleet.models.source import ResolvedModel
from embedfleet.runtime.settings import EngineSettings, Pool, Settings
from embedfleet.vocabulary import ModelError

COMMANDS = [
    "status",
    *("cache stats", "deploy kubernetes", "simulate", "plan"),
    *("serve", "replica", "gateway", "config", "golden make", "model fetch", "engines"),
    *("keys create", "keys list", "keys revoke"),
    "conformance",
    *("autoscale explain", "autoscale pause", "autoscale resume", "autoscale scale"),
]


@dataclass
class Recorder:
    """Stands behind the commands and keeps what they hand over."""

    answer: int = 0
    fails: Exception | None = None
    """What a gateway ends with instead of an exit code."""
    seen: list[tuple[str, object]] = field(default_factory=list)
    keys: list[tuple[str, ...]] = field(default_factory=list)

    def gateway(self, settings: Settings, keys: tuple[str, ...]) -> int:
        self.keys.append(keys)
        self.seen.append(("gateway", settings))
        if self.fails is not None:
            raise self.fails
        return self.answer

    def replica(self, settings: Settings) -> int:
        self.seen.append(("replica", settings))
        return self.answer

    def fetch(self, model: str) -> ResolvedModel:
        self.seen.append(("fetch", model))
        if "/" not in model:
            raise ModelError(f"there is no model {model}")
        return ResolvedModel(Path("/cache/snapshot"), model, "c0ffee")

    def make_golden(self, model: str, output: Path, engine: EngineSettings) -> None:
        self.seen.append(("golden", (model, output, engine.dtype)))


@pytest.fixture
def behind() -> Recorder:
    return Recorder()


def typed(words: str, behind: Recorder, **environment: str) -> Result:
    """Run the command line inside this process, with nothing of ours in its environment."""
    calls = Calls(behind.gateway, behind.replica, behind.fetch, behind.make_golden)
    cleared: dict[str, str | None] = {
        key: None for key in os.environ if key.startswith("EMBEDFLEET_")
    }
    return CliRunner().invoke(
        app, words.split(), obj=calls, env=cleared | environment, prog_name="embedfleet"
    )


def started(behind: Recorder) -> Settings:
    """Return the settings with which the one call was made."""
    ((_, settings),) = behind.seen
    assert isinstance(settings, Settings)
    return settings


def test_serve_without_flags_starts_two_replicas_of_the_model(behind: Recorder) -> None:
    assert typed("serve builtin", behind).exit_code == 0
    assert started(behind) == Settings(pools=(Pool(model="builtin", replicas=2),))


def test_several_models_have_a_pool_each_and_share_what_flags_say(behind: Recorder) -> None:
    assert typed("serve builtin org/reranker --replicas 1", behind).exit_code == 0
    assert started(behind).pools == (
        Pool(model="builtin", replicas=1),
        Pool(model="org/reranker", replicas=1),
    )


def test_a_name_for_several_models_is_refused(behind: Recorder) -> None:
    done = typed("serve builtin org/reranker --served-name a", behind)
    assert done.exit_code == 2
    assert "--served-name is for a single model, and 2 are named" in " ".join(done.output.split())


def test_several_models_beside_pools_of_a_file_are_refused(
    behind: Recorder, tmp_path: Path
) -> None:
    file = tmp_path / "one.toml"
    file.write_text('[[pools]]\nmodel = "builtin"\n')
    done = typed(f"serve builtin org/reranker --config {file}", behind)
    assert done.exit_code == 2
    assert "the settings file has pools" in " ".join(done.output.split())


def test_the_flags_of_serve_become_settings(behind: Recorder) -> None:
    typed(
        "serve org/m@v1 --replicas 3 --host 0.0.0.0 --port 9000 --served-name a --served-name b "
        "--device cpu --dtype int8",
        behind,
    )
    settings = started(behind)
    assert settings.pools == (Pool(model="org/m@v1", served_names=("a", "b"), replicas=3),)
    assert (settings.gateway.host, settings.gateway.port) == ("0.0.0.0", 9000)  # noqa: S104
    assert settings.engine == EngineSettings(device="cpu", dtype="int8")


@pytest.mark.parametrize(
    ("flags", "bounds"),
    [
        ("--min-replicas 1 --max-replicas 4", (True, 1, 4)),
        ("--max-replicas 3", (True, 2, 3)),
        ("--min-replicas 3", (True, 3, 8)),
        ("", (False, 2, 8)),
    ],
)
def test_a_bound_of_the_replicas_lets_load_decide_their_number(
    behind: Recorder, flags: str, bounds: tuple[bool, int, int]
) -> None:
    typed(f"serve builtin {flags}", behind)
    chosen = started(behind).autoscaling
    assert (chosen.enabled, chosen.min_replicas, chosen.max_replicas) == bounds


def test_replica_takes_its_own_address_and_not_the_gateways(behind: Recorder) -> None:
    typed("replica builtin --host 127.0.0.2 --port 9001 --dtype f32", behind)
    settings = started(behind)
    assert behind.seen[0][0] == "replica"
    assert (settings.replica.host, settings.replica.port) == ("127.0.0.2", 9001)
    assert settings.gateway == Settings().gateway


def test_gateway_attaches_to_replicas_and_starts_none(behind: Recorder, tmp_path: Path) -> None:
    typed(f"gateway --replica http://a:1 --replica http://b:2 --model {tmp_path}", behind)
    (pool,) = started(behind).pools
    assert pool == Pool(
        replicas=0, replica_urls=("http://a:1", "http://b:2"), tokenizer_dir=tmp_path
    )


def test_a_file_can_be_named_by_flag_or_by_variable(behind: Recorder, tmp_path: Path) -> None:
    file = tmp_path / "embedfleet.toml"
    file.write_text('[[pools]]\nmodel = "builtin"\nreplicas = 1\n')
    typed(f"serve --config {file}", behind)
    typed("serve", behind, EMBEDFLEET_CONFIG=str(file))
    first, second = behind.seen
    assert first == second
    typed(f"serve --config {file} --port 1", behind, EMBEDFLEET_GATEWAY_PORT="2")
    assert isinstance(last := behind.seen[-1][1], Settings)
    assert last.gateway.port == 1


def test_a_replica_can_be_started_from_its_file_alone(behind: Recorder, tmp_path: Path) -> None:
    file = tmp_path / "replica.toml"
    file.write_text("[replica]\nport = 1\n")
    environment = {"EMBEDFLEET_REPLICA_PORT": "2", "EMBEDFLEET_POOL_MODEL": "other"}
    typed(f"replica --config {file} --file-only", behind, **environment)
    assert started(behind).replica.port == 1
    assert started(behind).pools == ()


def test_the_exit_code_is_that_of_the_call(behind: Recorder) -> None:
    behind.answer = 3
    assert typed("serve builtin", behind).exit_code == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("serve builtin --port http", 'flag --port: "http" is not a whole number'),
        ("serve builtin --device tpu", 'flag --device: "tpu" is not one of auto, cpu'),
        ("serve --config /absent.toml", "the settings file /absent.toml can't be read"),
        ("gateway --replica nowhere", '"nowhere" is not an address such as'),
        ("model fetch absent", "there is no model absent"),
        ("gateway", "no replicas given: use --replica URL"),
    ],
)
def test_an_error_of_setup_is_one_line_on_stderr_and_exit_code_two(
    behind: Recorder, words: str, said: str
) -> None:
    result = typed(words, behind)
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("embedfleet: error: ")
    assert said in line


def test_config_shows_values_with_their_origin(behind: Recorder) -> None:
    output = typed("config", behind, EMBEDFLEET_GATEWAY_PORT="9000").stdout
    rows = {line.split()[0]: line.split()[1:] for line in output.splitlines()}
    assert rows["gateway.port"] == ["9000", "EMBEDFLEET_GATEWAY_PORT"]
    assert rows["admin.port"] == ["8081", "default"]


def test_config_prints_a_file_that_can_be_read_back(behind: Recorder, tmp_path: Path) -> None:
    file = tmp_path / "embedfleet.toml"
    file.write_text(typed("config --toml", behind, EMBEDFLEET_POOL_MODEL="builtin").stdout)
    assert tomllib.loads(file.read_text())["gateway"]["port"] == 8080
    typed(f"serve --config {file}", behind)
    assert started(behind) == Settings(pools=(Pool(model="builtin"),))


def test_golden_vectors_are_made_in_f32_whatever_the_environment_says(behind: Recorder) -> None:
    typed("golden make builtin -o g.npz", behind, EMBEDFLEET_ENGINE_DTYPE="int8")
    assert behind.seen == [("golden", ("builtin", Path("g.npz"), "f32"))]


def test_fetch_prints_the_directory_alone_on_stdout(behind: Recorder) -> None:
    result = typed("model fetch org/m", behind)
    assert result.stdout == "/cache/snapshot\n"
    assert result.stderr == "org/m@c0ffee\n"
    told = json.loads(typed("model fetch org/m --json", behind).stdout)
    assert told == {"name": "org/m", "revision": "c0ffee", "directory": "/cache/snapshot"}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_shows_an_example(behind: Recorder, command: str) -> None:
    result = typed(f"{command} --help", behind)
    assert result.exit_code == 0
    assert f"embedfleet {command} " in result.stdout.partition("Options")[0].partition("Usage")[2]


def test_help_lists_what_is_tried_first_at_the_top(behind: Recorder) -> None:
    listed = typed("--help", behind).stdout.partition("Commands:\n")[2]
    names = [line.split()[0] for line in listed.splitlines() if line[2:3].isalpha()]
    assert names[0] == "serve"
    assert names.index("status") < names.index("conformance")


@pytest.mark.parametrize("width", [80, 120])
def test_help_fits_the_terminal_and_cuts_nothing(behind: Recorder, width: int) -> None:
    root = typer.main.get_command(app)
    for name, command in [("", root), *groups(root), *commands(root)]:
        shown = typed(f"{name} --help", behind, COLUMNS=str(width)).stdout
        words = set(re.split(r"[\s,]+", shown))
        for param in command.params:
            assert words >= {*param.opts, *param.secondary_opts} - {param.name}, name
            assert (param.metavar or "") in shown, name
        assert max(map(len, shown.splitlines())) <= width, name
        assert "..." not in shown.partition("\n")[2].replace("MODEL...", ""), name


@pytest.mark.parametrize("name", ["", "bulk", "keys"])
def test_a_group_without_a_command_shows_its_help(behind: Recorder, name: str) -> None:
    bare = typed(name, behind, COLUMNS="80")
    assert (bare.exit_code, bare.stdout) == (2, "")
    assert bare.stderr == typed(f"{name} --help", behind, COLUMNS="80").stdout


def test_examples_in_help_can_be_copied(behind: Recorder) -> None:
    root = typer.main.get_command(app)
    for name, command in commands(root):
        shown = typed(f"{name} --help", behind, COLUMNS="80").stdout.splitlines()
        written = [line.strip() for line in (command.callback.__doc__ or "").splitlines()]
        examples = [line for line in written if line.startswith(("embedfleet ", "kubectl "))]
        assert {f"      {line}" for line in examples} <= set(shown), name


def test_help_of_serve_shows_defaults(behind: Recorder) -> None:
    shown = " ".join(typed("serve --help", behind, COLUMNS="200").stdout.split())
    for default in ("8080", "127.0.0.1", "2", "auto", "info"):
        assert f"[default: {default}]" in shown, shown


@pytest.mark.parametrize(
    ("words", "path", "value"),
    [
        ("--max-tokens 512", "engine.max_tokens", 512),
        ("--max-model-len 512", "engine.max_tokens", 512),
        ("--log-level debug", "log.level", "debug"),
        ("--admin-port 0", "admin.port", 0),
        ("--admin-port off", "admin.port", None),
        ("--keys-file k.json", "access.keys_file", Path("k.json")),
    ],
)
def test_flags_that_users_of_other_servers_look_for(
    behind: Recorder, words: str, path: str, value: object
) -> None:
    assert typed(f"serve builtin {words}", behind).exit_code == 0
    area, _, name = path.partition(".")
    assert getattr(getattr(started(behind), area), name) == value


def test_keys_of_the_command_line_come_to_those_of_the_environment(behind: Recorder) -> None:
    typed("serve builtin --api-key a --api-key b", behind)
    typed("gateway --replica http://a:1 --api-key c", behind)
    assert behind.keys == [("a", "b"), ("c",)]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("serv builtin", "Did you mean 'serve'?"),
        ("keys lsit", "Did you mean 'list'?"),
        ("serve --prot 1", "--port"),
        ("serve builtin --served-names a", "--served-name"),
    ],
)
def test_a_near_miss_is_answered_with_a_suggestion(behind: Recorder, words: str, hint: str) -> None:
    result = typed(words, behind)
    assert result.exit_code == 2
    assert hint in result.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("serv builtin", "no such command 'serv'. Did you mean 'serve'? See `embedfleet --help`."),
        ("--frob", "no such option: --frob. See `embedfleet --help`."),
        ("conformance", "missing argument 'URL'. See `embedfleet conformance --help`."),
        (
            "keys create --file f --name n --lane x",
            (
                "invalid value for '--lane': 'x' is not one of 'interactive', 'bulk'. "
                "See `embedfleet keys create --help`."
            ),
        ),
        (
            "plan --texts-per-day many --tokens 1 --p99 1",
            (
                "invalid value for '--texts-per-day': 'many' is not a number of at least 0 and "
                "at most 1e+12. See `embedfleet plan --help`."
            ),
        ),
    ],
)
def test_what_can_not_be_parsed_is_one_line_that_names_the_help(
    behind: Recorder, words: str, said: str
) -> None:
    result = typed(words, behind)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"embedfleet: error: {said}\n"


def test_every_option_tells_what_it_is_and_what_stands_for_its_value() -> None:
    told = [
        (name, option)
        for name, command in commands(typer.main.get_command(app))
        for option in command.params
        if option.name != "help"
    ]
    assert len(told) > 100
    bare = [
        (name, option.opts)
        for name, option in told
        if not option.help
        or not (
            option.metavar or getattr(option, "is_flag", False) or hasattr(option.type, "choices")
        )
    ]
    assert not bare


@pytest.mark.parametrize(
    "words",
    [
        "config --json",
        "engines --json",
        "engines vllm --json",
        "plan --texts-per-day 1e6 --tokens 300 --p99 200 --json",
    ],
)
def test_facts_are_given_as_json_where_it_is_asked_for(behind: Recorder, words: str) -> None:
    assert json.loads(typed(words, behind).stdout)


def commands(command: Any, *names: str) -> Iterator[tuple[str, Any]]:
    """Every command that does something."""
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, *names, name)
    if not hasattr(command, "commands"):
        yield " ".join(names), command


def groups(command: Any, *names: str) -> Iterator[tuple[str, Any]]:
    """Every command that has commands of its own, but the first."""
    for name, below in getattr(command, "commands", {}).items():
        if hasattr(below, "commands"):
            yield " ".join([*names, name]), below
            yield from groups(below, *names, name)


def test_every_command_has_json_but_those_that_serve_or_write_files() -> None:
    without = {
        name
        for name, command in commands(typer.main.get_command(app))
        if not any("--json" in option.opts for option in command.params)
    }
    assert without == {
        *("serve", "replica", "gateway"),
        *("golden make", "deploy kubernetes", "autoscale record"),
    }


def test_output_that_can_not_be_written_is_an_error_in_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "embedfleet", "config"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "embedfleet: error: standard output: No space left on device\n"


@pytest.mark.parametrize("command", ["config", "simulate --help"])
def test_a_closed_pipe_is_no_error(command: str) -> None:
    read, written = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "embedfleet", *command.split()],
        stdout=written,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(written)
    assert (done.returncode, done.stderr) == (0, "")


def test_python_dash_m_is_the_same_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "embedfleet", "--version"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.startswith("embedfleet 0.")


def test_help_loads_neither_engine_nor_server() -> None:
    program = (
        "import sys, embedfleet.cli.command_line; "
        "print({'openvino', 'uvicorn', 'aiohttp', 'huggingface_hub'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "set()"


def test_engines_prints_a_command_on_stdout_and_its_reasons_on_stderr(behind: Recorder) -> None:
    """So that the command can be piped or pasted."""
    result = typed("engines sglang --model ./m --gpus 2 --max-tokens 8192", behind)
    assert "--model-path ./m" in result.stdout
    assert "--tensor-parallel-size 2" in result.stdout
    assert "reason" not in result.stdout
    assert "longest text" in result.stderr
    assert "sglang" in typed("engines", behind).stdout
    refused = typed("engines ollama", behind)
    assert refused.exit_code == 2
    assert "there are sglang, vllm, tei, llamacpp" in refused.stderr


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError("Unable to allocate 3 GiB"), "not enough memory: Unable to allocate 3 GiB"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("can't start new thread"), "no thread can be started: there is no memory"),
    ],
)
def test_a_machine_that_is_full_is_an_error_in_one_line(
    behind: Recorder, error: Exception, told: str
) -> None:
    """As little of a bug as a disk that is full: a traceback would hide which limit it is."""
    behind.fails = error
    result = typed("serve builtin", behind)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"embedfleet: error: {told}")
