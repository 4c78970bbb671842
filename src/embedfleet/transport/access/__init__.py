"""Access control: API keys, their limits, and the file that holds them.

`access` is the interface that endpoints use. `keys` and `records` define keys and how they are
stored, `bucket` and `passes` their limits, `keyring` authentication; `storing` and `watching` are
the shells around the file.
"""

from embedfleet.transport.access.access import (
    Access,
    DelegatedAccess,
    OpenAccess,
    Quota,
    UnlimitedQuota,
)
from embedfleet.transport.access.keyring import KeyRing
from embedfleet.transport.access.records import KeyRecord

__all__ = [
    "Access",
    "DelegatedAccess",
    "KeyRecord",
    "KeyRing",
    "OpenAccess",
    "Quota",
    "UnlimitedQuota",
]
