"""docs/kubernetes.md in step with what it speaks of."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from embedfleet.cli.command_line import app
from embedfleet.deploying.case import Mode
from tests.deploying import test_points
from tests.deploying.rendered import KUBERNETES, ROOT, containers, kustomized, named

PAGE = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
POINTS = (ROOT / "docs" / "from-the-article.md").read_text(encoding="utf-8")
DASHBOARDS = {"service": "service", "fleet": "fleet", "engine and GPU": "engine"}


def rows() -> list[tuple[str, list[str], str]]:
    """Of the table "When it is slow": dashboard, panels, metrics."""
    table = PAGE.partition("## When it is slow")[2].partition("\n## ")[0]
    found = re.findall(r"^\| \*([\w ]+)\*: (.+?) \| (.+?) \|", table, re.MULTILINE)
    return [(dashboard, panels, metrics) for dashboard, panels, metrics in found]


@pytest.mark.parametrize(("dashboard", "panels", "metrics"), rows())
def test_every_place_to_look_at_is_on_its_dashboard(
    dashboard: str, panels: str, metrics: str
) -> None:
    file = ROOT / "deploy/monitoring/dashboards" / f"{DASHBOARDS[dashboard]}.json"
    shown = {panel["title"]: panel for panel in json.loads(file.read_text())["panels"]}
    named = [title for title in shown if title in panels]
    assert named, panels
    left = panels
    for title in sorted(named, key=len, reverse=True):
        left = left.replace(title, "")
    assert not left.strip(" ,"), left
    expressions = json.dumps([shown[title].get("targets", ()) for title in named])
    rules = (ROOT / "deploy/monitoring/rules/recording.yml").read_text(encoding="utf-8")
    for metric in re.findall(r"`(embedfleet_[a-z_]+[a-z]|DCGM_\w+|process_\w+)", metrics):
        assert metric in expressions or metric in rules, metric


def test_the_table_leads_through_every_dashboard() -> None:
    assert {dashboard for dashboard, _, _ in rows()} == set(DASHBOARDS)


def test_the_flags_of_the_page_are_those_of_the_command() -> None:
    block = re.search(r"    (embedfleet deploy kubernetes (?:.*\\\n)*.*)\n", PAGE)
    assert block
    words = shlex.split(block[1].replace("\\\n", " "))
    shown = CliRunner().invoke(app, [*words[1:3], "--help"], env={"COLUMNS": "200"}).stdout
    flags = {word for word in words if word.startswith("-")}
    assert len(flags) > 5
    assert {flag for flag in flags if flag not in shown} == set()


def test_every_overlay_is_documented() -> None:
    overlays = {path.name for path in (KUBERNETES / "overlays").iterdir() if path.is_dir()}
    assert {name for name in overlays if f"`{name}`" not in PAGE} == set()
    assert {mode for mode in Mode if f"`{mode}`" not in PAGE} == set()


def test_the_example_of_a_kustomization_is_one_and_names_every_image(tmp_path: Path) -> None:
    text = (KUBERNETES / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    here = os.path.relpath(ROOT, tmp_path)
    (tmp_path / "kustomization.yaml").write_text(example.replace("- deploy/", f"- {here}/deploy/"))
    found = named(kustomized(tmp_path))
    assert {("Deployment", name) for name in ("gateway", "engine", "redis")} <= set(found)
    images = {each["image"] for document in found.values() for each in containers(document)}
    assert {image for image in images if "registry.invalid" in image} == set()
    assert [image for image in images if image.startswith("registry.example.com/embedfleet@")]


def test_each_of_the_points_has_its_test() -> None:
    numbers = {int(each) for each in re.findall(r"^\| (\d+) \|", POINTS, re.MULTILINE)}
    assert numbers == set(range(1, 27))
    tested = {
        int(found[1])
        for name in vars(test_points)
        if (found := re.match(r"test_point_(\d+)_", name))
    }
    assert tested == numbers
