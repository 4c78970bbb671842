"""The service that the contract is tried on."""

from __future__ import annotations

import pytest

from tests.contract.endpoint import Endpoint


@pytest.fixture(scope="session")
def base_url(request: pytest.FixtureRequest) -> str:
    """Where the service under test answers, ending in `/v1`."""
    try:
        service = request.getfixturevalue("service")
    except pytest.FixtureLookupError:
        pytest.skip("no fixture `service` to run the contract against")
    return str(service.base_url).rstrip("/").removesuffix("/v1") + "/v1"


@pytest.fixture(scope="session")
def endpoint(base_url: str) -> Endpoint:
    return Endpoint(base_url)
