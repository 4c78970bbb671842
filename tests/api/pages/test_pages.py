"""Static pages: what a browser gets at the two addresses of a gateway."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest

from embedfleet.runtime.settings import GatewaySettings, Settings
from tests.transport.access.gateway import running

FILES = {
    each.name: each.read_text("utf-8")
    for each in files("embedfleet.api.pages").joinpath("files").iterdir()
    if each.is_file()  # a folder is somebody else's work, which the policy alone can hold
}
PUBLISHED = Path(__file__).parents[2] / "sdks" / "node_modules" / "swagger-ui-dist"
ADDRESSES = re.compile(r"(?:https?:)?//[\w.-]+|@import|url\(")


@pytest.mark.parametrize("name", sorted(FILES))
def test_no_page_names_a_foreign_address_or_runs_what_a_policy_forbids(name: str) -> None:
    text = re.sub(r"^\s*//.*$", "", FILES[name], flags=re.MULTILINE)
    assert not ADDRESSES.findall(text)
    assert not re.search(r"\bon\w+=\"|<script>|<style|style=\"|innerHTML|eval\(|localStorage", text)


def test_every_word_of_the_pages_is_there_in_chinese_too() -> None:
    words = FILES["words.js"]
    for name in ("playground.js", "fleet.js", "docs.js"):
        for said in re.findall(r'\b(?:say|order)\("([^"]+)"', FILES[name]):
            assert re.search(rf'(?:"{re.escape(said)}"|\b{re.escape(said)}): "', words), said
    for name in ("playground.html", "fleet.html", "docs.html"):
        for said in re.findall(r'data-say="([^"]+)"', FILES[name]):
            assert re.search(rf"(?:\b{said}|\"{said}\"): \"", words), said


async def test_a_browser_gets_pages_with_a_policy_and_keeps_what_has_not_changed(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as service:
        for base, path, title in (
            (service.url, "/", "playground"),
            (service.url, "/docs", "API"),
            (service.admin, "/", "fleet"),
        ):
            async with service.http.get(base + path) as answer:
                page = await answer.text()
                assert answer.status == 200
                assert answer.content_type == "text/html"
                assert f"<title>embedfleet {title}</title>" in page
                policy = answer.headers["content-security-policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
                tag = answer.headers["etag"]
            for asset in re.findall(r'(?:src|href)="(/assets/[^"]+)"', page):
                async with service.http.get(base + asset) as answer:
                    assert answer.status == 200, asset
                    assert answer.content_type in {"text/javascript", "text/css"}
            async with service.http.get(base + path, headers={"if-none-match": tag}) as answer:
                assert (answer.status, await answer.read()) == (304, b"")


async def test_the_playground_can_be_turned_off(tmp_path: Path) -> None:
    off = Settings(gateway=GatewaySettings(playground=False))
    async with running(tmp_path, off) as service:
        async with service.http.get(f"{service.url}/docs") as answer:
            assert answer.status == 404
        async with service.http.get(f"{service.url}/") as answer:
            assert answer.content_type == "application/json"
        async with service.http.get(f"{service.url}/assets/playground.js") as answer:
            assert answer.status == 404
        async with service.http.get(f"{service.admin}/") as answer:
            assert answer.status == 200


def test_swagger_ui_is_as_its_makers_published_it_with_its_licence() -> None:
    """`make sdks` installs the package; its version is pinned in tests/sdks/package.json."""
    vendored = files("embedfleet.api.pages").joinpath("files", "swagger-ui")
    kept = {each.name: each.read_bytes() for each in vendored.iterdir()}
    assert b"Apache License" in kept["LICENSE"]
    assert b"SmartBear" in kept["NOTICE"]
    if not PUBLISHED.is_dir():
        pytest.skip("`make sdks` installs swagger-ui-dist")
    for name, content in kept.items():
        assert content == (PUBLISHED / name).read_bytes(), name
