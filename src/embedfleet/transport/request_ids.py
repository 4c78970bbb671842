"""Request ids: the client's `x-request-id` if it is short and safe to log, else a generated one."""

from __future__ import annotations

import re
import secrets
from itertools import count

HEADER = b"x-request-id"

_HARMLESS = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_PROCESS = secrets.token_hex(6)
_numbers = count(1)


def request_id(sent: bytes | None) -> str:
    """The caller's name for its request, the header's value, if it is a harmless one; else `req_…`,
    used once.
    """
    if sent is not None and _HARMLESS.fullmatch(sent):
        return sent.decode("ascii")
    return f"req_{_PROCESS}{next(_numbers):08x}"
