"""Loads untrusted model files in a child process first, which may crash on them.

A tokenizer.json can pad to 10^12 tokens or expand each token to a hundred characters, and some
files make the library panic. The child process has limits on memory and CPU time; the gateway loads
a file only if the child exited successfully.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from embedfleet.models.description import describe
from embedfleet.models.encoding.encoder import Encoder
from embedfleet.models.encoding.tokenizer import Tokenizer, finished
from embedfleet.models.json_files import read_object, shortened
from embedfleet.models.tokenizer_file import TokenizerError, panics_translated
from embedfleet.vocabulary import CallerError, EmbedfleetError, ModelError, Task, Truncation

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


ONE_THREAD = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
"""For the library in that process: each thread reserves address space, and there are many."""

_ALL = 2**62
"""Tokens of any text."""

MOST_TOLD = 1_000
"""Characters of an error; paths are in it."""

RUN = 2_000
"""Characters of a run of one sign."""

MOST_PATTERN_SIGNS = 64
"""Signs of a file's patterns that are tried in runs of their own."""


async def try_files(
    directory: Path,
    *,
    name: str | None = None,
    max_tokens: int | None = None,
    task: Task | None = None,
) -> None:
    """Have the files of a model tried, described as `describe` would with the same arguments.

    Raises ModelError that names the file and says what came of it.
    """
    how = orjson.dumps({"name": name, "max_tokens": max_tokens, "task": task}).decode()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "embedfleet.models.trial",
        str(directory),
        how,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    tokenizer = directory / "tokenizer.json"
    try:
        async with asyncio.timeout(4 * MOST_SECONDS):
            output, _ = await process.communicate()
    except TimeoutError:
        raise ModelError(f"{tokenizer}: trying it took more than {4 * MOST_SECONDS} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        words = output.decode("utf-8", "replace").strip()
        raise ModelError(words or f"{tokenizer} {_ended(process.returncode)}")


def _ended(code: int) -> str:
    """What a file did to the process that tried it, by its exit status."""
    if code in {-signal.SIGXCPU, -signal.SIGKILL}:
        return f"takes more than {MOST_SECONDS} s of processor time to load or to tokenise a few kB"
    if code in {-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS, -signal.SIGILL}:
        return (
            f"ends the process that loads it ({signal.Signals(-code).name}): it takes more than "
            f"{MOST_MEMORY_BYTES >> 30} GiB of memory, or is nested too deeply"
        )
    return f"can't be tried: the process ended with {code}"


def survived(
    directory: Path,
    *,
    name: str | None = None,
    max_tokens: int | None = None,
    task: Task | None = None,
) -> None:
    """`try_files` where no event loop runs. Raises ModelError that names the directory."""
    if not directory.is_dir():
        return  # whoever reads it says so
    try:
        asyncio.run(try_files(directory, name=name, max_tokens=max_tokens, task=task))
    except ModelError as error:
        named = str(directory) in error.message
        raise ModelError(error.message if named else f"{directory}: {error.message}") from None


def _try(directory: Path, how: dict[str, Any]) -> None:
    """Load and use what a gateway would. Raises ModelError, or dies."""
    model = describe(directory, **how)
    path = model.tokenizer_file
    tokenizer = Tokenizer(path, model.identity.vocabulary, lowercase=model.lowercase)
    prompt = max(model.identity.prompts.values(), key=len, default="")
    steps = partial(Encoder(model).steps, prompt=prompt, truncate=Truncation.END, own_ids=True)
    try:
        for text in (*ATTEMPTS, *_runs(path)):
            (ids,) = tokenizer.ids([text], most=_ALL)
            if len(ids) > MOST_TOKENS_A_CHARACTER * len(text):
                raise ModelError(f"{path} makes {len(ids)} tokens of {len(text)} characters")
            with contextlib.suppress(CallerError):  # the prompt leaves no room
                finished(steps([text]))
                finished(steps([ids]))
    except TokenizerError as error:
        raise ModelError(f"{path}: {error.message}") from None


def _runs(path: Path) -> Iterator[str]:
    """What a file's own patterns may take long for: runs of the signs that are in them."""
    definition = read_object(path)
    signs: dict[str, None] = {}
    left = [definition.get("normalizer"), definition.get("pre_tokenizer")]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            signs |= dict.fromkeys(map(str, part.values())) if "Regex" in part else {}
            left += part.values()
        elif isinstance(part, list):
            left += part
    each = list(dict.fromkeys("".join(signs)))[:MOST_PATTERN_SIGNS]
    yield from (sign * RUN for sign in each)
    if each:
        yield ("".join(each) * RUN)[:RUN]


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
    for name, value in ONE_THREAD.items():
        os.putenv(name, value)
    directory, how = Path(sys.argv[1]), orjson.loads(sys.argv[2])
    how["task"] = None if how["task"] is None else Task(how["task"])
    try:
        with panics_translated(directory):
            _try(directory, how)
    except EmbedfleetError as error:
        print(shortened(error.message, MOST_TOLD))  # noqa: T201  what the gateway reads
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
