"""Working memory of a CPU engine: the configured budget, or enough for the longest text."""

from __future__ import annotations

from typing import Final

from embedfleet.vocabulary import SettingError

MIB: Final = 1 << 20
_USUAL_MIB: Final = 1_024


def granted_mib(needed: int, max_tokens: int, wanted: int | None) -> int:
    """The budget in MiB: the configured one, or enough for the longest text.

    Raises SettingError when texts of `max_tokens` tokens can't be computed with what is wanted.
    """
    if wanted is not None and wanted < needed:
        raise SettingError(
            f"memory_mib is {wanted}, but a text of {max_tokens} tokens needs {needed}; "
            "raise memory_mib or lower max_tokens."
        )
    return max(_USUAL_MIB, needed) if wanted is None else wanted
