"""The room for answers in flight: never more than it has, and the slow go first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.transport.serving.write_buffers import FAST_BYTES_PER_S, GRACE_S, Answers
from embedfleet.vocabulary import ServiceError

MOST = 1000


class Client:
    """One that takes answers."""

    def __init__(self) -> None:
        self.cut = False

    def cut_off(self) -> None:
        self.cut = True


def test_a_single_answer_has_room_however_large_it_is() -> None:
    answers, client = Answers(MOST), Client()
    answers.hold(client, "a", 50 * MOST, 0.0)
    with pytest.raises(ServiceError, match=r"gateway\.max_answer_bytes"):
        answers.hold(Client(), "b", 1, 0.0)
    answers.release(client)
    answers.hold(Client(), "b", MOST, 0.0)


def test_the_slowest_is_cut_off_to_make_room_and_the_fast_are_not() -> None:
    answers, slow, slower, fast = Answers(MOST), Client(), Client(), Client()
    for number, client in enumerate((slow, slower, fast)):
        answers.hold(client, f"{number}", 300, 0.0)
    answers.took(slow, 100)
    answers.took(fast, int(FAST_BYTES_PER_S * GRACE_S) + 1)
    answers.hold(Client(), "new", 300, GRACE_S)
    assert (slow.cut, slower.cut, fast.cut) == (False, True, False)


def test_no_client_is_cut_off_at_once_and_what_has_no_room_is_refused() -> None:
    answers, client = Answers(MOST), Client()
    answers.hold(client, "a", 900, 0.0)
    with pytest.raises(ServiceError):
        answers.hold(Client(), "b", 200, GRACE_S / 2)
    assert not client.cut
    assert answers.shed == 1


def test_one_address_has_half_of_the_room() -> None:
    answers = Answers(MOST)
    answers.hold(Client(), "a", 300, 0.0)
    with pytest.raises(ServiceError, match="half of it for one address"):
        answers.hold(Client(), "a", 201, 0.0)
    answers.hold(Client(), "b", 201, 0.0)


ORDERS = st.lists(
    st.tuples(
        st.sampled_from(("hold", "take", "leave")),
        st.integers(0, 9),
        st.integers(1, 700),
        st.sampled_from("abc"),
        st.floats(0, 10),
    ),
    max_size=100,
)


@given(ORDERS)
def test_whatever_clients_do_no_more_is_held_than_there_is_room_for(
    orders: list[tuple[str, int, int, str, float]],
) -> None:
    answers, clients = Answers(MOST), [Client() for _ in range(10)]
    held: dict[Client, int] = {}
    now = 0.0
    for what, number, size, address, pause in orders:
        now += pause
        client = clients[number]
        if what == "hold" and client not in held:
            try:
                answers.hold(client, address, size, now)
                held[client] = size
            except ServiceError:
                assert answers.bytes
        elif what == "take":
            answers.took(client, size)
        elif what == "leave":
            answers.release(client)
            held.pop(client, None)
        for each in [one for one in held if one.cut]:
            del held[each]
            each.cut = False
        assert answers.bytes == sum(held.values())
        assert answers.bytes <= MOST or len(held) == 1
