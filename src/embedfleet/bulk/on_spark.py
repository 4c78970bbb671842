"""Spark integration: embeds a column by tasks that call a service.

    frame = embedded(spark.read.parquet("in"), Embedding("http://gateway:8080", 1024))
    frame.write.parquet("out")

Spark repeats a task whose worker died, with all of its batches; with `kept` completed ones are read
back. `spark.sql.execution.arrow.maxRecordsPerBatch` is the number of rows of a call.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from embedfleet.bulk import columnar
from embedfleet.bulk.embedding import Embedder, Embedding


def embedded(frame: Any, wanted: Embedding) -> Any:
    """The frame with a column of vectors; other columns keep their types."""
    from pyspark.sql.types import ArrayType, FloatType, StringType, StructType  # noqa: PLC0415

    wanted.only_floats("Spark")
    schema = StructType(list(frame.schema.fields))
    schema.add(wanted.vector, ArrayType(FloatType(), containsNull=False))
    schema.add(wanted.error, StringType())

    def work(batches: Iterator[Any]) -> Iterator[Any]:
        embedder = Embedder(wanted)
        try:
            for batch in batches:
                yield from columnar.embedded(batch, embedder, of_a_fixed_size=False).to_batches()
        finally:
            embedder.close()

    return frame.mapInArrow(work, schema)
