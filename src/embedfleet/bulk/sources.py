"""Resolves input names, directories and patterns to files, local or at any address of fsspec."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from embedfleet.bulk.errors import BulkError
from embedfleet.runtime.extras import how_to_add
from embedfleet.runtime.folders import is_remote, of_a_driver, opened_remotely
from embedfleet.runtime.text_files import reason

FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "text",
    ".text": "text",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".ipc": "arrow",
    ".feather": "arrow",
}
"""Formats by file name extension."""

COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd"}
"""Compression, as fsspec names it, by file name extension."""


LONGEST_STEM = 200
"""File systems take 255 bytes; a fragment's files add a number, an ending and a temporary mark."""


@dataclass(frozen=True, slots=True)
class Source:
    """One file of the input."""

    address: str
    """A path, or an fsspec URL."""
    name: str
    """Its name in the output: its path below the folder or pattern that was given."""
    format: str
    compression: str | None = None

    @property
    def stem(self) -> str:
        """The name without extensions and characters that file names may not have, and short enough
        for the names that begin with it.
        """
        plain = self.name
        for suffix in (*COMPRESSED, *FORMATS):
            plain = plain.removesuffix(suffix)
        stem = re.sub(r"[^A-Za-z0-9.-]+", "-", plain).strip("-.") or "rows"
        if len(stem) > LONGEST_STEM:
            digest = hashlib.blake2b(stem.encode(), digest_size=8).hexdigest()
            stem = f"{stem[: LONGEST_STEM - 17]}-{digest}"
        return stem

    @contextlib.contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        """The file, decompressed. Raises BulkError where it can't be opened, then OSError and those
        of what decompresses.
        """
        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(self._stored())
                if self.compression is not None:
                    file = stack.enter_context(self._decompressed(file))
            except (OSError, ValueError, ImportError) as error:
                raise BulkError(f"{self.address} can't be read: {reason(error)}") from error
            yield file

    def _stored(self) -> IO[bytes]:
        if not is_remote(self.address):
            return Path(self.address).open("rb")
        return opened_remotely(self.address)

    def _decompressed(self, file: IO[bytes]) -> IO[bytes]:
        from fsspec.compression import compr  # noqa: PLC0415  takes a tenth of a second

        if self.compression == "zstd" and not _tells_truncated_zstd():
            raise BulkError(
                f"{self.address}: reading zstd takes the package `backports.zstd`: "
                f"{how_to_add('bulk')}"
            )
        found: IO[bytes] = compr[self.compression](file, mode="rb")
        return found


def _tells_truncated_zstd() -> bool:
    """Whether fsspec reads zstd by the library that raises EOFError where a file is cut off; the
    older `zstandard` reads it as shorter.
    """
    return sys.version_info >= (3, 14) or importlib.util.find_spec("backports.zstd") is not None


def found(
    addresses: Sequence[str], format_: str | None = None, output: str | None = None
) -> list[Source]:
    """The files at some addresses, each once, sorted by name.

    An address is a file, a folder (all files below it with a known extension) or a pattern.
    `format_` is the format of files whose extension is not known. What lies in the folder `output`
    is no input unless it is named. Raises BulkError.
    """
    sources: dict[str, Source] = {}
    for address in addresses:
        for each in _of(address.removeprefix("file://"), format_, output):
            sources.setdefault(each.address, each)
    stems: dict[str, Source] = {}
    for each in sources.values():
        other = stems.setdefault(each.stem, each)
        if other is not each:
            raise BulkError(
                f"{other.address} and {each.address} would have the same name in the output; "
                "give their common folder, or rename one"
            )
    if not sources:
        raise BulkError(f"there are no files at {', '.join(addresses)}")
    return list(sources.values())


def _of(address: str, format_: str | None, output: str | None) -> Iterable[Source]:
    names, root, named = _listed(address)
    if output is not None and not named and names:
        names = _outside(names, output)
        if not names:
            raise BulkError(f"{address} holds nothing but the output: give another input or output")
    known = []
    for each in sorted(names):
        name = PurePosixPath(each).relative_to(root).as_posix() if root else each
        if any(part.startswith(("_", ".")) for part in PurePosixPath(name).parts) and not named:
            continue  # metadata that tools keep beside their data
        what, compression = kind_of(each)
        if what is None and not named:
            continue
        if (what or format_) is None:
            raise BulkError(
                f"{each}: unknown file name extension; set --input-format to one of "
                f"{', '.join(sorted(set(FORMATS.values())))}"
                + "; `jq -c '.[]'` turns a list in JSON into JSON lines"
                * each.endswith(".json")
            )
        known.append(Source(each, name, format_ or what or "", compression))
    if not known:
        raise BulkError(
            f"{address}: no file there whose name ends with one of {', '.join(FORMATS)}"
        )
    return known


def kind_of(name: str) -> tuple[str | None, str | None]:
    """Format and compression of a file by its name."""
    lower = name.lower()
    packed = next((end for end in COMPRESSED if lower.endswith(end)), "")
    lower = lower.removesuffix(packed)
    what = next((kind for end, kind in FORMATS.items() if lower.endswith(end)), None)
    return what, COMPRESSED.get(packed)


def _listed(address: str) -> tuple[list[str], str, bool]:
    """The files at an address, their root, and whether it names a single file."""
    if is_remote(address):
        return _listed_remotely(address)
    if not address:
        raise BulkError("the name of an input is empty")
    if address == "-":
        raise BulkError(
            "standard input can be read once; a run reads its input twice: write it to a file first"
        )
    path = Path(address)
    try:
        if path.is_file():
            return [str(path)], str(path.parent), True
        if path.is_dir():
            return list(_files_below(address)), str(path), False
        if path.exists():
            raise BulkError(
                f"{address} is a pipe or a device, which can be read once; a run reads its input "
                "twice: write it to a file first"
            )
        if glob.has_magic(address):
            matching = glob.iglob(address, recursive=True)  # noqa: PTH207  also absolute patterns
            names = [each for each in matching if Path(each).is_file()]
            return names, _root_of(address), False
    except (OSError, ValueError) as error:
        raise BulkError(f"{address} can't be read: {reason(error)}") from error
    raise BulkError(f"{address}: there is no such file or folder")


def _files_below(folder: str) -> Iterator[str]:
    """All files below a folder. Links to folders elsewhere are followed, each folder once. Raises
    OSError for what can't be listed, and BulkError for a link to nothing: rows would be missing.
    """

    def refuse(error: OSError) -> None:
        raise error

    seen = {os.path.realpath(folder)}
    for path, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        folders.sort()
        for name in list(folders):
            below = os.path.join(path, name)  # noqa: PTH118
            if Path(below).is_symlink():
                real = os.path.realpath(below)
                if any(
                    f"{real}/".startswith(f"{one}/") or f"{one}/".startswith(f"{real}/")
                    for one in seen
                ):
                    folders.remove(name)
                else:
                    seen.add(real)
        for name in files:
            file = Path(path) / name
            if file.is_file():
                yield str(file)
            elif file.is_symlink() and kind_of(name)[0] is not None:
                raise BulkError(f"{file} is a link to {file.readlink()}, which does not exist")


def _outside(names: Iterable[str], output: str) -> list[str]:
    """Those of some files that do not lie in a folder."""
    if is_remote(output):
        return [name for name in names if not name.startswith(output.rstrip("/") + "/")]
    root = Path(output).resolve()
    return [name for name in names if is_remote(name) or root not in Path(name).resolve().parents]


def _root_of(pattern: str) -> str:
    """The part of a pattern before its first wildcard, up to a slash."""
    fixed = re.split(r"[*?\[]", pattern)[0]
    head, slash, _ = fixed.rpartition("/")
    return head + slash if head or slash else "."


def _listed_remotely(address: str) -> tuple[list[str], str, bool]:
    import fsspec  # noqa: PLC0415

    try:
        with of_a_driver():
            system, path = fsspec.url_to_fs(address)
            if glob.has_magic(path):
                names, root, named = system.glob(path), _root_of(path), False
            elif system.isdir(path):
                names, root, named = system.find(path), path, False
            else:
                names, root, named = [path] * system.exists(path), path.rpartition("/")[0], True
    except OSError as error:
        raise BulkError(f"{address} can't be read: {reason(error)}") from error
    if not names:
        raise BulkError(f"{address}: there is no such file or folder")
    full = [system.unstrip_protocol(each) for each in names]
    return full, system.unstrip_protocol(root) if root else "", named
