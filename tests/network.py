"""What the network of this machine has, for tests that need more of it than IPv4's loopback."""

from __future__ import annotations

import socket

import pytest


def has_ipv6() -> bool:
    """Whether its loopback address is there; in containers it often is not."""
    try:
        with socket.socket(socket.AF_INET6) as tried:
            tried.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
