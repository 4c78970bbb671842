"""The services that the contract is tried on."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.contract.computed_in_place import answering

SERVICES = ["in place", pytest.param("embedfleet serve", marks=pytest.mark.slow)]


@pytest.fixture(scope="session", params=SERVICES)
def base_url(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Where the service under test answers, ending in `/v1`."""
    if request.param == "embedfleet serve":
        service = request.getfixturevalue("service")
        yield str(service.base_url)
        return
    with answering(tmp_path_factory.mktemp("model"), reranker=True) as url:
        yield url


@pytest.fixture(scope="session")
def model(base_url: str) -> str:
    """The first model that the service lists."""
    with openai.OpenAI(base_url=base_url, api_key="none") as client:
        return client.models.list().data[0].id
