"""What ends a run, beside what a service says."""

from __future__ import annotations

from embedfleet.vocabulary import SetupError


class BulkError(SetupError):
    """A run can't begin, or not go on, as it was asked to; nothing that was done is lost."""
