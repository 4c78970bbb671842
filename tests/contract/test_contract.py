"""embedfleet keeps OpenAI's contract, one sentence after the other."""

from __future__ import annotations

import pytest

from tests.contract import answers, errors
from tests.contract.check import CHECKS, Check, Inapplicable
from tests.contract.endpoint import Endpoint


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_the_service_keeps_the_contract(check: Check, endpoint: Endpoint) -> None:
    try:
        check.run(endpoint)
    except Inapplicable as reason:
        pytest.skip(str(reason))


def test_every_module_of_checks_is_in_the_contract() -> None:
    modules = {check.run.__module__ for check in CHECKS}
    assert modules == {answers.__name__, errors.__name__}
