"""The error that ends a bulk run, other than the client's."""

from __future__ import annotations

from embedfleet.vocabulary import SetupError


class BulkError(SetupError):
    """A run can't start or continue; completed work is kept."""
