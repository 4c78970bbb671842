"""Validates combinations of settings that are valid one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain

from embedfleet.runtime.settings.addresses import (
    UNIX,
    DefaultPort,
    Place,
    is_host,
    is_loopback,
    is_service,
    origin_complaint,
    places,
)
from embedfleet.runtime.settings.cache import redis_complaints
from embedfleet.runtime.settings.catalogue import Pool, Settings
from embedfleet.runtime.settings.converting import one_line
from embedfleet.vocabulary import Precision, SettingError

MOST_TOLD = 600
"""Characters of an error, values included."""


def refuse(settings: Settings) -> None:
    """Raise a SettingError for the first contradiction."""
    complaints = (
        _between_areas(settings),
        _reached(settings),
        _autoscaling(settings),
        redis_complaints(settings.cache),
        _between_pools(settings),
    )
    for complaint in chain.from_iterable(complaints):
        raise SettingError(one_line(complaint, MOST_TOLD))
    for index, pool in enumerate(settings.pools):
        for complaint in _within(pool, settings):
            raise SettingError(one_line(f"pools[{index}]: {complaint}", MOST_TOLD))


def _between_areas(settings: Settings) -> Iterator[str]:
    gateway, fleet = settings.gateway, settings.fleet
    if gateway.max_queued_bytes < gateway.max_body_bytes:
        yield (
            f"gateway.max_queued_bytes ({gateway.max_queued_bytes}) is below "
            f"gateway.max_body_bytes ({gateway.max_body_bytes}): the largest request would never "
            "be admitted"
        )
    longest = settings.engine.max_tokens or 0
    if gateway.max_queued_tokens < longest:
        yield (
            f"gateway.max_queued_tokens ({gateway.max_queued_tokens}) is below engine.max_tokens "
            f"({longest}): the longest text would never be admitted"
        )
    if settings.replica.max_queued_tokens < longest:
        yield (
            f"replica.max_queued_tokens ({settings.replica.max_queued_tokens}) is below "
            f"engine.max_tokens ({longest}): the longest text would never be admitted"
        )
    if fleet.restart_backoff_ceiling_s < fleet.restart_backoff_s:
        yield (
            f"fleet.restart_backoff_ceiling_s ({fleet.restart_backoff_ceiling_s:g}) is below "
            f"fleet.restart_backoff_s ({fleet.restart_backoff_s:g})"
        )


def _reached(settings: Settings) -> Iterator[str]:
    """What is wrong with who can reach the addresses."""
    gateway, admin = settings.gateway, settings.admin
    yield from _places(settings)
    for name, area in (("gateway", gateway), ("admin", admin)):
        if (area.tls_certificate is None) != (area.tls_key is None):
            given, missing = "tls_certificate", "tls_key"
            if area.tls_certificate is None:
                given, missing = missing, given
            yield f"{name}.{given} is given and {name}.{missing} is not: HTTPS needs both"
    shown = admin.port is not None and not is_loopback(admin.host)
    if shown and admin.key_file is None and not admin.open:
        yield (
            f"admin.host {admin.host} is reachable from other machines without a key: set "
            "admin.key_file, or admin.open = true if that is meant"
        )
    for origin in gateway.cors_origins:
        wrong = origin_complaint(origin)
        if wrong:
            yield f'gateway.cors_origins: "{origin}" {wrong}'


def _places(settings: Settings) -> Iterator[str]:
    """What is wrong with where to listen."""
    gateway, admin = settings.gateway, settings.admin
    for name, hosts in (("admin.host", admin.host), ("replica.host", settings.replica.host)):
        if "," in hosts or hosts.startswith(UNIX):
            yield f"{name} takes one host, and no Unix socket: {hosts}"
        elif not is_host(hosts.removeprefix("[").removesuffix("]")):
            yield f'{name}: "{hosts}" is neither an address nor the name of a host'
    try:
        public = places(gateway.host, gateway.port)
    except ValueError as error:
        yield f"gateway.host: {error}"
        return
    if admin.port is None or isinstance(admin.port, DefaultPort):
        return
    shown = Place(admin.host, admin.port)
    if any(map(shown.collides, public)):
        yield (
            f"gateway.port and admin.port are both {admin.port} on {admin.host}: give one of them "
            "another port, or turn the admin address off with admin.port = off"
        )


def _autoscaling(settings: Settings) -> Iterator[str]:
    chosen = settings.autoscaling
    for low, high, reason in (
        ("min_replicas", "max_replicas", "no number of replicas would be right"),
        ("standby", "max_replicas", "there would be more in reserve than may ever serve"),
        ("fast_window_s", "slow_window_s", "a burst could not be told from the level"),
        ("max_wait_s", "slo_s", "texts that wait as long as they may would be late"),
        ("target_utilisation", "utilisation_ceiling", "a fleet as planned would require more"),
        ("down_cooldown_least_s", "down_cooldown_most_s", "no delay would be right"),
        ("tick_s", "stale_s", "signals would be stale before the next decision"),
    ):
        least, most = getattr(chosen, low), getattr(chosen, high)
        if least is not None and least > most:
            yield (
                f"autoscaling.{low} ({least:g}) is above autoscaling.{high} ({most:g}): {reason}"
            )
    if chosen.enabled and not chosen.min_replicas:
        yield (
            "autoscaling.min_replicas is 0 while autoscaling.enabled is true: with no replica at "
            "all, requests fail and its speed is never measured; give at least 1"
        )
    for index, pool in enumerate(settings.pools):
        if chosen.enabled and pool.replicas and pool.replica_urls:
            yield (
                f"pools[{index}]: autoscaling.enabled decides how many replicas are started here, "
                "and does not count those at replica_urls: give it a pool of its own"
            )


def _between_pools(settings: Settings) -> Iterator[str]:
    seen: dict[str, int] = {}
    unnamed: list[int] = []
    for index, pool in enumerate(settings.pools):
        names = _names(pool)
        for name in names:
            if name in seen:
                yield (
                    f"pools[{seen[name]}] and pools[{index}] would both serve the name {name}: "
                    "give one of them served_names of its own"
                )
        seen.update(dict.fromkeys(names, index))
        if not names:
            unnamed.append(index)
    if len(unnamed) > 1:
        yield (
            f"pools[{unnamed[0]}] and pools[{unnamed[1]}] have no name: give all but one of them "
            "served_names"
        )


def _names(pool: Pool) -> set[str]:
    """What a pool will be called, as far as its settings say it: names of models that are read from
    files are looked at once these are read.
    """
    if pool.served_names:
        return set(pool.served_names)
    if pool.model:
        hub_id = pool.model.partition("@")[0]
        return {hub_id, hub_id.rpartition("/")[2]} - {"", ".", ".."}
    if pool.tokenizer_dir is not None:
        return {pool.tokenizer_dir.name} - {""} or {str(pool.tokenizer_dir)}
    return set()


def _within(pool: Pool, settings: Settings) -> Iterator[str]:
    yield from _whose_replicas(pool, settings)
    for url in pool.replica_urls:
        if not is_service(url):
            yield f'replica_urls: "{url}" is not an address such as http://10.0.0.5:9000'
    if twice := next((url for url, times in Counter(pool.replica_urls).items() if times > 1), None):
        yield f"replica_urls: {twice} is listed twice"
    if pool.replica_weights and len(pool.replica_weights) != len(pool.replica_urls):
        yield (
            f"{len(pool.replica_weights)} replica_weights for {len(pool.replica_urls)} "
            "replica_urls: give one weight for each address, or none"
        )
    if any(weight < 0 for weight in pool.replica_weights):
        yield "a weight in replica_weights is below 0"
    dtype = settings.engine.dtype
    if pool.replicas and pool.precision is not None and dtype != "auto":
        computed = Precision(dtype)
        if not computed.may_join(pool.precision):
            yield (
                f"it promises {pool.precision}, which engine.dtype {dtype} can't keep; "
                f"precision = {dtype} or another dtype would fit"
            )


def _whose_replicas(pool: Pool, settings: Settings) -> Iterator[str]:
    if pool.replicas and not pool.model:
        yield "replicas are to be started here, but no model is named"
    elsewhere = bool(pool.replica_urls or pool.replica_service)
    if not pool.replicas and not elsewhere:
        yield "it has no replicas: set replicas (at least 1), replica_urls or replica_service"
    if pool.replicas and pool.replica_service:
        yield "replica_service is for a gateway whose replicas are pods: replicas must be 0"
    if pool.scale_target and not pool.replica_service:
        yield "scale_target without replica_service: new pods would never be found"
    if pool.scale_target and settings.autoscaling.standby:
        yield "autoscaling.standby is for local replicas; in a cluster use placeholder pods"
    if pool.tokenizer_dir is not None and not elsewhere:
        yield "tokenizer_dir is only for replicas elsewhere; local ones use the model's own"
