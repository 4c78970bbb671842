"""The contenders' processes, and how much of the machine others used meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import IO, Any, Final, cast

REPOSITORY: Final = Path(__file__).parent.parent


def _command(interpreter: Path, action: str, words: list[Any]) -> list[str]:
    return [str(interpreter), "-m", "benchmarks.cpu_worker", action, *map(str, words)]


def _environment() -> dict[str, str]:
    """Ours for everyone: the package's modules that need NumPy alone are used by rivals, too."""
    path = f"{REPOSITORY}:{REPOSITORY / 'src'}"
    return os.environ | {"PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"}


def prepare(interpreter: Path, kind: str, dtype: str, checkpoint: Path, prepared: Path) -> None:
    """Have a contender convert the model, once."""
    done = prepared.with_name(prepared.name + ".done")
    if done.is_file():
        return
    print(f"{kind}: preparing the model", flush=True)
    words = [kind, dtype, checkpoint, prepared, 1]
    subprocess.run(
        _command(interpreter, "prepare", words), cwd=REPOSITORY, env=_environment(), check=True
    )
    done.touch()


class Worker:
    """A process that computes workloads; see `cpu_worker.py`."""

    def __init__(self, interpreter: Path, words: list[Any]) -> None:
        self._process = subprocess.Popen(
            _command(interpreter, "load", words),
            cwd=REPOSITORY,
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lines = cast("IO[str]", self._process.stdin)
        self._answers = cast("IO[str]", self._process.stdout)

    def answer(self) -> dict[str, float]:
        for line in self._answers:
            if line.startswith("{"):  # libraries print, too
                message: dict[str, float] = json.loads(line)
                return message
        raise SystemExit("a worker ended early; see its message above")

    def send(self, *words: str) -> None:
        self._lines.write("\t".join(words) + "\n")
        self._lines.flush()

    def ask(self, *words: str) -> dict[str, float]:
        self.send(*words)
        return self.answer()

    def stop(self) -> None:
        self._lines.close()
        self._process.wait()


class Clocks:
    """Whose the processors' time was since this was made."""

    def __init__(self) -> None:
        self._began, self._busy = time.perf_counter(), _busy_s()

    def foreign_share(self) -> float:
        """Of one processor: busy time that was not of this process and its ended children."""
        mine = os.times()
        used = mine.user + mine.system + mine.children_user + mine.children_system
        return (_busy_s() - self._busy - used) / (time.perf_counter() - self._began)


def _busy_s() -> float:
    """Of all processors since the start of the machine, stolen time included."""
    first = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
    user, nice, system, _, _, interrupts, soft, stolen, *_ = map(int, first.split()[1:])
    return (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")
