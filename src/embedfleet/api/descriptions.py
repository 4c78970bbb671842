"""What is reported about the service: model cards in the form of each API, the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import msgspec
import orjson

from embedfleet.api.contracts.google import GOOGLE, card, is_of_google
from embedfleet.api.contracts.ollama import LATEST, OLLAMA
from embedfleet.api.formats.embedding_request import LEAST_DIMENSIONS
from embedfleet.api.formats.openai import render_model, render_models
from embedfleet.api.formats.openapi import More, openapi_document
from embedfleet.api.formats.vector_forms import KINDS, LAYOUTS, SPAN, scale
from embedfleet.api.intake import Intake
from embedfleet.api.served_model import ServedModel
from embedfleet.api.vector_space import Spaces
from embedfleet.transport.asgi import Request, Response, error_response
from embedfleet.vocabulary import CallerError, EmbedfleetError, Task

TEI_POOLING = {"last": "last_token", "first": "cls", "mean": "mean"}
"""TEI's words for `vocabulary.Pooling`."""

OLLAMA_VERSION = "0.9.0"
"""The release of Ollama's API that is spoken here; its clients compare it."""


MOST_SHOWN_BYTES = 64 * 2**10


class _Shown(msgspec.Struct):
    """What Ollama's clients send to be shown a model; older ones call it `name`."""

    model: str = ""
    name: str = ""


_shown = msgspec.json.Decoder(_Shown)


class Cards:
    """Answers `/v1/models` in the words of OpenAI or Google, TEI's `/info` and Ollama's
    `/api/tags`, `/api/show` and `/api/version`.
    """

    def __init__(self, intake: Intake, spaces: Spaces) -> None:
        self._intake = intake
        self._spaces = spaces
        self._version = version("embedfleet")

    async def list_models(self, request: Request) -> Response:
        """Answer `GET /v1/models`: every served name, a model's first name first."""
        known = self._intake.models()
        if is_of_google(request):
            listed = [_of_google(name, each) for name, each in known.items()]
            return Response(orjson.dumps({"models": listed}))
        cards = [
            (name, each.created, each.identity, self._more(each)) for name, each in known.items()
        ]
        return Response(render_models(cards))

    async def show_model(self, request: Request) -> Response:
        """Answer `GET /v1/models/{name}`; names may hold slashes."""
        name = request.path.partition("/models/")[2]
        if is_of_google(request):
            try:
                return Response(orjson.dumps(_of_google(name, self._intake.find(name))))
            except EmbedfleetError as error:
                return error_response(error, GOOGLE.refuse)
        model = self._intake.find(name)
        return Response(render_model(name, model.created, model.identity, self._more(model)))

    async def info(self, _request: Request) -> Response:
        """Answer TEI's `GET /info`, where one model is served."""
        model = self._intake.find("")
        weights, limits = model.version(), self._intake.limits
        document = {
            "model_id": model.identity.name,
            "model_sha": None if weights is None else weights.revision,
            "model_dtype": None if weights is None else weights.precision.value,
            "model_type": _model_type(model),
            "max_concurrent_requests": 512,
            "max_input_length": model.identity.max_tokens,
            "max_batch_tokens": model.identity.max_tokens * limits.max_texts,
            "max_batch_requests": None,
            "max_client_batch_size": limits.max_texts,
            "auto_truncate": model.truncate.value != "none",
            "tokenization_workers": 1,
            "version": self._version,
            "sha": None,
            "docker_label": None,
            "served_by": "embedfleet",
        }
        return Response(orjson.dumps(document))

    async def tags(self, _request: Request) -> Response:
        """Answer Ollama's `GET /api/tags` and `GET /api/ps`."""
        models = [_tag(name, model) for name, model in self._intake.models().items()]
        return Response(orjson.dumps({"models": models}))

    async def show(self, request: Request) -> Response:
        """Answer Ollama's `POST /api/show`."""
        try:
            asked = _shown.decode(await request.body(MOST_SHOWN_BYTES))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            complaint = "The body must be a JSON object with the name of a `model`."
            error = CallerError(complaint, param="model", code="invalid_json")
            return error_response(error, OLLAMA.refuse)
        try:
            model = self._intake.find(asked.model or asked.name)
        except EmbedfleetError as error:
            return error_response(error, OLLAMA.refuse)
        document = {
            "details": _details(),
            "model_info": {
                "general.architecture": "embedfleet",
                "embedfleet.context_length": model.identity.max_tokens,
                "embedfleet.embedding_length": model.identity.width,
            },
            "capabilities": ["embedding"],
            "modified_at": _day(model),
        }
        return Response(orjson.dumps(document))

    async def ollama_version(self, _request: Request) -> Response:
        """Answer Ollama's `GET /api/version`."""
        document = {"version": OLLAMA_VERSION, "served_by": f"embedfleet {self._version}"}
        return Response(orjson.dumps(document))

    def _more(self, model: ServedModel) -> Mapping[str, Any]:
        """What we tell beyond OpenAI."""
        identity, weights = model.identity, model.version()
        least = min(LEAST_DIMENSIONS, identity.width)
        shown = [1 << power for power in range(20) if least <= 1 << power < identity.width]
        return {
            "least_dimensions": least,
            "encoding_formats": LAYOUTS,
            "output_dtypes": KINDS,
            "scales": {str(each): scale("int8", each) for each in (*shown, identity.width)},
            "scale_span": SPAN,
            "prompts": identity.prompts,
            "truncate": model.truncate.value,
            "precision": None if weights is None else weights.precision.value,
            "space": self._spaces.of(model),
        }


def _model_type(model: ServedModel) -> dict[str, Any]:
    """The task of a model in TEI's format."""
    if model.identity.task is Task.RERANK:
        return {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}}
    return {"embedding": {"pooling": TEI_POOLING.get(model.pooling, model.pooling)}}


def _of_google(name: str, model: ServedModel) -> dict[str, Any]:
    identity = model.identity
    embeds = identity.task is Task.EMBED
    return card(name, identity.revision, identity.max_tokens, embeds=embeds)


def _tag(name: str, model: ServedModel) -> dict[str, Any]:
    tagged = name if ":" in name else f"{name}{LATEST}"
    return {
        "name": tagged,
        "model": tagged,
        "modified_at": _day(model),
        "size": 0,
        "digest": model.identity.revision,
        "details": _details(),
    }


def _details() -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": "safetensors",
        "family": "embedding",
        "families": ["embedding"],
        "parameter_size": "",
        "quantization_level": "",
    }


def _day(model: ServedModel) -> str:
    return datetime.fromtimestamp(model.created, UTC).isoformat()


class ApiDescription:
    """Answers `GET /openapi.json`."""

    def __init__(self, intake: Intake, more: Sequence[More] = ()) -> None:
        """`more` is what the service answers beyond vectors and scores."""
        self._intake = intake
        self._more = more
        self._version = version("embedfleet")

    async def show(self, _request: Request) -> Response:
        names: dict[Task, list[str]] = {task: [] for task in Task}
        for name, model in self._intake.models().items():
            names[model.identity.task].append(name)
        document = openapi_document(
            self._intake.limits,
            max_body_bytes=self._intake.max_body_bytes,
            models=names[Task.EMBED],
            rerankers=names[Task.RERANK],
            more=self._more,
            version=self._version,
        )
        return Response(orjson.dumps(document))
