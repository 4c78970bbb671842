"""The OpenAPI description of the Files and Batch API."""

from __future__ import annotations

from collections.abc import Sequence

from embedfleet.api.batches.documents import (
    LONGEST_LIFE_S,
    MOST_METADATA,
    PURPOSES,
    SHORTEST_LIFE_S,
    WINDOW,
)
from embedfleet.api.batches.routes import MOST_LISTED
from embedfleet.api.formats.openapi import More
from embedfleet.api.formats.openapi_parts import BYTES, body_of, in_path, operation
from embedfleet.api.formats.openapi_schemas import (
    Schema,
    count_of,
    object_of,
    optional,
    reference,
    text_of,
)


def described(endpoints: Sequence[str]) -> More:
    """Routes of a gateway that keeps files; `endpoints` are those that batches may be for."""
    return More("Batches", _paths(endpoints), _schemas(endpoints))


def _paths(endpoints: Sequence[str]) -> dict[str, Schema]:
    file, batch = in_path("file_id", "file-1"), in_path("batch_id", "batch_1")
    form = {"required": True, "content": {"multipart/form-data": {"schema": reference("Upload")}}}
    wanted = {"input_file_id": "file-1", "endpoint": endpoints[0], "completion_window": WINDOW}
    create = body_of("BatchRequest", {}, None)
    create["content"]["application/json"]["example"] = wanted
    purpose = _query("purpose", {"type": "string"}, "Files for this alone.")
    orders: Schema = {"type": "string", "enum": ["asc", "desc"]}
    order = _query("order", orders, "`asc` has the oldest first.")
    content = operation("downloadFile", "Download a file", "File", parameters=[file])
    content["responses"]["200"]["content"] = {BYTES: {"schema": {}}}
    return {
        "/v1/files": {
            "post": operation("createFile", "Upload a file", "File", body=form),
            "get": operation(
                "listFiles", "Files", "FileList", parameters=[*_pages(), purpose, order]
            ),
        },
        "/v1/files/{file_id}": {
            "get": operation("retrieveFile", "Retrieve a file", "File", parameters=[file]),
            "delete": operation("deleteFile", "Delete a file", "FileDeleted", parameters=[file]),
        },
        "/v1/files/{file_id}/content": {"get": content},
        "/v1/batches": {
            "post": operation("createBatch", "Create a batch", "Batch", body=create),
            "get": operation("listBatches", "Batches", "BatchList", parameters=_pages()),
        },
        "/v1/batches/{batch_id}": {
            "get": operation("retrieveBatch", "Retrieve a batch", "Batch", parameters=[batch])
        },
        "/v1/batches/{batch_id}/cancel": {
            "post": operation("cancelBatch", "Cancel a batch", "Batch", parameters=[batch])
        },
    }


def _schemas(endpoints: Sequence[str]) -> dict[str, Schema]:
    request = object_of(
        {
            "input_file_id": text_of("A file of JSON lines, for the purpose `batch`."),
            "endpoint": {"type": "string", "enum": list(endpoints)},
            "completion_window": {"type": "string", "enum": [WINDOW]},
        }
    )
    request["properties"]["metadata"] = optional(
        {
            "type": "object",
            "maxProperties": MOST_METADATA,
            "additionalProperties": {"type": "string", "maxLength": 512},
        }
    )
    request["properties"]["output_expires_after"] = optional(_life())
    upload = object_of(
        {
            "file": {"contentMediaType": BYTES},  # a form has no types
            "purpose": {"type": "string", "enum": sorted(PURPOSES)},
        }
    )
    life = _life()["properties"]
    upload["properties"] |= {f"expires_after[{name}]": each for name, each in life.items()}
    deleted = object_of(
        {"id": text_of(""), "object": {"const": "file"}, "deleted": {"const": True}}
    )
    return {
        "Upload": upload,
        "File": _file(),
        "FileDeleted": deleted,
        "FileList": _listed("File"),
        "BatchRequest": request,
        "Batch": _batch(),
        "BatchList": _listed("Batch"),
    }


def _life() -> Schema:
    """How long a file is to be kept."""
    seconds = {"type": "integer", "minimum": SHORTEST_LIFE_S, "maximum": LONGEST_LIFE_S}
    return object_of({"anchor": {"const": "created_at"}, "seconds": seconds})


def _file() -> Schema:
    return object_of(
        {
            "id": text_of(""),
            "object": {"const": "file"},
            "bytes": count_of(""),
            "created_at": count_of("Seconds since 1970."),
            "expires_at": count_of(""),
            "filename": text_of(""),
            "purpose": text_of(""),
            "status": text_of(""),
        }
    )


def _batch() -> Schema:
    moment = optional({"type": "integer", "description": "Seconds since 1970."})
    return object_of(
        {
            "id": text_of(""),
            "object": {"const": "batch"},
            "endpoint": text_of(""),
            "errors": {
                "type": ["object", "null"],
                "description": "Lines that are not valid requests.",
            },
            "input_file_id": text_of(""),
            "completion_window": {"const": WINDOW},
            "status": text_of("`completed`, `failed`, `expired` and `cancelled` are final."),
            "output_file_id": optional(text_of("")),
            "error_file_id": optional(text_of("")),
            "created_at": count_of(""),
            "expires_at": count_of(""),
            "completed_at": moment,
            "request_counts": object_of(
                {"total": count_of(""), "completed": count_of(""), "failed": count_of("")}
            ),
            "metadata": {"type": ["object", "null"]},
        }
    )


def _listed(item: str) -> Schema:
    return object_of(
        {
            "object": {"const": "list"},
            "data": {"type": "array", "items": reference(item)},
            "has_more": {"type": "boolean"},
        }
    )


def _pages() -> list[Schema]:
    limit = {"type": "integer", "minimum": 1, "maximum": MOST_LISTED}
    return [
        _query("after", {"type": "string"}, "The id after which the page begins."),
        _query("limit", limit, "How many."),
    ]


def _query(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "query", "description": description, "schema": schema}
