"""What a gateway says at its start and at its end."""

from __future__ import annotations

import json

from embedfleet.runtime.settings import AutoscalingSettings, Pool, Settings
from embedfleet.server.gateway.front import banner, shutdown_line, startup_line
from embedfleet.vocabulary import Task

URLS = ("http://127.0.0.1:8080", "http://127.0.0.1:8081")


def pools(*given: Pool) -> Settings:
    return Settings(pools=given)


def test_the_first_line_says_where_it_listens_and_what_is_started() -> None:
    assert startup_line(pools(Pool(model="builtin", replicas=2)), URLS[:1], URLS[1]) == (
        "listening on http://127.0.0.1:8080 (fleet and metrics: http://127.0.0.1:8081); "
        "starting 2 replicas of builtin"
    )
    scaled = AutoscalingSettings(enabled=True, min_replicas=1, max_replicas=4)
    few = Settings(pools=(Pool(model="builtin", replicas=2),), autoscaling=scaled)
    assert startup_line(few, URLS[:1], None).endswith("; starting 1 replica of builtin")
    one = Pool(model="m", replicas=1, engine="vllm")
    assert startup_line(pools(one), URLS[:1], None).endswith(
        ":8080; starting 1 replica of m on vllm"
    )


def test_a_gateway_says_at_once_for_whom_it_waits() -> None:
    elsewhere = Pool(replicas=0, replica_urls=("http://a:1", "http://b:2"))
    assert startup_line(pools(elsewhere), URLS[:1], None).endswith(
        "; waiting for http://a:1, http://b:2"
    )
    pods = Pool(replicas=0, replica_service="embedfleet/engine:http")
    assert startup_line(pools(pods), URLS[:1], None).endswith(
        "; following the pods of embedfleet/engine:http"
    )


def test_the_last_line_says_what_became_of_all_requests() -> None:
    assert shutdown_line({}) == "stopped: 0 requests answered, 0 refused"
    assert shutdown_line({200: 1}) == "stopped: 1 request answered, 0 refused"
    assert (
        shutdown_line({200: 1200, 429: 3, 401: 2}) == "stopped: 1,200 requests answered, 5 refused"
    )
    told = shutdown_line({200: 2, 499: 1, 503: 4})
    assert told == "stopped: 2 requests answered, 0 refused, 4 failed, 1 left by its client"


def test_the_banner_shows_a_request_that_the_first_model_answers() -> None:
    models = {"builtin-reranker": Task.RERANK, "builtin": Task.EMBED}
    shown = banner(models, ["http://127.0.0.1:8080"], None, keys=False)
    assert "curl http://127.0.0.1:8080/v1/rerank" in shown
    words = shown.partition("-d '")[2].rpartition("'")[0]
    assert set(json.loads(words)) == {"model", "query", "documents"}
    shown = banner(dict(reversed(models.items())), ["http://127.0.0.1:8080"], None, keys=False)
    assert "curl http://127.0.0.1:8080/v1/embeddings" in shown
