"""Starts third-party engines as local processes: ports, GPU assignment and environment.

The command lines are built in `engine_commands.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
import shutil
import socket
from collections import deque

from embedfleet.fleet.providers.engine_commands import Launch, command, words
from embedfleet.fleet.providers.local import LocalReplica
from embedfleet.runtime.machine import loopback
from embedfleet.runtime.settings.addresses import Place
from embedfleet.vocabulary import SetupError

SILENT = {
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "SGLANG_DISABLE_USAGE_STATS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Environment that disables engines' telemetry; vLLM reports on each start otherwise."""

INSTALL = {
    "sglang": "pip install sglang",
    "vllm": "pip install vllm",
    "tei": "cargo install --path router (github.com/huggingface/text-embeddings-inference)",
    "llamacpp": "see github.com/ggml-org/llama.cpp",
}

PORTS = range(20_000, 30_000)
"""Where engines listen. They do so minutes after their port was chosen: these are below those that
the kernel gives to connections meanwhile (from 32,768 on), and below Kubernetes' NodePorts.
"""


def missing_program(engine: str, program: str) -> SetupError:
    """The engine is not installed where this process looks."""
    return SetupError(
        f"pools.engine is {engine}, but `{program}` is not on the path: {INSTALL[engine]}, and "
        "start embedfleet with its directory in PATH"
    )


def visible_gpus(name: str, gpus: int) -> str:
    """The GPUs of the replica `local-N`, as CUDA_VISIBLE_DEVICES names them."""
    number = int(name.rpartition("-")[2])
    return ",".join(str(gpu) for gpu in range(number * gpus, (number + 1) * gpus))


def process_words(program: list[str], gpus: str, *, setpriv: bool) -> list[str]:
    """The command with its surroundings: its GPUs, and its end when the gateway's comes."""
    lead = ["setpriv", "--pdeathsig", "TERM"] if setpriv else []
    silent = [f"{name}={value}" for name, value in SILENT.items()]
    return [*lead, "env", f"CUDA_VISIBLE_DEVICES={gpus}", *silent, *program]


class ThirdPartyProvider:
    """Starts engines of one kind that all serve one pool."""

    def __init__(self, engine: str, launch: Launch) -> None:
        self._engine = engine
        self._launch = launch

    async def start(self, name: str) -> LocalReplica:
        """Start a process; it has its address at once, and answers when its model is loaded."""
        port = _free_port()
        launch = dataclasses.replace(self._launch, host=loopback(), port=port)
        program = words(command(self._engine, launch))
        if shutil.which(program[0]) is None:
            raise missing_program(self._engine, program[0])
        around = process_words(
            program, visible_gpus(name, launch.gpus), setpriv=shutil.which("setpriv") is not None
        )
        process = await asyncio.create_subprocess_exec(
            *around,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        return LocalReplica(process, f"http://{Place(launch.host, port)}")


_given: deque[int] = deque(maxlen=1000)
"""Ports of engines that may not listen yet."""


def _free_port() -> int:
    """A port that is not in use and not reserved for another engine. Raises OSError."""
    host = loopback()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in secrets.SystemRandom().sample(PORTS, len(PORTS)):
        with contextlib.suppress(OSError), socket.socket(family) as probe:
            if port not in _given:
                probe.bind((host, port))
                _given.append(port)
                return port
    raise OSError(f"no port from {PORTS.start} to {PORTS.stop - 1} is free for an engine")
