"""Files that an operator names; errors say which one, and why in the system's words."""

from __future__ import annotations

from pathlib import Path

from embedfleet.vocabulary import SetupError

MOST_BYTES = 16 << 20
"""Of settings, keys and passwords; a device in their place has no end."""


def read_text(
    path: Path,
    what: str,
    raised: type[SetupError] = SetupError,
    *,
    most_bytes: int = MOST_BYTES,
) -> str:
    """The text of a file in UTF-8, without the mark that some editors begin it with. `what` names
    it in the error, which is of the type `raised`.
    """
    try:
        with path.open("rb") as file:
            content = file.read(most_bytes + 1)
        if len(content) > most_bytes:
            raise raised(f"{what} {path} can't be read: it has more than {most_bytes} bytes")
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise raised(f"{what} {path} can't be read: {reason(error)}") from error


def read_key(path: Path, what: str, raised: type[SetupError] = SetupError) -> str:
    """The one key in a file. Raises what `read_text` does, also where the file holds no key."""
    key = read_text(path, what, raised).strip()
    if not key or not key.isascii() or not key.isprintable():
        raise raised(f"{what} {path} must hold a key in one line")
    return key


def expect_writable(path: Path, raised: type[SetupError] = SetupError) -> None:
    """Raises `raised` where a file can't be written, before the work that would be lost. A file
    that did not exist does not exist afterwards either.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            return  # opening a pipe would wait for its reader, and closing it end it
        new = not path.exists()
        path.open("ab").close()
        if new:
            path.resolve().unlink()
    except OSError as error:
        raise unwritable(path, error, raised) from error


def write_file(path: Path, content: bytes, raised: type[SetupError] = SetupError) -> None:
    """Write a file where it stands: a link stays a link, a device a device, and permissions are
    kept. Raises `raised`.
    """
    try:
        path.write_bytes(content)
    except OSError as error:
        raise unwritable(path, error, raised) from error


def unwritable(path: Path, error: OSError, raised: type[SetupError]) -> SetupError:
    """The error of a file that an operator named and that can't be written."""
    return raised(f"the file {path} can't be written: {reason(error)}")


def reason(error: Exception) -> str:
    """Why a file can't be read or written, without its name and without Python's numbers."""
    if isinstance(error, UnicodeDecodeError):
        return f"it is not valid UTF-8 (byte {error.start})"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)
