"""A tokenizer in a process of its own, for files whose time or memory is not known to be bounded.

The process has bounds of memory and, for each call, of processor time. What overruns one ends the
process and is an error of the text that it was at; the next call starts another. So no text and no
file can hold, fill or end the process that serves.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from embedfleet.models.json_files import shortened
from embedfleet.models.tokenizer_kind import TokenizerKind
from embedfleet.models.tokenizer_library import InProcess, Spelling, TokenizerError
from embedfleet.runtime.process import interpreter
from embedfleet.vocabulary import EmbedfleetError, Encoding, ModelError

log = logging.getLogger(__name__)

LOAD_S = 20.0
"""Processor time to load a file; the largest tokenizers load within three seconds."""

CALL_S = 1.0
"""Processor time of a call with little text."""

CHARACTERS_PER_S = 20_000
"""Beyond that, a second more for so many characters; slow tokenizers do ten times as many."""

WALL_CLOCK_FACTOR = 30.0
"""How many times longer than its processor time a call may take, where others use the processors
as well."""

MOST_MEMORY_BYTES = 3 << 30
"""Address space, of which much is only reserved. The largest tokenizers take a few hundred MiB."""

MOST_TOKENS_A_CHARACTER = 8
"""A character has at most four bytes, each of them a token at worst; what makes more of them does
not tokenise."""

SPARE_TOKENS = 64
"""Tokens that a text of any length may have beside these."""

MOST_ANSWER_BYTES = 64 << 20
MOST_TOLD = 1_000
"""Characters of an error; paths are in it."""

ONE_THREAD = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
"""For the library in that process: each thread reserves address space, and there are many."""

_HEAD = 4
"""Bytes of the length before each message."""


class Apart:
    """A tokenizer in another process; `Library` says what it does."""

    def __init__(
        self, path: Path, content: bytes, kind: TokenizerKind, below: int | None = None
    ) -> None:
        """As `InProcess`."""
        self.kind = kind
        self._path = path
        self._loading = msgspec.msgpack.encode((content, below))
        self._lock = threading.Lock()
        self._closed = False
        self._child: _Child | None = self._started()

    def ids(self, texts: Sequence[str]) -> list[Encoding]:
        found = self._ask("ids", list(texts), sum(map(len, texts)))
        return [np.frombuffer(each, np.int32) for each in found]

    def spell(self, text: str, *, whole: bool = False) -> Spelling:
        ids, places, words = self._ask("spell", (text, whole), len(text))
        return Spelling(ids, [(start, stop) for start, stop in places], words)

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._ask("decode", list(ids), len(ids))
        return text

    def id_of(self, token: str) -> int | None:
        found: int | None = self._ask("id_of", token, 0)
        return found

    def token_of(self, number: int) -> str | None:
        found: str | None = self._ask("token_of", number, 0)
        return found

    def close(self) -> None:
        """End the process; a call that is under way fails."""
        self._closed = True
        child = self._child
        if child is not None:
            child.end()

    def _ask(self, what: str, value: object, characters: int) -> Any:
        """Have something done; characters say how long that may take."""
        try:
            asked = msgspec.msgpack.encode((what, value))
        except UnicodeEncodeError as error:
            raise TypeError(str(error)) from None
        with self._lock:
            if self._closed:
                raise TokenizerError("the model's tokenizer was closed")
            try:
                if self._child is None:
                    self._child = self._started()
                return self._child.ask(asked, CALL_S + characters / CHARACTERS_PER_S)
            except _EndedError as ended:
                self._child, told = None, f"the model's tokenizer {ended} on a text"
            except _RefusedError as refused:
                told = str(refused)
            except ModelError as error:
                log.warning("a tokenizer could not be started again: %s", error.message)
                told = "the model's tokenizer can't be started again"
        log.warning("the tokenizer of %s failed on a text", self._path)
        raise TokenizerError(told)

    def _started(self) -> _Child:
        child = _Child(self._path)
        try:
            child.ask(self._loading, LOAD_S)
        except _EndedError as ended:
            raise ModelError(f"{self._path} {ended} when it is loaded") from None
        except _RefusedError as refused:
            child.end()
            raise ModelError(str(refused)) from None
        return child


class _EndedError(Exception):
    """A process that is no more; the words say what became of it."""


class _RefusedError(Exception):
    """What a process says that it can't do."""


class _Child:
    """One process, until it ends."""

    def __init__(self, path: Path) -> None:
        """`path` is what its error of a broken file names, and the list of processes."""
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  a module of ours
                interpreter("-m", "embedfleet.models.tokenizer_process", str(path)),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.end = weakref.finalize(self, _end, self._process, self._socket)
        """Kill it, once."""

    def ask(self, asked: bytes, seconds: float) -> Any:
        """What it answers within so much processor time. Raises _RefusedError or _EndedError."""
        until = time.monotonic() + WALL_CLOCK_FACTOR * seconds
        try:
            self._socket.settimeout(WALL_CLOCK_FACTOR * seconds)
            self._socket.sendall(_framed(msgspec.msgpack.encode((seconds, msgspec.Raw(asked)))))
            good, value = msgspec.msgpack.decode(self._received(until))
        except TimeoutError:
            self.end()
            raise _EndedError(f"takes more than {WALL_CLOCK_FACTOR * seconds:.0f} s") from None
        except OSError:
            self.end()
            raise _EndedError(_became(self._process.returncode, seconds)) from None
        if not good:
            raise _RefusedError(value)
        return value

    def _received(self, until: float) -> bytes:
        size = int.from_bytes(self._exactly(_HEAD, until), "little")
        if size > MOST_ANSWER_BYTES:
            raise ConnectionError
        return self._exactly(size, until)

    def _exactly(self, size: int, until: float) -> bytes:
        found = bytearray()
        while len(found) < size:
            self._socket.settimeout(max(0.001, until - time.monotonic()))
            part = self._socket.recv(min(size - len(found), 1 << 20))
            if not part:
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(1.0)  # how it ended is reported
                raise ConnectionError
            found += part
        return bytes(found)


def _end(process: subprocess.Popen[bytes], ours: socket.socket) -> None:
    process.kill()
    # Whoever reads from it in another thread hears that it has ended.
    with suppress(OSError):
        ours.shutdown(socket.SHUT_RDWR)
    process.wait()
    ours.close()


def _became(code: int | None, seconds: float) -> str:
    """What became of the process, by its exit status."""
    if code in {-signal.SIGPROF, -signal.SIGXCPU}:
        return f"takes more than {seconds:.1f} s of processor time"
    if code in {-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS, -signal.SIGILL}:
        return (
            f"ends its process ({signal.Signals(-code).name}): it takes more than "
            f"{MOST_MEMORY_BYTES >> 30} GiB of memory, or is nested too deeply"
        )
    return "ends its process"


def _framed(message: bytes) -> bytes:
    return len(message).to_bytes(_HEAD, "little") + message


# -- the process ---------------------------------------------------------------------------


def _done(library: InProcess, what: str, value: Any) -> Any:
    """What `Apart` asks for."""
    match what:
        case "ids":
            return [_counted(library.ids([text])[0], text).tobytes() for text in value]
        case "spell":
            text, whole = value
            spelling = library.spell(text, whole=whole)
            _counted(spelling.ids, text)
            return spelling
        case "decode":
            return library.decode(value)
        case "id_of":
            return library.id_of(value)
        case _:
            return library.token_of(value)


def _counted(ids: Any, text: str) -> Any:
    if len(ids) > MOST_TOKENS_A_CHARACTER * len(text) + SPARE_TOKENS:
        raise TokenizerError(
            f"the model's tokenizer makes {len(ids)} tokens of {len(text)} characters"
        )
    return ids


def _reserved_bytes() -> int:
    """Address space that libraries reserved when they were loaded; much where there are many
    processors.
    """
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except OSError:
        return 0
    return pages * resource.getpagesize()


def _read(file: Any) -> Any:
    head = file.read(_HEAD)
    if len(head) < _HEAD:
        sys.exit(0)  # the parent process has ended
    return msgspec.msgpack.decode(file.read(int.from_bytes(head, "little")))


def main() -> None:
    """For the process of its own: load what comes first, then do what is asked."""
    most = _reserved_bytes() + MOST_MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name, value in ONE_THREAD.items():
        os.putenv(name, value)
    path, library = Path(sys.argv[1]), None
    kind = TokenizerKind("", frozenset(), "", None)  # the parent process knows it
    with socket.socket(fileno=os.dup(0)) as ours, ours.makefile("rb") as file:
        while True:
            seconds, (first, second) = _read(file)
            signal.setitimer(signal.ITIMER_PROF, seconds)  # its signal ends a process
            try:
                answer: tuple[bool, Any] = True, None
                if library is None:
                    library = InProcess(path, first, kind, second)
                else:
                    answer = True, _done(library, first, second)
            except EmbedfleetError as error:
                answer = False, shortened(error.message, MOST_TOLD)
            signal.setitimer(signal.ITIMER_PROF, 0)
            ours.sendall(_framed(msgspec.msgpack.encode(answer)))


if __name__ == "__main__":
    main()
