"""Resolves input names, directories and patterns to files, local or at any address of fsspec."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from embedfleet.bulk.errors import BulkError
from embedfleet.runtime.folders import is_remote
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
        """The name without extensions and characters that file names may not have."""
        plain = self.name
        for suffix in (*COMPRESSED, *FORMATS):
            plain = plain.removesuffix(suffix)
        return re.sub(r"[^A-Za-z0-9.-]+", "-", plain).strip("-.") or "rows"

    def open(self) -> IO[bytes]:
        """Open the file, decompressed. Raises BulkError."""
        try:
            if self.compression is None and not is_remote(self.address):
                return Path(self.address).open("rb")
            import fsspec  # noqa: PLC0415  takes a tenth of a second

            opened: Any = fsspec.open(self.address, "rb", compression=self.compression)
            return opened.open()  # type: ignore[no-any-return]
        except (OSError, ValueError, ImportError) as error:
            if self.compression == "zstd" and isinstance(error, ValueError):
                raise BulkError(
                    f"{self.address}: reading zstd takes the package `zstandard`"
                ) from error
            raise BulkError(f"{self.address} can't be read: {reason(error)}") from error


def found(addresses: Sequence[str], format_: str | None = None) -> list[Source]:
    """The files at some addresses, each once, sorted by name.

    An address is a file, a folder (all files below it with a known extension) or a pattern.
    `format_` is the format of files whose extension is not known. Raises BulkError.
    """
    sources: dict[str, Source] = {}
    for address in addresses:
        for each in _of(address.removeprefix("file://"), format_):
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


def _of(address: str, format_: str | None) -> Iterable[Source]:
    names, root, named = _listed(address)
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
    path = Path(address)
    try:
        if path.is_file():
            return [str(path)], str(path.parent), True
        if path.is_dir():
            return [str(each) for each in path.rglob("*") if each.is_file()], str(path), False
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


def _root_of(pattern: str) -> str:
    """The part of a pattern before its first wildcard, up to a slash."""
    fixed = re.split(r"[*?\[]", pattern)[0]
    head, slash, _ = fixed.rpartition("/")
    return head + slash if head or slash else "."


def _listed_remotely(address: str) -> tuple[list[str], str, bool]:
    import fsspec  # noqa: PLC0415

    try:
        system, path = fsspec.url_to_fs(address)
        if glob.has_magic(path):
            names, root, named = system.glob(path), _root_of(path), False
        elif system.isdir(path):
            names, root, named = system.find(path), path, False
        else:
            names, root, named = [path] * system.exists(path), path.rpartition("/")[0], True
    except (OSError, ValueError, ImportError) as error:
        raise BulkError(f"{address} can't be read: {error}") from error
    if not names:
        raise BulkError(f"{address}: there is no such file or folder")
    full = [system.unstrip_protocol(each) for each in names]
    return full, system.unstrip_protocol(root) if root else "", named
