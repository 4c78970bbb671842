"""A process that loads models' files as a gateway does, and tokenises.

    python -m tests.models.use_of_files DIRECTORY…

Its memory and its processor time are bounded, so that what a gateway would not survive ends it.
Prints a line for each directory that was used to its end: its name, and what was wrong with it.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from embedfleet.models.description import describe
from embedfleet.models.encoding.encoder import Encoder
from embedfleet.vocabulary import EmbedfleetError, ModelError, Truncation

MEMORY_BYTES = 6 << 30
"""Address space, much of it only reserved, for all of the directories."""
MOST_FAILURES = 6
"""Texts of a tokenizer that fail before the others are left out."""

TEXTS = (
    *("the sea", " ", "\x00" * 100, "a" * 3000, "." * 3000, "\r\n\t" * 500, "x" * 17_000 + " y"),
    *("\ufeff\u200d\u0301" * 300, "🙂👨\u200d👩\u200d👧" * 200, "中文 日本語" * 300, "\u202e" * 50),
    *("<|endoftext|><s></s>[CLS][SEP]", "\uffff\U0010ffff" * 100, "ﷺ" * 500, "ßẞİı" * 300),
)


def use(directory: Path) -> str:
    """Load, and tokenise every text; what fails may only be an error of ours. What is wrong with
    the files, if they can't be loaded.
    """
    try:
        encoder = Encoder(describe(directory))
    except ModelError as error:
        return error.message
    failed = 0
    for text in TEXTS:
        for truncate in Truncation:
            try:
                (encoded,) = encoder.encode([text], prompt="", truncate=truncate)
                encoder.encode([encoded.ids.tolist()], prompt="", truncate=truncate)
            except EmbedfleetError:
                failed += 1
        if failed > MOST_FAILURES:
            break  # each may take its time
    encoder.close()
    return ""


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for word in sys.argv[1:]:
        seconds = int(resource.getrusage(resource.RUSAGE_SELF).ru_utime) + 60
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
        sys.stdout.write(f"{word}\t{use(Path(word))}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
