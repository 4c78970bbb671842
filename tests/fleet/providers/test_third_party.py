"""Where third-party engines listen that are started here."""

from __future__ import annotations

import socket

from embedfleet.fleet.providers.third_party import PORTS, _free_port
from tests.ports import RANGE


def test_engines_that_start_together_have_ports_of_their_own() -> None:
    """They listen minutes later: until then nothing shows that a port is taken."""
    ports = [_free_port() for _ in range(30)]
    assert len(set(ports)) == len(ports)
    assert set(ports) <= set(PORTS)


def test_ports_for_engines_are_outside_the_ephemeral_range() -> None:
    first, _ = map(int, RANGE.read_text().split())
    if first == 32_768:  # as it is unless somebody changed it
        assert first not in PORTS
        assert max(PORTS) < first


def test_a_port_in_use_is_not_chosen() -> None:
    port = _free_port()
    with socket.create_server(("127.0.0.1", port)):
        assert port not in {_free_port() for _ in range(30)}
