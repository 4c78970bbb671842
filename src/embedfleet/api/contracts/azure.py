"""Azure OpenAI, and OpenAI's earlier API: the path names the model.

`/openai/deployments/NAME/embeddings?api-version=…` and `/v1/engines/NAME/embeddings`. The name in
the path takes precedence over `model`: Azure's clients put the name of OpenAI's model there.
"""

from __future__ import annotations

from embedfleet.api.contracts.contract import Asked
from embedfleet.api.contracts.openai import OpenAI, checked
from embedfleet.api.formats.embedding_request import EmbeddingRequest
from embedfleet.api.formats.large_bodies import Body, Step
from embedfleet.api.formats.openai_request import parse_large_request, parse_request
from embedfleet.vocabulary import UnknownRouteError

PREFIXES = ("/openai/deployments/", "/v1/engines/")
_SUFFIX = "/embeddings"


class Azure(OpenAI):
    """A model by its deployment."""

    name = "azure"

    def read(self, body: Body, asked: Asked) -> EmbeddingRequest:
        return checked(parse_request(body, asked.limits, _deployed(asked.path)))

    def read_large(self, body: Body, asked: Asked, step: Step) -> EmbeddingRequest:
        return checked(parse_large_request(body, asked.limits, step, _deployed(asked.path)))


def _deployed(path: str) -> str:
    """The model that a path names; UnknownRouteError for other paths."""
    prefix = next(each for each in PREFIXES if path.startswith(each))
    name = path.removeprefix(prefix).removesuffix(_SUFFIX)
    if not name or not path.endswith(_SUFFIX):
        raise UnknownRouteError(
            f"no such path: {path}; vectors are at {prefix}NAME{_SUFFIX}", code="unknown_url"
        )
    return name


AZURE = Azure()
