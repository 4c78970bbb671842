"""Daft integration: a provider for `daft.functions.embed_text`.

    provider = EmbedfleetProvider(Embedding("http://gateway:8080", 1024))
    frame.with_column("embedding", embed_text(daft.col("text"), provider=provider))

A text that the service refuses ends the query, as with Daft's own providers; a null stays null.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from daft import DataType
from daft.ai.protocols import TextEmbedderDescriptor
from daft.ai.provider import Provider
from daft.ai.typing import EmbeddingDimensions, UDFOptions

from embedfleet.bulk.embedding import Embedder, Embedding


@dataclass
class _Descriptor(TextEmbedderDescriptor):
    wanted: Embedding

    def get_provider(self) -> str:
        return "embedfleet"

    def get_model(self) -> str:
        return self.wanted.model or "the only one"

    def get_options(self) -> dict[str, Any]:
        return {}

    def get_dimensions(self) -> EmbeddingDimensions:
        return EmbeddingDimensions(self.wanted.dimensions, DataType.float32())

    def get_udf_options(self) -> UDFOptions:
        return UDFOptions(batch_size=1024)

    def instantiate(self) -> Embedder:
        return Embedder(self.wanted)


class EmbedfleetProvider(Provider):
    """Embeds texts by a service."""

    def __init__(self, wanted: Embedding) -> None:
        wanted.only_floats("Daft")
        self._wanted = wanted

    @property
    def name(self) -> str:
        return "embedfleet"

    def get_text_embedder(
        self, model: str | None = None, dimensions: int | None = None, **_: Any
    ) -> TextEmbedderDescriptor:
        own = self._wanted
        size = dimensions or own.dimensions
        return _Descriptor(replace(own, model=model or own.model, dimensions=size))
