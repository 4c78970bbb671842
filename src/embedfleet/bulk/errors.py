"""Errors that end a bulk run, beside those of the service."""

from __future__ import annotations

from embedfleet.vocabulary import SetupError


class BulkError(SetupError):
    """A run can't begin, or not go on, as it was asked to; nothing that was done is lost."""
