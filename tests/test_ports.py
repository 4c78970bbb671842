"""What tests rely on for servers that come back at the port that they had."""

from __future__ import annotations

import socket

from tests.ports import RANGE, free_port, free_ports


def test_a_free_port_can_be_listened_on_again_and_again_at_every_address() -> None:
    hosts = ("127.0.0.2", "127.0.0.3")
    port = free_port(hosts)
    for _ in range(3):
        for host in hosts:
            socket.create_server((host, port)).close()


def test_no_port_is_given_twice_or_by_the_kernel_to_others() -> None:
    ports = free_ports(50)
    assert len(set(ports)) == len(ports)
    first, last = map(int, RANGE.read_text().split())
    if last - first < 50_000:  # else there is none beside them
        assert not [each for each in ports if first <= each <= last]


def test_a_port_that_is_listened_on_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert taken.getsockname()[1] not in free_ports(3)
