"""One replica process; `run` is what `embedfleet replica` calls."""

from embedfleet.server.replica.process import run

__all__ = ["run"]
