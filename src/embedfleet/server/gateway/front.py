"""A gateway's public and admin apps, assembled from its settings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from socket import socket
from typing import TYPE_CHECKING

from embedfleet.api.batches.openapi import described
from embedfleet.api.endpoint import Endpoint
from embedfleet.api.formats.embedding_request import RequestLimits
from embedfleet.api.served_model import Answered
from embedfleet.runtime.settings import AdminSettings
from embedfleet.runtime.settings.addresses import DefaultPort, Place
from embedfleet.server.gateway.batch_api import CONTRACTS
from embedfleet.transport.headers import trusted_networks
from embedfleet.transport.serving import AddressTakenError, ClientLimits, Listener, bind, serving

if TYPE_CHECKING:
    from embedfleet.server.gateway.server import Gateway

log = logging.getLogger(__name__)


def endpoint_of(
    gateway: Gateway, answered: Callable[[Answered], None], no_model: Callable[[], str]
) -> Endpoint:
    """The endpoint of a gateway; `no_model` is what callers are told while no model is known."""
    limits, batches = gateway.settings.gateway, gateway.settings.batches.directory
    return Endpoint(
        lambda: gateway.models,
        limits=RequestLimits(
            max_texts=limits.max_texts,
            blank_texts=limits.blank_texts == "embed",
            unknown_fields=limits.unknown_fields == "ignore",
            input_ids=limits.input_ids,
            by_item=limits.on_error == "item",
        ),
        max_body_bytes=limits.max_body_bytes,
        max_held_bytes=limits.max_queued_bytes,
        max_answer_bytes=limits.max_answer_bytes,
        timeout_s=limits.request_timeout_s,
        trusted_proxies=trusted_networks(limits.trusted_proxies),
        tokenizer_threads=limits.tokenizer_threads,
        answered=answered,
        access=gateway.guards.callers,
        cache=gateway.cache,
        no_model=no_model,
        described=[] if batches is None else [described(list(CONTRACTS))],
    )


def served(
    gateway: Gateway, listeners: Sequence[Listener]
) -> AbstractAsyncContextManager[Callable[[], None]]:
    """The gateway's listeners, answering as its settings have it; see `serving`."""
    limits = gateway.settings.gateway
    return serving(
        listeners,
        stop_timeout_s=limits.drain_timeout_s,
        limits=ClientLimits.of(limits),
        answers=gateway.limits.answers,
    )


def admin_socket(chosen: AdminSettings) -> list[socket]:
    """Where operators ask: one socket, or none."""
    if chosen.port is None:
        return []
    how = "--admin-port or admin.host (--admin-port 0 takes any free one)"
    try:
        return [bind(chosen.host, chosen.port, how)]
    except AddressTakenError:
        if not isinstance(chosen.port, DefaultPort):
            raise
    free = bind(chosen.host, 0, how)
    log.warning(
        "port %d, where the admin address is unless somebody chose one, is taken: it is at %s "
        "(--admin-port chooses one; `embedfleet status --admin %d` finds it)",
        *(chosen.port, Place(chosen.host, free.getsockname()[1]), free.getsockname()[1]),
    )
    return [free]
