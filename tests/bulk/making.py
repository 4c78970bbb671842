"""Inputs, a client without a network, and stores that fail when they are told to."""

from __future__ import annotations

import errno
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from embedfleet.api.formats.vector_forms import rounded, scale
from embedfleet.bulk.columns import Columns
from embedfleet.bulk.running import PROBE, Job, Progress, run
from embedfleet.client import Embedded, EmbedOptions, RefusedError, ServedModel
from embedfleet.client.wire import DTYPES
from embedfleet.runtime.folders import LocalStore, Parts, Store, Written
from tests.fakes.revealing_service import MODEL, WIDTH, vector_of

IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
"""Where files are synced in no time: tests make thousands."""

SEVERAL = 3
"""Texts that the client answers at once."""


class RevealingClient:
    """Answers as a service would whose vectors reveal their texts."""

    def __init__(self, refused: Sequence[str] = (), salt: str = "") -> None:
        self.computed: Counter[str] = Counter()
        self.refused = set(refused)
        self.model: str | None = None
        self.space: str | None = None
        self.killed: Callable[[], bool] = lambda: False
        """Whether the process that asks has ended: after that, nothing is computed for it."""
        self._salt = salt

    async def served_model(self) -> ServedModel:
        return ServedModel(MODEL, WIDTH)

    async def embed(self, text: str, *, dimensions: int | None = None, **_: Any) -> NDArray[Any]:
        return vector_of(self._salt + text, dimensions or WIDTH)

    async def embed_each(
        self,
        texts: Sequence[str],
        options: EmbedOptions | None = None,
        *,
        progress: Any = None,
        arrived: Callable[[Sequence[int], NDArray[Any]], None] | None = None,
    ) -> Embedded:
        options = options or EmbedOptions()
        width, kind = options.dimensions or WIDTH, options.output_dtype
        columns = width // 8 if "binary" in kind else width
        vectors = np.zeros((len(texts), columns), DTYPES[kind])
        errors = {}
        good = []
        for at, text in enumerate(texts):
            if text in self.refused:
                errors[at] = RefusedError(
                    "status 400: too long", http_status=400, code="context_length_exceeded"
                )
            else:
                good.append(at)
        for start in range(0, len(good), SEVERAL):
            if self.killed():
                raise KilledError
            some = good[start : start + SEVERAL]
            for at in some:
                if texts[at] != PROBE:
                    self.computed[texts[at]] += 1
                row = vector_of(self._salt + texts[at], width)
                vectors[at] = rounded(row[np.newaxis], kind)[0]
            if arrived is not None:
                arrived(some, vectors[some])
        return Embedded(vectors, errors, len(texts), scale(kind, width))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...


Result = TypeVar("Result")


class KilledError(BaseException):
    """The end of a process, as near as one comes to it within one."""


class FailingStore(LocalStore):
    """Ends at its n-th operation on a file: before it, in the midst of it, or after it."""

    def __init__(self, path: Path, at: int, how: str) -> None:
        super().__init__(path)
        self._left = at
        self._how = how
        self.failed = False

    def killed(self) -> bool:
        return self.failed and self._how != "full"

    def write(self, name: str, parts: Parts) -> Written:
        self._before(self.path / name)
        return self._after(super().write(name, parts))

    def remove(self, name: str) -> None:
        self._before(None)
        self._after(super().remove(name))

    def read(self, name: str) -> bytes:
        self._before(None)
        return self._after(super().read(name))

    def _before(self, target: Path | None) -> None:
        self._left -= 1
        if self.failed:
            raise KilledError
        if self._left < 0 and self._how != "after":
            self.failed = True
            if self._how == "torn" and target is not None:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.with_name(f".{target.name}.0123abcd.tmp").write_bytes(b"half of")
            if self._how == "full":
                raise OSError(errno.ENOSPC, "No space left on device")
            raise KilledError

    def _after(self, result: Result) -> Result:
        if self._left < 0 and self._how == "after":
            self.failed = True
            raise KilledError
        return result


def job(source: Path, **options: Any) -> Job:
    columns = options.pop("columns", Columns(carry=None))
    return Job([str(source)], columns, **{"fragment_rows": 4, **options})


async def ran(
    wanted: Job, out: Path, client: RevealingClient, store: Store | None = None
) -> Progress:
    store = store or LocalStore(out)
    client.killed = store.killed if isinstance(store, FailingStore) else lambda: False
    try:
        return await run(wanted, client, store, out / "_ledger")  # type: ignore[arg-type]
    finally:
        store.close()


def json_lines(path: Path, rows: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def tree(folder: Path) -> dict[str, bytes]:
    """All files below, by their names."""
    return {
        each.relative_to(folder).as_posix(): each.read_bytes()
        for each in sorted(folder.rglob("*"))
        if each.is_file()
    }


def vectors_by_text(out: Path) -> dict[str, NDArray[np.float32]]:
    """Of an output as JSON lines that carries the texts."""
    found = {}
    for file in sorted(out.glob("*.jsonl")):
        if not file.name.startswith("_"):
            for line in file.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                found[row["text"]] = np.array(row["embedding"], np.float32)
    return found
