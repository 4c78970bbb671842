"""Who may ask, and how much: API keys, their limits, and the file that holds them.

`access` is what an endpoint asks for. `keys` and `records` decide what a key looks like and what is
written of it, `bucket` and `passes` how much it may use, `keyring` who is let in; `storing` and
`watching` are the shells around the file.
"""

from embedfleet.access.access import Access, Earlier, OpenAccess, OpenPass, Pass
from embedfleet.access.keyring import KeyRing
from embedfleet.access.records import KeyRecord

__all__ = ["Access", "Earlier", "KeyRecord", "KeyRing", "OpenAccess", "OpenPass", "Pass"]
