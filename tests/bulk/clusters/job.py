"""Embeds a Parquet file on Ray, Spark or Daft: run by a test, in an environment of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from embedfleet.bulk.embedding import Embedding

ROWS = 50
"""Rows of a call."""


def on_ray(source: str, out: str, wanted: Embedding) -> None:
    import ray  # noqa: PLC0415

    from embedfleet.bulk.on_ray import embedded  # noqa: PLC0415

    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 << 20,
        _node_ip_address="127.0.0.1",
        _temp_dir=str(Path(out).parent / "ray"),
    )
    try:
        dataset = ray.data.read_parquet(source, override_num_blocks=4)
        embedded(dataset, wanted, rows=ROWS, workers=2).write_parquet(out)
    finally:
        ray.shutdown()


def on_spark(source: str, out: str, wanted: Embedding) -> None:
    from pyspark.sql import SparkSession  # noqa: PLC0415

    from embedfleet.bulk.on_spark import embedded  # noqa: PLC0415

    os.environ["PYSPARK_PYTHON"] = sys.executable
    spark = (
        SparkSession.builder.master("local[2,4]")  # a task is tried four times
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", str(ROWS))
        .config("spark.ui.enabled", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .getOrCreate()
    )
    embedded(spark.read.parquet(source), wanted).write.parquet(out)
    spark.stop()


def on_daft(source: str, out: str, wanted: Embedding) -> None:
    import daft  # noqa: PLC0415
    from daft.functions import embed_text  # noqa: PLC0415

    from embedfleet.bulk.on_daft import EmbedfleetProvider  # noqa: PLC0415

    provider = EmbedfleetProvider(wanted)
    frame = daft.read_parquet(source)
    frame = frame.with_column("embedding", embed_text(daft.col("text"), provider=provider))
    frame.write_parquet(out)


if __name__ == "__main__":
    framework, url, folder = sys.argv[1:]
    Path(folder, "kept").mkdir()
    kept = None if framework == "daft" else f"{folder}/kept"
    embedding = Embedding(url, 16, kept=kept)
    {"ray": on_ray, "spark": on_spark, "daft": on_daft}[framework](
        f"{folder}/in.parquet", f"{folder}/out", embedding
    )
