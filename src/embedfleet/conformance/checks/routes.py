"""Checks of paths, methods and API keys."""

from __future__ import annotations

from embedfleet.conformance.check import Suite
from embedfleet.conformance.exchange import Inapplicable, expect, refused
from embedfleet.conformance.service import Service

suite = Suite("routes")


@suite.required
async def an_unknown_path_is_not_found(service: Service) -> None:
    refused(await service.call("POST", "/nothing-here", b"{}"), status=404)


@suite.required
async def a_wrong_method_is_not_allowed(service: Service) -> None:
    refused(await service.call("GET", "/embeddings"), status=405)


@suite.extension
async def a_wrong_method_is_told_the_right_ones(service: Service) -> None:
    wrong = (("GET", "/embeddings", "POST"), ("DELETE", "/models", "GET"))
    for method, path, right in wrong:
        answer = await service.call(method, path)
        refused(answer, status=405, code="method_not_allowed")
        allowed = answer.headers.get("allow", "")
        expect(right in allowed, f"the header allow must name {right}, not {allowed!r}", answer)


@suite.required
async def a_wrong_key_is_refused(service: Service) -> None:
    wrong = {"authorization": "Bearer wrong-" + "0" * 40}
    answer = await service.call("POST", "/embeddings", service.body("a"), headers=wrong)
    if answer.status == 200:
        raise Inapplicable("the service requires no key")
    refused(answer, status=401, code="invalid_api_key")


@suite.required
async def a_missing_key_is_refused(service: Service) -> None:
    none = {"authorization": ""}  # an empty one is not sent
    answer = await service.call("POST", "/embeddings", service.body("a"), headers=none)
    if answer.status == 200:
        raise Inapplicable("the service requires no key")
    refused(answer, status=401)
