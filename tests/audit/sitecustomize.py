"""Writes down what this Python process and those that it starts do to the world around them.

A directory for PYTHONPATH: Python imports `sitecustomize` before anything else, in every child too.
Each line of the file that AUDIT_LOG names is one event as JSON: `[pid, event, what]`.
"""

from __future__ import annotations

import json
import os
import sys

LOG = os.open(os.environ["AUDIT_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
PATHS = {"os.mkdir", "os.rename", "os.link", "os.symlink", "os.truncate", "shutil.copyfile"}
ENDPOINTS = {"socket.connect", "socket.sendto", "socket.bind"}
NAMES = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "urllib.Request"}
FORKS = {"os.fork", "os.forkpty"}


def _note(event: str, what: object) -> None:
    os.write(LOG, (json.dumps([os.getpid(), event, what]) + "\n").encode())


def _text(value: object) -> str:
    return os.fsdecode(value) if isinstance(value, str | bytes | os.PathLike) else str(value)


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open":
        path, _mode, flags = arguments
        if isinstance(flags, int) and flags & WRITES and not isinstance(path, int):
            _note(event, _text(path))
    elif event in ENDPOINTS:
        address = arguments[1]
        _note(event, list(address) if isinstance(address, tuple) else _text(address))
    elif event in PATHS or event in NAMES:
        _note(event, _text(arguments[0]))
    elif event in FORKS:
        _note(event, "")


sys.addaudithook(_audit)
