"""Loads untrusted model files in a child process first, which may crash on them.

A tokenizer.json can pad to 10^12 tokens or expand each token to a hundred characters, and some
files make the library panic. The child process has limits on memory and CPU time; the gateway loads
a file only if the child exited successfully.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sys
from pathlib import Path

from embedfleet.models.description import describe
from embedfleet.models.tokenizer_file import load_tokenizer
from embedfleet.vocabulary import EmbedfleetError, ModelError

MOST_SECONDS = 20
"""Processor time; the largest tokenizers load within three seconds."""

MOST_MEMORY_BYTES = 3 << 30
"""Address space, of which much is only reserved. The largest tokenizers take a few hundred MiB."""

MOST_TOKENS_A_CHARACTER = 8
"""A character has at most four bytes, each of them a token at worst; what makes more of them does
not tokenise."""

ATTEMPTS = (
    "the sea",
    " \n\t.,:;!?'\"-_()[]{}<>|/\\@#$%^&*+=~`" * 20,
    "0123456789 abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ " * 20,
    "a" * 2_000,
    "." * 2_000,
    " " * 2_000,
    "äöü ß é ñ 中文 日本語 한국어 العربية עברית 🙂 \u0301\u200d\ufeff " * 20,
)


async def try_files(directory: Path) -> None:
    """Have the files of a model tried. Raises ModelError that says what came of it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "embedfleet.models.trial",
        str(directory),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(4 * MOST_SECONDS):
            told, _ = await process.communicate()
    except TimeoutError:
        raise ModelError("trying its tokenizer took too long") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        words = told.decode("utf-8", "replace").strip()
        raise ModelError(words or f"trying its tokenizer ended with {process.returncode}")


def survived(directory: Path) -> None:
    """`try_files` where no event loop runs. Raises ModelError that names the directory."""
    if not directory.is_dir():
        return  # whoever reads it says so
    try:
        asyncio.run(try_files(directory))
    except ModelError as error:
        named = str(directory) in error.message
        raise ModelError(error.message if named else f"{directory}: {error.message}") from None


def _try(directory: Path) -> None:
    """Load and use what a gateway would. Raises ModelError, or dies."""
    describe(directory)
    tokenizer = load_tokenizer(directory / "tokenizer.json")
    for text in ATTEMPTS:
        tokens = len(tokenizer.encode(text, add_special_tokens=False).ids)
        if tokens > MOST_TOKENS_A_CHARACTER * len(text):
            raise ModelError(f"its tokenizer makes {tokens} tokens of {len(text)} characters")


def _reserved_bytes() -> int:
    """Address space that libraries reserved when they were loaded; much where there are many
    processors.
    """
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except OSError:
        return 0
    return pages * resource.getpagesize()


def main() -> int:
    """For the process of its own: 0 when nothing is wrong, else 1 and a line that says what."""
    most = _reserved_bytes() + MOST_MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS, MOST_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        _try(Path(sys.argv[1]))
    except EmbedfleetError as error:
        print(error.message)  # noqa: T201  what the gateway reads
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
