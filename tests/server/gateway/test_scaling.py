"""The autoscalers of a gateway, their metrics, and their place at the admin address."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from embedfleet.autoscaling import Experience, learned, policy
from embedfleet.runtime.background import Background
from embedfleet.runtime.folders import LocalStore
from embedfleet.runtime.settings import AutoscalingSettings
from embedfleet.runtime.telemetry.metrics import GatewayMetrics
from embedfleet.server.gateway.admin.scaling import scaling_routes
from embedfleet.server.gateway.scaling import HOLDS, TERMS, LearnedFile, Scaling
from embedfleet.transport.asgi import Router
from embedfleet.vocabulary import CallerError
from tests.autoscaling.test_scaler import FakeSource, FakeTarget, V
from tests.loops import settle

SETTINGS = AutoscalingSettings(min_replicas=1, max_replicas=8, tick_s=0.005, stale_s=5.0)


class Rig:
    """Pools that are scaled, and the routes over them."""

    def __init__(self) -> None:
        self.metrics = GatewayMetrics()
        self.scaling = Scaling(SETTINGS, self.metrics)
        self.app = Router(scaling_routes(self.scaling))
        self.targets: dict[str, FakeTarget] = {}
        self.loops = Background()

    def scale(self, name: str, rate: float = 0.0) -> FakeTarget:
        target = self.targets[name] = FakeTarget(planned=1)
        self.loops.start(self.scaling.scaler(name, target, FakeSource(target, rate)).run(), name)
        return target

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"embedfleet_{name}", labels)

    async def ask(
        self, method: str, path: str, body: object = None, kind: bytes = b"application/json"
    ) -> tuple[int, Any]:
        sent: list[Any] = []
        content = b"" if body is None else orjson.dumps(body)

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": content}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": method, "path": path, "query_string": b""}
        await self.app(scope | {"headers": [(b"content-type", kind)]}, receive, send)
        return sent[0]["status"], orjson.loads(sent[1]["body"])


@contextlib.asynccontextmanager
async def rigged(*pools: str, rate: float = 0.0) -> AsyncIterator[Rig]:
    rig = Rig()
    for name in pools:
        rig.scale(name, rate)
    await settle()
    try:
        yield rig
    finally:
        await rig.loops.close()


async def test_decisions_are_listed_with_every_term_and_its_reason() -> None:
    """The latest at the end; what is unknown is null."""
    async with rigged("m", rate=3 * V) as rig:
        status, told = await rig.ask("GET", "/autoscaling")
        (pool,) = told["pools"]
        first = pool["decisions"][0]
        assert (status, pool["name"], pool["mode"], pool["max_replicas"]) == (
            200,
            "m",
            "automatic",
            8,
        )
        assert (first["ordered"], first["decision"]["winner"]) == (5, "reserve")
        assert {"name": "traffic", "replicas": 4, "why": "30,000 tokens/s arrive"} in first[
            "decision"
        ]["terms"]
        assert first["seen"]["utilisation"] is None


async def test_orders_by_hand_are_followed_and_answered_with_what_holds_now() -> None:
    """Scale, pause, resume."""
    async with rigged("m") as rig:
        status, told = await rig.ask("POST", "/autoscaling/scale", {"replicas": 4})
        assert (status, told["mode"], told["pinned"]) == (200, "pinned", 4)
        await settle()
        assert rig.targets["m"].planned == 4
        assert rig.metric("autoscaling_by_hand", pool="m") == 1

        assert (await rig.ask("POST", "/autoscaling/pause", {}))[1]["mode"] == "paused"
        assert (await rig.ask("POST", "/autoscaling/resume"))[1]["mode"] == "automatic"


@pytest.mark.parametrize(
    ("path", "body", "complaint"),
    [
        ("scale", {}, "`replicas` is missing"),
        ("scale", {"replicas": 99}, "takes 0 to 8"),
        ("scale", {"replicas": -1}, "takes 0 to 8"),
        ("scale", {"replicas": "many"}, "invalid JSON body"),
        ("pause", {"pools": "m"}, "invalid JSON body"),
        ("pause", [1], "invalid JSON body"),
        ("pause", {"pool": "other"}, "name one of m"),
    ],
)
async def test_an_order_that_can_not_be_meant_is_refused(
    path: str, body: object, complaint: str
) -> None:
    """It says what would be right, and changes nothing."""
    async with rigged("m") as rig:
        status, told = await rig.ask("POST", f"/autoscaling/{path}", body)
        assert (status, complaint in told["error"]["message"]) == (400, True)
        assert rig.scaling.find("m").mode == "automatic"


async def test_a_page_in_a_browser_can_give_no_orders() -> None:
    """Browsers send JSON to another place only after asking it, and nobody answers that here."""
    async with rigged("m") as rig:
        status, _ = await rig.ask("POST", "/autoscaling/pause", {}, b"text/plain")
        assert status == 415


async def test_several_pools_must_be_named() -> None:
    """The only one need not be."""
    async with rigged("a", "b") as rig:
        with pytest.raises(CallerError, match="name one of a, b"):
            rig.scaling.find(None)
        assert rig.scaling.find("b").pool == "b"
    with pytest.raises(CallerError, match="no pool is autoscaled here"):
        Scaling(SETTINGS, GatewayMetrics()).find(None)


async def test_metrics_show_the_decision_and_what_every_term_asks_for() -> None:
    """A term that is silent is 0, so that its line in a plot ends."""
    async with rigged("m", rate=3 * V) as rig:
        assert rig.metric("autoscaling_planned_replicas", pool="m") == 5
        assert rig.metric("autoscaling_max_replicas", pool="m") == 8
        assert rig.metric("autoscaling_term_replicas", pool="m", term="traffic") == 4
        assert rig.metric("autoscaling_term_replicas", pool="m", term="slo") == 0
        assert rig.metric("autoscaling_changes_total", pool="m", direction="up") == 1
        assert rig.metric("autoscaling_changes_total", pool="m", direction="down") == 0
        winners = [rig.metric("autoscaling_winner", pool="m", winner=each) for each in TERMS]
        assert (
            sum(filter(None, winners))
            + sum(rig.metric("autoscaling_winner", pool="m", winner=each) or 0 for each in HOLDS)
            == 1
        )


async def test_a_held_decision_is_exported_and_the_last_figures_stay() -> None:
    """A gap in what is known is no load of zero."""
    async with rigged("m", rate=3 * V) as rig:
        source = rig.scaling.find("m")._source
        source.error = RuntimeError("gone")  # type: ignore[attr-defined]
        await settle(0.05)
        assert rig.metric("autoscaling_held", pool="m") == 1
        assert rig.metric("autoscaling_winner", pool="m", winner="held") == 1
        assert (rig.metric("autoscaling_wanted_replicas", pool="m") or 0) >= 5


async def test_the_observation_of_a_gateway_is_served_to_its_peers() -> None:
    """By pool; this is what other gateways' scaler reads."""
    rig = Rig()
    target = FakeTarget(planned=3)
    rig.scaling.observers["m"] = FakeSource(target, 500.0)  # type: ignore[assignment]
    status, told = await rig.ask("GET", "/observation")
    assert status == 200
    assert (told["pools"]["m"]["ready"], told["pools"]["m"]["arriving_slow"]) == (3, 500.0)
    assert told["pools"]["m"]["start_up_s"] is None


async def test_every_observation_is_remembered_with_what_was_ordered() -> None:
    """As lines of a recording, for `autoscale record`; so many at most."""
    async with rigged("m", rate=3 * V) as rig:
        status, told = await rig.ask("GET", "/autoscaling/observations")
        (pool,) = told["pools"]
        first = pool["observations"][0]
        assert (status, pool["name"], pool["settings"]["max_replicas"]) == (200, "m", 8)
        assert (first["mode"], first["planned"], first["seen"]["standby"]) == ("automatic", 5, 0)
        assert rig.scaling.recorded["m"].maxlen == 720


def test_the_words_of_the_metrics_are_those_of_the_policy() -> None:
    """Another term would otherwise go unseen."""
    package = Path(policy.__file__).parent
    text = (package / "policy.py").read_text() + (package / "stabilization.py").read_text()
    terms = re.findall(r'Term\(\s*"(\w+)"', text)
    holds = re.findall(r'(?:stay\(|pace, )"(\w+)"', text)
    assert sorted(set(terms)) == sorted(TERMS)
    assert sorted({*holds, "held"}) == sorted(HOLDS)


async def scaled_until(folder: Path, count: int, pool: str = "a/b") -> Experience:
    """What a pool's scaler knows after some decisions, when it was stopped."""
    chosen = replace(SETTINGS, state_directory=str(folder))
    scaling, target = Scaling(chosen, GatewayMetrics()), FakeTarget(planned=1)
    scaler = scaling.scaler(pool, target, FakeSource(target, V))
    running = asyncio.create_task(scaling.run(scaler))
    async with asyncio.timeout(60):
        while sum(each.times for each in scaler.journal) < count:
            await asyncio.sleep(0.01)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    return scaler.experience


async def test_what_traffic_taught_is_there_after_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    before = await scaled_until(folder, 3)
    assert [each.name for each in folder.iterdir()] == ["a%2Fb.json"]
    assert learned.restored((folder / "a%2Fb.json").read_bytes()).stance == before.stance
    again = await scaled_until(folder, 3)
    assert again.seconds >= before.seconds


async def test_a_damaged_file_is_reported_and_learning_begins_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a%2Fb.json").write_bytes(b'{"format": 7}')
    await scaled_until(tmp_path, 1)
    assert (
        f"{tmp_path / 'a%2Fb.json'} can't be used; autoscaling learns from scratch" in caplog.text
    )
    learned.restored((tmp_path / "a%2Fb.json").read_bytes())


async def test_an_unwritable_file_is_reported_once_and_scaling_continues(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a%2Fb.json").mkdir()
    file = LearnedFile(LocalStore(tmp_path, alone=False), "a/b")
    assert file.read() == Experience()
    file.write(Experience())
    file.write(Experience())
    assert caplog.text.count("can't be written") == 1


def test_nothing_is_made_where_nothing_is_scaled(tmp_path: Path) -> None:
    """As in every worker: the folder was tried once, before any of them was started."""
    chosen = replace(SETTINGS, state_directory=str(tmp_path / "new"))
    Scaling(chosen, GatewayMetrics())
    assert not (tmp_path / "new").exists()
