"""What an endpoint relies on, whoever decides who may ask; one suite for all of them.

A test class inherits from `AccessConformance` and provides the fixtures `access` and `bearer`, a
header that is let in and allows more than these tests use.
"""

from __future__ import annotations

from embedfleet.transport.access import Access
from embedfleet.vocabulary import Lane


class AccessConformance:
    """The rules, as tests."""

    def test_a_pass_says_whose_it_is_and_which_lane(self, access: Access, bearer: str) -> None:
        opened = access.open(bearer)
        assert isinstance(opened.key, str)
        assert opened.lane is None or isinstance(opened.lane, Lane)

    def test_passes_of_several_requests_are_open_at_once(self, access: Access, bearer: str) -> None:
        opened = [access.open(bearer) for _ in range(10)]
        for each in opened:
            each.enter("model", 100)
            each.charge(1000)
        for each in opened:
            each.close()

    def test_a_request_that_fails_anywhere_on_its_way_can_be_closed(
        self, access: Access, bearer: str
    ) -> None:
        """Before it asked for a model, before it paid, and after it was closed."""
        access.open(bearer).close()
        entered = access.open(bearer)
        entered.enter("model", 1)
        entered.close()
        entered.close()

    def test_a_request_may_pay_in_parts_and_nothing_at_all(
        self, access: Access, bearer: str
    ) -> None:
        opened = access.open(bearer)
        opened.enter("model", 3)
        for tokens in (0, 5, 7):
            opened.charge(tokens)
        opened.close()

    def test_remaining_limits_are_reported_in_headers_when_they_are_sent(
        self, access: Access, bearer: str
    ) -> None:
        for name, value in access.open(bearer).headers():
            assert name == name.lower()
            assert value.isascii()
            assert b"\n" not in value
