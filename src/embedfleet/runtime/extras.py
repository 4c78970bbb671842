"""Optional dependencies: the command that adds an extra to this installation.

embedfleet may have been installed from a clone, a wheel, a repository or a private index. A name
that came from no index is never looked up on a public one, where anyone could register it.
"""

from __future__ import annotations

import json
import shlex
import sys
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any
from urllib.parse import unquote, urlsplit


def how_to_add(extra: str) -> str:
    """A command line that can be pasted into a shell."""
    try:
        recorded = distribution("embedfleet").read_text("direct_url.json")
    except PackageNotFoundError:
        recorded = None
    return command(extra, None if recorded is None else json.loads(recorded), sys.executable)


def command(extra: str, origin: dict[str, Any] | None, python: str) -> str:
    """`origin` is what pip recorded in direct_url.json (PEP 610); None is an index."""
    words = [python, "-m", "pip", "install"]
    if origin is None:
        return shlex.join([*words, f"embedfleet[{extra}]"])
    url = origin["url"]
    if "vcs_info" in origin:
        vcs = origin["vcs_info"]
        url = f"{vcs['vcs']}+{url}@{vcs['commit_id']}"
    if "dir_info" in origin:
        path = f"{unquote(urlsplit(url).path)}[{extra}]"
        editable = ["--editable"] if origin["dir_info"].get("editable") else []
        return shlex.join([*words, *editable, path])
    return shlex.join([*words, f"embedfleet[{extra}] @ {url}"])
