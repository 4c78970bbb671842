"""The head of an answer leaves with the first of its body, in one write."""

from __future__ import annotations

import asyncio
from typing import cast

from embedfleet.transport.serving.head import Head


class Transport:
    """Remembers what is written."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.closed = True


def test_a_head_waits_for_the_first_of_the_body() -> None:
    transport = Transport()
    head = Head(cast("asyncio.Transport", transport))
    head.write(b"head ")
    assert not transport.writes
    head.write(memoryview(b"body"))
    head.write(b" and more")
    head.flush()
    assert transport.writes == [b"head body", b" and more"]


def test_a_head_without_a_body_leaves_at_the_end_or_when_the_connection_is_closed() -> None:
    for end in (Head.flush, Head.close):
        transport = Transport()
        head = Head(cast("asyncio.Transport", transport))
        head.write(b"head")
        end(head)
        assert transport.writes == [b"head"]
        assert transport.closed is (end is Head.close)


def test_an_empty_body_lets_the_head_leave() -> None:
    transport = Transport()
    head = Head(cast("asyncio.Transport", transport))
    head.write(b"head")
    head.write(b"")
    head.close()
    assert transport.writes == [b"head"]
