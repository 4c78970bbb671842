"""Which routes are where: callers see nothing of operators, and operators no route of callers."""

from __future__ import annotations

from pathlib import Path

from embedfleet.models.description import describe
from embedfleet.runtime.settings import Pool
from embedfleet.server.gateway.app import admin_app, public_app
from tests.transport.access.gateway import MODEL, running

SHARED = {
    *("/health/live", "/health/ready", "/"),
    *("/assets/pages.css", "/assets/asking.js", "/assets/words.js"),
}
OPEN = ("/health", "/assets/", "/docs")


async def test_no_route_of_operators_is_on_the_public_address_and_no_other_on_theirs(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as service:
        public, admin = public_app(service.gateway), admin_app(service.gateway)
        operators = {path for _, path in admin.routes} - SHARED
        callers = {path for _, path in (*public.routes, *public.prefixes)} - SHARED - {"/health"}
        assert {"/fleet", "/metrics", "/targets"} <= operators
        assert "/v1/embeddings" in callers
        for paths, elsewhere in ((operators, service.url), (callers, service.admin)):
            for path in paths:
                for method in ("GET", "POST"):
                    async with service.http.request(method, elsewhere + path) as answer:
                        assert answer.status == 404, (method, elsewhere, path)


async def test_every_route_of_callers_but_health_and_pages_asks_for_a_key(tmp_path: Path) -> None:
    async with running(tmp_path, given=["sk-sixteen-letters"]) as service:
        app = public_app(service.gateway)
        below = [(method, f"{prefix}name/embeddings") for method, prefix in app.prefixes]
        for method, path in (*app.routes, *below):
            async with service.http.request(method, service.url + path) as answer:
                is_open = (method, path) == ("GET", "/") or path.startswith(OPEN)
                expected = 200 if is_open else 401
                assert answer.status == expected, (method, path)


async def test_an_unknown_path_is_answered_with_the_routes_of_the_api(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as service:
        for url, known in ((service.url, "/v1/embeddings"), (service.admin, "/fleet")):
            async with service.http.get(f"{url}/nowhere") as answer:
                told = (await answer.json())["error"]["message"]
            assert known in told
            assert "/assets/" not in told


async def test_readiness_names_the_pool_that_has_no_replica(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        url = f"{service.url}/health/ready"
        async with service.http.get(url) as answer:
            assert answer.status == 200
        idle = Pool(served_names=("idle",), replicas=0, replica_urls=("http://127.0.0.1:9",))
        service.gateway.add_pool(idle, describe(tmp_path / "model"))
        async with service.http.get(url) as answer:
            assert answer.status == 503
            told = (await answer.json())["error"]["message"]
    assert told == "no replica of idle is ready"


async def test_head_is_answered_wherever_get_is(tmp_path: Path) -> None:
    """Balancers and monitors ask so; anything else is refused as before."""
    async with running(tmp_path) as service:
        for path in ("/health", "/health/live", "/v1/models", f"/v1/models/{MODEL}"):
            async with service.http.get(service.url + path) as got:
                body = await got.read()
            async with service.http.head(service.url + path) as answer:
                assert (answer.status, await answer.read()) == (200, b"")
                assert int(answer.headers["content-length"]) == len(body)
        async with service.http.head(f"{service.url}/v1/embeddings") as answer:
            assert answer.status == 405
