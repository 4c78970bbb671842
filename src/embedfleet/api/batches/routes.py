"""`/v1/files` and `/v1/batches`: OpenAI's Files and Batch API."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import IO, Any, TypeVar
from urllib.parse import parse_qs

import orjson

from embedfleet.api.batches import documents
from embedfleet.api.batches.documents import WINDOW_S, Batch, StoredFile
from embedfleet.api.batches.store import BatchStore, Quota, no_such_file, place_of, place_of_id
from embedfleet.api.batches.uploading import Form, UploadRoom, read_form
from embedfleet.runtime.text_files import reason
from embedfleet.transport.access import Access
from embedfleet.transport.asgi import Request, Response, Route
from embedfleet.transport.request_ids import HEADER as REQUEST_ID
from embedfleet.vocabulary import CallerError, ServiceError, UnknownRouteError

log = logging.getLogger(__name__)

PIECE_BYTES = 1 << 18
MOST_LISTED = 10_000
MOST_BODY_BYTES = 1 << 20

Owned = Callable[[Request, str], Awaitable[Response | None]]

Kept = TypeVar("Kept", StoredFile, Batch)


class StorageError(ServiceError):
    """The folder of files and batches can't be read or written now."""

    code = "storage_unavailable"


class BatchRoutes:
    """What callers reach of files and batches."""

    def __init__(
        self,
        batch_store: BatchStore,
        access: Access,
        endpoints: Collection[str],
        *,
        max_file_bytes: int,
        quota: Quota,
        wake: Callable[[], None],
        store_failed: Callable[[], None] = lambda: None,
    ) -> None:
        """`wake` is called when there is something to run, `store_failed` whenever the store could
        not be read or written.
        """
        self._store_failed = store_failed
        self._batch_store = batch_store
        self._access = access
        self._endpoints = dict.fromkeys(endpoints)
        self._max_file_bytes = max_file_bytes
        self._upload_room = UploadRoom(max_file_bytes)
        self._quota = quota
        self._wake = wake

    def exact(self) -> dict[tuple[str, str], Route]:
        """Routes by method and path."""
        return {
            ("POST", "/v1/files"): self._asked(self._upload),
            ("GET", "/v1/files"): self._asked(self._list_files),
            ("POST", "/v1/batches"): self._asked(self._create),
            ("GET", "/v1/batches"): self._asked(self._list_batches),
        }

    def below(self) -> dict[tuple[str, str], Route]:
        """Routes by method and what paths begin with."""
        return {
            ("GET", "/v1/files/"): self._asked(self._show_file),
            ("DELETE", "/v1/files/"): self._asked(self._delete_file),
            ("GET", "/v1/batches/"): self._asked(self._show_batch),
            ("POST", "/v1/batches/"): self._asked(self._cancel),
        }

    def _asked(self, route: Owned) -> Route:
        """The route behind authentication; it gets the id of the client's key."""

        async def answer(request: Request) -> Response | None:
            opened = self._access.open(request.credentials)
            request.notes["key"] = opened.key
            try:
                return await route(request, opened.key)
            except OSError as error:
                self._store_failed()
                raise _unavailable(self._batch_store.store.address, error) from error
            finally:
                opened.close()

        return answer

    async def _upload(self, request: Request, owner: str) -> Response:
        with self._upload_room.taken(request):
            try:
                form = await read_form(request, self._max_file_bytes)
            except OSError as error:
                raise _unavailable("the temporary directory (TMPDIR)", error) from error
            with form.content:
                file = await asyncio.to_thread(self._kept, form, owner)
        return _json(file.shown())

    def _kept(self, form: Form, owner: str) -> StoredFile:
        purpose = form.fields.get("purpose", "")
        if purpose not in documents.PURPOSES:
            raise CallerError(
                f"`purpose` must be one of {', '.join(sorted(documents.PURPOSES))}",
                param="purpose",
                code="invalid_value",
            )
        if form.filename is None:
            raise CallerError("`file` is missing", param="file", code="missing_required_parameter")
        life_s = documents.life_of(form.fields)
        self._batch_store.check_quota(owner, form.content.seek(0, 2), self._quota)
        form.content.seek(0)
        return self._batch_store.add_file(
            owner,
            form.filename,
            purpose,
            _pieces(form.content),
            life_s=life_s,
            quota=self._quota,
        )

    async def _list_files(self, request: Request, owner: str) -> Response:
        known = await asyncio.to_thread(self._batch_store.files, owner)
        query = _query(request)
        if "purpose" in query:
            known = [each for each in known if each.purpose == query["purpose"]]
        some, more = _page(known, query, MOST_LISTED)
        return _json(_listed([each.shown() for each in some], more=more))

    async def _show_file(self, request: Request, owner: str) -> Response | None:
        name, _, what = request.path.removeprefix("/v1/files/").partition("/")
        if what not in {"", "content"}:
            raise UnknownRouteError(f"no such path: {request.path}", code="unknown_url")
        file = await asyncio.to_thread(self._batch_store.file, owner, name)
        if not what:
            return _json(file.shown())
        await self._send(request, file)
        return None

    async def _send(self, request: Request, file: StoredFile) -> None:
        """The content, piece by piece: outputs are larger than memory."""
        try:
            content = await asyncio.to_thread(self._batch_store.content, file)
        except FileNotFoundError as error:  # deleted just now
            raise no_such_file(file.id) from error
        with content:
            headers = [
                (b"content-type", b"application/octet-stream"),
                (b"content-length", str(file.bytes).encode()),
                (REQUEST_ID, request.id.encode()),
            ]
            start = {"type": "http.response.start", "status": 200, "headers": headers}
            await request.send(start)
            left = file.bytes
            while left:
                piece = await asyncio.to_thread(content.read, min(PIECE_BYTES, left))
                if not piece:
                    break
                left -= len(piece)
                message = {"type": "http.response.body", "body": piece, "more_body": True}
                await request.send(message)
            await request.send({"type": "http.response.body", "body": b""})

    async def _delete_file(self, request: Request, owner: str) -> Response:
        name = request.path.removeprefix("/v1/files/")
        await asyncio.to_thread(self._batch_store.file, owner, name)
        await asyncio.to_thread(self._batch_store.remove_file, name)
        return _json({"id": name, "object": "file", "deleted": True})

    async def _create(self, request: Request, owner: str) -> Response:
        body = bytes(await request.body(MOST_BODY_BYTES))
        wanted = documents.wanted(body, self._endpoints)
        input_id, life = wanted.input_file_id, wanted.output_expires_after
        file = await asyncio.to_thread(self._batch_store.file, owner, input_id)
        if file.purpose != "batch":
            raise CallerError(
                f"the file {input_id} is for `{file.purpose}`, not for `batch`",
                param="input_file_id",
                code="invalid_value",
            )
        # There is room for some of the answers.
        await asyncio.to_thread(self._batch_store.check_quota, owner, 1, self._quota)
        now = self._batch_store.now
        batch = Batch(
            id=self._batch_store.name("batch", now),
            owner=owner,
            endpoint=wanted.endpoint,
            input_file_id=input_id,
            created_at=now,
            expires_at=now + WINDOW_S,
            metadata=wanted.metadata or {},
            output_life_s=None if life is None else life.seconds,
        )
        await asyncio.to_thread(self._batch_store.add_batch, batch, self._quota.batches)
        self._wake()
        return _json(await asyncio.to_thread(self._shown, batch))

    async def _list_batches(self, request: Request, owner: str) -> Response:
        known = await asyncio.to_thread(self._batch_store.batches, owner)
        some, more = _page(known, _query(request), 20)
        shown = [await asyncio.to_thread(self._shown, each) for each in some]
        return _json(_listed(shown, more=more))

    async def _show_batch(self, request: Request, owner: str) -> Response:
        name = request.path.removeprefix("/v1/batches/")
        batch = await asyncio.to_thread(self._batch_store.batch, owner, name)
        return _json(await asyncio.to_thread(self._shown, batch))

    async def _cancel(self, request: Request, owner: str) -> Response:
        name, _, what = request.path.removeprefix("/v1/batches/").partition("/")
        if what != "cancel":
            raise UnknownRouteError(f"no such path: {request.path}", code="unknown_url")
        batch = await asyncio.to_thread(self._batch_store.batch, owner, name)
        state = await asyncio.to_thread(self._batch_store.state, name)
        if state.status in documents.ENDED:
            raise CallerError(
                f"the batch is {state.status}; there is nothing to cancel", code="invalid_status"
            )
        await asyncio.to_thread(self._batch_store.cancel, name)
        self._wake()
        return _json(await asyncio.to_thread(self._shown, batch))

    def recent(self, most: int = 20) -> list[dict[str, Any]]:
        """The latest batches of all owners, newest first, without content: for operators."""
        latest = sorted(self._batch_store.batches(), key=lambda each: -each.created_at)[:most]
        told = ("id", "endpoint", "status", "created_at", "request_counts")
        return [{name: each[name] for name in told} for each in map(self._shown, latest)]

    def _shown(self, batch: Batch) -> dict[str, Any]:
        cancelled_at = self._batch_store.cancelled_at(batch.id)
        return documents.shown(batch, self._batch_store.state(batch.id), cancelled_at=cancelled_at)


def _unavailable(place: str, error: OSError) -> StorageError:
    """What a caller is told of trouble that an operator can end; who is told the place, too."""
    log.warning("a request for files or batches failed, %s: %s", place, reason(error))
    told = f"files can't be read or written at the moment: {reason(error)}"
    return StorageError(told, retry_after_s=5)


def _page(
    known: Sequence[Kept], query: Mapping[str, str], most: int
) -> tuple[Sequence[Kept], bool]:
    """Some of a list that has the latest first, as OpenAI's cursors ask for them, and whether there
    are more. A cursor is a place and not an object of the list: it may have been deleted meanwhile.
    """
    forwards = _chosen_order(query) == "asc"
    ordered = list(reversed(known)) if forwards else known
    after = query.get("after")
    start = 0
    if after is not None:
        last = next((place_of(each) for each in known if each.id == after), place_of_id(after))
        if last is None:
            raise CallerError(
                f"`after` is {after[:64]}, which is not in this list",
                param="after",
                code="invalid_value",
            )
        begun = (place_of(each) <= last if forwards else place_of(each) >= last for each in ordered)
        start = sum(begun)
    told = query.get("limit")
    count = most
    if told is not None:
        whole = told.isascii() and told.isdecimal() and len(told) < 10
        count = int(told) if whole else 0
        if not 1 <= count <= MOST_LISTED:
            raise CallerError(
                f"`limit` must be a whole number from 1 to {MOST_LISTED:,}",
                param="limit",
                code="invalid_value",
            )
    some = ordered[start : start + count]
    return some, start + len(some) < len(ordered)


def _chosen_order(query: Mapping[str, str]) -> str:
    order = query.get("order", "desc")
    if order not in {"asc", "desc"}:
        told = "`order` must be `asc` or `desc`"
        raise CallerError(told, param="order", code="invalid_value")
    return order


def _listed(data: list[dict[str, Any]], *, more: bool) -> dict[str, Any]:
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": more,
    }


def _query(request: Request) -> dict[str, str]:
    text = request.scope.get("query_string", b"")[:4096].decode("latin-1")
    return {name: values[0] for name, values in parse_qs(text).items()}


def _pieces(content: IO[bytes]) -> Any:
    while piece := content.read(PIECE_BYTES):
        yield piece


def _json(document: Any) -> Response:
    return Response(orjson.dumps(document))
