"""HTTP servers of one process: connections, limits on clients, a graceful stop.

Decides how bytes become requests and answers become bytes. Refuses to know what apps do.
"""

from embedfleet.serving.limits import ClientLimits
from embedfleet.serving.servers import Listener, StopSignal, bind, bind_shared, serving

__all__ = ["ClientLimits", "Listener", "StopSignal", "bind", "bind_shared", "serving"]
