"""HTTP servers of one process: connections, limits on clients, a graceful stop.

Decides how bytes become requests and answers become bytes. Refuses to know what apps do.
"""

from embedfleet.serving.binding import AddressTakenError, bind, listening
from embedfleet.serving.limits import ClientLimits
from embedfleet.serving.servers import Listener, StopSignal, serving

__all__ = [
    "AddressTakenError",
    "ClientLimits",
    "Listener",
    "StopSignal",
    "bind",
    "listening",
    "serving",
]
