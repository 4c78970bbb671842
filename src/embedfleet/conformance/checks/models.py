"""Checks of the routes that list models."""

from __future__ import annotations

from urllib.parse import quote

from embedfleet.conformance.check import Suite
from embedfleet.conformance.exchange import expect, refused
from embedfleet.conformance.service import Service

suite = Suite("models")

CARD = {"id": str, "object": str, "created": int, "owned_by": str}
"""The fields of a model in OpenAI's list, and their kinds."""


@suite.required
async def models_are_listed(service: Service) -> None:
    answer = await service.call("GET", "/models")
    expect(answer.status == 200, "the status must be 200", answer)
    listed = answer.json
    whole = isinstance(listed, dict) and isinstance(listed.get("data"), list)
    expect(whole and listed.get("object") == "list", "it must be a list object", answer)
    for card in listed["data"]:
        right = 'a model must have id, created (an integer), owned_by and "object":"model"'
        whole = isinstance(card, dict) and card.get("object") == "model"
        expect(
            whole and all(type(card.get(key)) is kind for key, kind in CARD.items()), right, answer
        )
    names = [card["id"] for card in listed["data"]]
    expect(service.model in names, f"{service.model} must be among the models", answer)


@suite.required
async def a_model_is_shown_as_it_is_listed(service: Service) -> None:
    listed = (await service.call("GET", "/models")).json
    for card in listed["data"]:
        if card["id"] == service.model:
            answer = await service.call("GET", f"/models/{quote(card['id'])}")
            expect(answer.status == 200, "the status must be 200", answer)
            expect(answer.json == card, f"it must be {card}", answer)


@suite.required
async def a_model_that_is_not_there_is_not_shown(service: Service) -> None:
    answer = await service.call("GET", "/models/no-such-model")
    refused(answer, status=404, code="model_not_found")


@suite.extension
async def a_card_tells_the_longest_text_and_the_width(service: Service) -> None:
    answer = await service.call("GET", f"/models/{quote(service.model)}")
    for key in ("max_tokens", "dimensions"):
        found = answer.json.get(key)
        expect(type(found) is int and found > 0, f"`{key}` must be a positive integer", answer)
