"""Ray Data integration: embeds a column by workers that call a service.

    dataset = embedded(ray.data.read_parquet("in"), Embedding("http://gateway:8080", 1024))
    dataset.write_parquet("out")

A block whose worker died is computed by another worker; with `kept` completed calls are not
repeated.
"""

from __future__ import annotations

from typing import Any

from embedfleet.bulk import columnar
from embedfleet.bulk.embedding import Embedder, Embedding


class Embed:
    """The state of a worker."""

    def __init__(self, wanted: Embedding) -> None:
        self._embedder = Embedder(wanted)

    def __call__(self, table: Any) -> Any:
        return columnar.embedded(table, self._embedder)


def embedded(
    dataset: Any, wanted: Embedding, *, rows: int = 1024, least_workers: int = 1, workers: int = 8
) -> Any:
    """The dataset with a column of vectors; `rows` is the number of rows of a call."""
    import ray.data  # noqa: PLC0415

    return dataset.map_batches(
        Embed,
        fn_constructor_args=(wanted,),
        batch_format="pyarrow",
        batch_size=rows,
        num_cpus=0.1,  # a worker waits for the service
        compute=ray.data.ActorPoolStrategy(min_size=least_workers, max_size=workers),
    )
