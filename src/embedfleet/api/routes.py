"""The public routes: which path is answered by which API contract.

Clients append what they expect to a base URL: `/v1` although it is there already, nothing, or a
second slash. `meant` maps a path to the one in the table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from embedfleet.api.contracts.azure import AZURE, PREFIXES
from embedfleet.api.contracts.cohere import COHERE_V1, COHERE_V2
from embedfleet.api.contracts.contract import Contract, TwoApis
from embedfleet.api.contracts.google import GOOGLE, asks_for_vectors
from embedfleet.api.contracts.google import PREFIXES as GOOGLE_PREFIXES
from embedfleet.api.contracts.ollama import OLLAMA, OLLAMA_OF_ONE
from embedfleet.api.contracts.rerank import ROUTES as RERANKING
from embedfleet.api.contracts.tei import TEI
from embedfleet.api.endpoint import Endpoint
from embedfleet.transport.asgi import Render, Route
from embedfleet.transport.errors import render_error

Table = dict[tuple[str, str], Route]

_SLASHES = re.compile("//+")
_AZURE = re.compile("^/openai(?=/)(?!/deployments(/|$))")
"""What Azure puts before `/v1`, and in dated versions of its API before `/models`, `/files` and
`/batches`, too.
"""
_TWICE = re.compile("^(/v1)+(?=/)")


def meant(path: str) -> str:
    """The path that a client means: without doubled and trailing slashes, with one `/v1`, and
    without the `/openai` that Azure puts before it.
    """
    path = _SLASHES.sub("/", path)
    path = path.rstrip("/") or "/"
    return _TWICE.sub("/v1", _AZURE.sub("/v1", path))


BY_PATH: Final[Mapping[str, Contract | TwoApis]] = {
    "/v1/embed": COHERE_V1,
    "/v2/embed": COHERE_V2,
    "/embed": TEI,
    "/": TEI,
    "/api/embed": OLLAMA,
    "/api/embeddings": OLLAMA_OF_ONE,
    **RERANKING,
}
"""The contracts of paths that answer to POST."""

_NAMESPACES: Final[Mapping[str, Contract]] = {"/api/": OLLAMA, "/v1beta/": GOOGLE, "/info": TEI}
"""The contracts of all other paths that begin so."""


def render_for(path: str) -> Render:
    """How the API that a path belongs to writes errors; as OpenAI's where it is of no other."""
    contract = BY_PATH.get(path)
    if contract is None:
        spaces = (each for prefix, each in _NAMESPACES.items() if path.startswith(prefix))
        contract = GOOGLE if asks_for_vectors(path) else next(spaces, None)
    return render_error if contract is None else contract.refuse


def contract_routes(
    endpoint: Endpoint, asked: Callable[[Route], Route], traced: Callable[[Route, str], Route]
) -> tuple[Table, Table]:
    """Exact paths and prefixes. `asked` puts a key before what is no contract's own, `traced` makes
    a trace of each request for vectors.
    """
    openai = traced(endpoint.embeddings, "POST /v1/embeddings")
    cards = endpoint.cards
    exact: Table = {
        ("POST", "/v1/embeddings"): openai,
        ("POST", "/embeddings"): openai,
        ("GET", "/models"): asked(cards.list_models),
        ("GET", "/v1/models"): asked(cards.list_models),
        ("GET", "/v1beta/models"): asked(cards.list_models),
        ("POST", "/v1/tokenize"): endpoint.tokenize,
        ("POST", "/tokenize"): endpoint.tokenize,
        ("GET", "/openapi.json"): asked(endpoint.describe),
        ("GET", "/info"): asked(cards.info),
        ("GET", "/api/tags"): asked(cards.tags),
        ("GET", "/api/ps"): asked(cards.tags),
        ("POST", "/api/show"): asked(cards.show),
        ("GET", "/api/version"): asked(cards.ollama_version),
    }
    for path, contract in BY_PATH.items():
        exact["POST", path] = traced(endpoint.by(contract), f"POST {path}")
    prefixes: Table = {("GET", each): asked(cards.show_model) for each in GOOGLE_PREFIXES}
    for prefix in PREFIXES:
        prefixes["POST", prefix] = traced(endpoint.by(AZURE), f"POST {prefix}")
    for prefix in GOOGLE_PREFIXES:
        prefixes["POST", prefix] = traced(endpoint.by(GOOGLE), f"POST {prefix}")
    return exact, prefixes
