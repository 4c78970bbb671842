"""The real client, against a stand-in of the API server."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp import web
from kubernetes_asyncio.client import ApiClient, Configuration
from kubernetes_asyncio.config import ConfigException

from embedfleet.fleet.kubernetes.api_client import Connection
from embedfleet.fleet.kubernetes.cluster import ClusterError, ClusterSetupError
from tests.stand_ins.kubernetes import Fault, api_server

PODS = "/api/v1/namespaces/embedfleet/pods"


def kubeconfig(directory: Path, url: str, token: str = "") -> Path:
    file = directory / "kubeconfig"
    user = f'{{token: "{token}"}}' if token else "{}"
    file.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n"
        f'clusters: [{{name: k, cluster: {{server: "{url}"}}}}]\n'
        f"users: [{{name: u, user: {user}}}]\n"
        "contexts: [{name: c, context: {cluster: k, user: u}}]\n"
    )
    return file


async def test_the_token_of_a_kubeconfig_is_brought(tmp_path: Path) -> None:
    async with api_server() as server:
        server.token = "secret"  # noqa: S105  of this test
        server.put(PODS, {"metadata": {"name": "a"}})
        connection = await Connection.open(kubeconfig(tmp_path, server.url, "secret"))
        found = await connection.ask("GET", f"{PODS}/a")
        assert found["metadata"]["name"] == "a"
        await connection.close()


async def test_a_server_on_this_machine_is_reached_without_the_proxies_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.lower(), "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with api_server() as server:
        server.put(PODS, {"metadata": {"name": "a"}})
        for connection in (
            Connection.at(server.url),
            await Connection.open(kubeconfig(tmp_path, server.url)),
        ):
            found = await connection.ask("GET", f"{PODS}/a")
            assert found["metadata"]["name"] == "a"
            await connection.close()


async def test_a_wrong_token_is_an_error_that_does_not_show_it(tmp_path: Path) -> None:
    async with api_server() as server:
        server.token = "secret"  # noqa: S105  of this test
        connection = await Connection.open(kubeconfig(tmp_path, server.url, "guessed"))
        with pytest.raises(ClusterError, match="401") as refusal:
            await connection.ask("GET", PODS)
        assert not refusal.value.passing
        assert "guessed" not in str(refusal.value)
        await connection.close()


async def test_a_token_that_cannot_be_renewed_is_an_error_like_others() -> None:
    """Its file is empty for a moment: a bug of nobody's, and no end of any work."""

    async def empty(_: object) -> None:
        raise ConfigException("Token file exists but empty.")

    async with api_server() as server:
        settings = Configuration(host=server.url, api_key={"BearerToken": "secret"})
        settings.refresh_api_key_hook = empty
        connection = Connection(ApiClient(configuration=settings))
        with pytest.raises(ClusterError, match="Token file exists but empty") as refusal:
            await connection.ask("GET", PODS)
        assert refusal.value.passing
        with pytest.raises(ClusterError, match="Token file exists but empty"):
            await anext(connection.watch(PODS, {}))
        await connection.close()


@pytest.mark.parametrize("content", [None, "", "{", "kind: Config"])
async def test_no_cluster_is_an_error_of_setup_that_says_what_to_give(
    tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "kubeconfig"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ClusterSetupError, match="give a kubeconfig"):
        await Connection.open(file)


async def test_patches_are_merge_patches_and_versions_are_respected() -> None:
    async with api_server() as server:
        item = server.put(PODS, {"metadata": {"name": "a", "labels": {"x": "1"}}})
        connection = Connection.at(server.url)
        body = {"metadata": {"annotations": {"k": "v"}}}
        changed = await connection.ask("PATCH", f"{PODS}/a", body=body)
        assert changed["metadata"]["labels"] == {"x": "1"}
        with pytest.raises(ClusterError) as refusal:
            await connection.ask("PUT", f"{PODS}/a", body=item)
        assert refusal.value.conflict
        await connection.close()


@pytest.mark.parametrize(
    ("status", "passing"), [(0, True), (403, False), (404, False), (429, True), (503, True)]
)
async def test_refusals_say_whether_a_retry_may_help(status: int, passing: bool) -> None:
    async with api_server() as server:
        asked = "7" if status == 429 else ""
        server.faults.append(Fault("GET", "pods", status, times=5, retry_after=asked))
        connection = Connection.at(server.url)
        with pytest.raises(ClusterError) as refusal:
            await connection.ask("GET", PODS)
        assert refusal.value.passing is passing
        assert refusal.value.http == (status or None)
        assert refusal.value.retry_after_s == (7.0 if status == 429 else None)
        await connection.close()


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"\xff"])
async def test_an_answer_that_is_no_object_is_an_error(body: bytes) -> None:
    """A proxy's page, for instance."""

    async def page(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="text/html")

    app = web.Application()
    app.router.add_get("/{path:.*}", page)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    connection = Connection.at(f"http://127.0.0.1:{runner.addresses[0][1]}")
    with pytest.raises(ClusterError, match="JSON"):
        await connection.ask("GET", PODS)
    await connection.close()
    await runner.cleanup()
