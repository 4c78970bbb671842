"""Which routes are where: callers see nothing of operators, and operators no route of callers."""

from __future__ import annotations

from pathlib import Path

from embedfleet.gateway.app import admin_app, public_app
from tests.access.gateway import running

SHARED = {"/health/live", "/health/ready"}


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


async def test_every_route_of_callers_but_health_asks_for_a_key(tmp_path: Path) -> None:
    async with running(tmp_path, given=["sk-sixteen-letters"]) as service:
        app = public_app(service.gateway)
        for method, path in (*app.routes, *app.prefixes):
            async with service.http.request(method, service.url + path) as answer:
                expected = 200 if path.startswith("/health") else 401
                assert answer.status == expected, (method, path)
