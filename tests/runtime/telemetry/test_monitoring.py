"""Rules, alerts and dashboards as files: whole, documented, and in step with the catalogue."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
from prometheus_client import Histogram
from typer.testing import CliRunner

from embedfleet.cli.command_line import app
from embedfleet.runtime.telemetry.metrics import GatewayMetrics, ReplicaMetrics
from embedfleet.runtime.telemetry.metrics_page import catalogue, exposed_name
from embedfleet.runtime.telemetry.tally import Tally
from tests.runtime.telemetry.grafana import DASHBOARD

ROOT = Path(__file__).parents[3]
MONITORING = ROOT / "deploy" / "monitoring"
ALERTS = (MONITORING / "rules" / "alerts.yml").read_text(encoding="utf-8")
RECORDING = (MONITORING / "rules" / "recording.yml").read_text(encoding="utf-8")
NAMES = re.findall(r"- alert: (\w+)", ALERTS)
OURS = re.compile(r"(?<![\w:])embedfleet_[a-z_]+")


def writer() -> ModuleType:
    """The script that writes the dashboards."""
    spec = importlib.util.spec_from_file_location("w", MONITORING / "write_dashboards.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    __import__("sys").modules["w"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def expressions(dashboard: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]


def known() -> set[str]:
    """Every series of ours, by name."""
    found = set()
    for metrics in (GatewayMetrics(), ReplicaMetrics()):
        for metric in catalogue(metrics):
            name = exposed_name(metric)
            found.add(name)
            if isinstance(metric, Histogram | Tally):
                found |= {f"{name}_{part}" for part in ("bucket", "sum", "count")}
    return found


@pytest.mark.parametrize("name", ["service", "fleet", "engine"])
def test_a_dashboard_has_the_fields_that_grafana_knows(name: str) -> None:
    dashboard = json.loads((MONITORING / "dashboards" / f"{name}.json").read_text("utf-8"))
    errors = list(jsonschema.Draft202012Validator(DASHBOARD).iter_errors(dashboard))
    assert not errors, [f"{list(each.path)}: {each.message[:300]}" for each in errors]
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize("name", ["service", "fleet", "engine"])
def test_a_dashboard_is_up_to_date_with_its_script(name: str) -> None:
    file = MONITORING / "dashboards" / f"{name}.json"
    assert file.read_text(encoding="utf-8") == writer().text(name), (
        "run: python deploy/monitoring/write_dashboards.py"
    )


@pytest.mark.parametrize("name", ["service", "fleet", "engine"])
def test_panels_have_a_title_of_their_own_and_do_not_overlap(name: str) -> None:
    panels = json.loads((MONITORING / "dashboards" / f"{name}.json").read_text())["panels"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)


@pytest.mark.parametrize("name", ["service", "fleet", "engine"])
def test_a_panel_says_what_it_shows_in_which_unit_and_what_to_do_about_it(name: str) -> None:
    dashboard = json.loads((MONITORING / "dashboards" / f"{name}.json").read_text())
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            continue
        assert len(panel["description"].split()) >= 3, panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        for link in panel["links"]:
            alert = link["title"].removeprefix("Runbook: ")
            assert alert in NAMES
            assert link["url"] == f"${{runbook}}#{alert.lower()}"
    links = {each["type"] for each in dashboard["links"]}
    assert links == {"dashboards", "link"}
    variables = {each["name"] for each in dashboard["templating"]["list"]}
    assert {"pool", "source", "runbook"} <= variables
    for each in dashboard["annotations"]["list"]:
        assert set(OURS.findall(each["expr"])) <= known()


def test_the_first_row_of_the_service_is_its_headline_numbers() -> None:
    panels = writer().dashboard("service")["panels"]
    assert [each["type"] for each in panels[:5]] == ["row", *["stat"] * 4]


def test_every_alert_that_a_panel_names_and_every_description_is_of_a_panel() -> None:
    module = writer()
    titles = {
        panel["title"] for name in module.DASHBOARDS for panel in module.dashboard(name)["panels"]
    }
    assert set(module.ALERTS) <= titles
    assert set(module.ABOUT) <= titles
    assert set(module.ALERTS.values()) <= set(NAMES)


def test_only_metrics_of_the_catalogue_are_asked_for() -> None:
    """A renamed metric would leave an alert silent for ever."""
    texts = [ALERTS, RECORDING]
    texts += [json.dumps(expressions(writer().dashboard(name))) for name in writer().DASHBOARDS]
    for text in texts:
        used = {name for name in OURS.findall(text) if not name.startswith("embedfleet_recording")}
        assert used <= known(), used - known()


def test_recorded_names_that_are_used_are_recorded() -> None:
    recorded = set(re.findall(r"- record: (\S+)", RECORDING))
    level = re.compile(r"\b[a-z_]+:embedfleet_[a-z_]+:\w+")
    everything = ALERTS + json.dumps(
        [expressions(writer().dashboard(name)) for name in writer().DASHBOARDS]
    )
    assert set(level.findall(everything)) <= recorded
    assert recorded <= set(level.findall(everything)) | set(level.findall(RECORDING))


@pytest.mark.parametrize("alert", NAMES)
def test_every_alert_has_a_paragraph_in_the_runbook_and_points_at_it(alert: str) -> None:
    runbook = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    paragraph = re.search(rf"^## {alert}\n\n(.+?)(?=\n\n|\Z)", runbook, re.MULTILINE | re.DOTALL)
    assert paragraph
    assert len(paragraph[1].split()) > 20
    assert f"docs/runbook.md#{alert.lower()}" in ALERTS


def test_the_runbook_has_no_paragraph_without_an_alert() -> None:
    runbook = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\w+)", runbook, re.MULTILINE) == NAMES


@pytest.mark.parametrize("alert", NAMES)
def test_every_alert_was_made_to_fire_once(alert: str) -> None:
    """A query that is one by its form and never true would be silent for ever."""
    tried = (MONITORING / "rules_test.yml").read_text(encoding="utf-8")
    assert re.search(rf"alertname: {alert}\n\s+exp_alerts:\n", tried)


@pytest.mark.parametrize("alert", NAMES)
def test_every_alert_says_how_urgent_it_is(alert: str) -> None:
    rule = ALERTS.partition(f"- alert: {alert}\n")[2].partition("- alert:")[0]
    assert re.search(r"labels: \{severity: (page|ticket)\}", rule)
    assert "summary:" in rule


def test_grafana_finds_dashboards_and_source_where_the_compose_file_puts_them() -> None:
    compose = (ROOT / "deploy" / "compose" / "compose.yml").read_text(encoding="utf-8")
    provider = (MONITORING / "grafana/provisioning/dashboards/embedfleet.yml").read_text()
    path = re.search(r"path: (\S+)\}", provider)
    assert path
    assert f"../monitoring/dashboards:{path[1]}:ro" in compose
    for mounted in re.findall(r"- (\.\./\S+?):", compose):
        assert (ROOT / "deploy" / "compose" / mounted).exists(), mounted


def test_the_compose_files_commands_are_ones_that_embedfleet_has() -> None:
    """It can't be started here, so at least its flags are looked up."""
    compose = (ROOT / "deploy" / "compose" / "compose.yml").read_text(encoding="utf-8")
    commands = [
        json.loads(found)
        for found in re.findall(r'command: (\["(?:replica|gateway)".*\])', compose)
    ]
    assert [command[0] for command in commands] == ["replica", "gateway"]
    for name, *words in commands:
        shown = CliRunner(env={"COLUMNS": "200"}).invoke(app, [name, "--help"]).stdout
        assert {word for word in words if word.startswith("--")} <= set(
            re.findall(r"--[a-z-]+", shown)
        )
