"""The HTTP servers of a process: connections, client limits and graceful shutdown."""

from embedfleet.transport.serving.binding import AddressTakenError, bind, listening
from embedfleet.transport.serving.limits import ClientLimits
from embedfleet.transport.serving.servers import Listener, StopSignal, serving

__all__ = [
    "AddressTakenError",
    "ClientLimits",
    "Listener",
    "StopSignal",
    "bind",
    "listening",
    "serving",
]
