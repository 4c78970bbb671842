"""EndpointSlices read as replicas, and the moves that follow."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.fleet.kubernetes.endpoints import (
    Endpoint,
    KnownReplica,
    Move,
    Service,
    endpoints,
    moves,
    parse,
)
from embedfleet.vocabulary import SettingError

JOIN, LEAVE, LOSE = Move.JOIN, Move.LEAVE, Move.LOSE


def pod(name: str, address: str, **conditions: bool) -> dict[str, Any]:
    return {
        "addresses": [address],
        "conditions": conditions,
        "targetRef": {"kind": "Pod", "name": name, "namespace": "embedfleet"},
    }


def slice_of(*pods: dict[str, Any], family: str = "IPv4", name: str = "engine-1") -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "engine"}},
        "addressType": family,
        "ports": [{"name": "http", "port": 9000}, {"name": "metrics", "port": 9100}],
        "endpoints": list(pods),
    }


def test_a_service_is_read_from_its_three_parts() -> None:
    assert parse("embedfleet/engine:http") == Service("embedfleet", "engine", "http")
    assert parse("ml-prod/engine-4b:9000") == Service("ml-prod", "engine-4b", "9000")


@pytest.mark.parametrize(
    "text",
    ["engine:http", "a/b", "a/b:", "a/b:0", "a/b:70000", "A/b:http", "a/b/c:http", "a/b:h t"],
)
def test_an_invalid_service_name_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(SettingError, match="embedfleet/engine:http"):
        parse(text)


def test_a_pod_is_a_replica_at_its_address_and_the_named_port() -> None:
    found = endpoints([slice_of(pod("a", "10.0.0.5", ready=True))], "http")

    assert found == {"a": Endpoint("a", "http://10.0.0.5:9000", ready=True)}


def test_a_port_may_be_the_number_on_which_pods_listen() -> None:
    assert endpoints([slice_of(pod("a", "10.0.0.5"))], "8000")["a"].url == "http://10.0.0.5:8000"


def test_a_pod_that_says_nothing_of_readiness_counts_as_ready() -> None:
    """The API: a missing `ready` is to be read as true."""
    assert endpoints([slice_of(pod("a", "10.0.0.5"))], "http")["a"].ready


@pytest.mark.parametrize(
    "conditions",
    [
        {"ready": False},
        {"ready": False, "serving": False, "terminating": False},
        {"ready": False, "serving": True, "terminating": True},
        {"ready": True, "serving": True, "terminating": True},  # publishNotReadyAddresses
    ],
)
def test_a_pod_that_loads_or_terminates_gets_no_new_work(conditions: dict[str, bool]) -> None:
    assert not endpoints([slice_of(pod("a", "10.0.0.5", **conditions))], "http")["a"].ready


def test_a_pod_in_two_slices_is_one_replica() -> None:
    slices = [
        slice_of(pod("a", "10.0.0.5", ready=False), name="old"),
        slice_of(pod("a", "10.0.0.5", ready=True), name="new"),
    ]

    assert endpoints(slices, "http")["a"].ready
    assert endpoints(slices[::-1], "http")["a"].ready


def test_a_pod_with_two_families_is_one_replica_by_ipv4() -> None:
    slices = [
        slice_of(pod("a", "fd00::5"), family="IPv6"),
        slice_of(pod("a", "10.0.0.5"), family="IPv4"),
    ]

    assert endpoints(slices, "http")["a"].url == "http://10.0.0.5:9000"
    assert endpoints(slices[:1], "http")["a"].url == "http://[fd00::5]:9000"


@pytest.mark.parametrize(
    "endpoint",
    [
        {"addresses": ["10.0.0.5"]},
        {"addresses": ["10.0.0.5"], "targetRef": {"kind": "Node", "name": "n"}},
        {"addresses": [], "targetRef": {"kind": "Pod", "name": "a"}},
    ],
)
def test_an_endpoint_without_a_pod_and_an_address_is_no_replica(endpoint: dict[str, Any]) -> None:
    assert endpoints([slice_of(endpoint)], "http") == {}


def test_slices_without_the_port_or_with_names_for_addresses_hold_no_replicas() -> None:
    assert endpoints([slice_of(pod("a", "10.0.0.5"))], "grpc") == {}
    assert endpoints([slice_of(pod("a", "db.example"), family="FQDN")], "http") == {}
    assert endpoints([{"metadata": {}, "addressType": "IPv4", "endpoints": None}], "http") == {}


def found(*names: str, ready: bool = True) -> dict[str, Endpoint]:
    return {name: Endpoint(name, f"http://{name}", ready) for name in names}


def test_a_ready_pod_joins_and_one_that_loads_waits() -> None:
    assert list(moves({}, found("a"))) == [(JOIN, "a", "http://a")]
    assert list(moves({}, found("a", ready=False))) == []


def test_a_pod_that_terminates_leaves_once_and_is_lost_when_it_is_gone() -> None:
    serving, leaving = (
        KnownReplica("http://a", leaving=False),
        KnownReplica("http://a", leaving=True),
    )

    assert list(moves({"a": serving}, found("a", ready=False))) == [(LEAVE, "a", "http://a")]
    assert list(moves({"a": leaving}, found("a", ready=False))) == []
    assert list(moves({"a": leaving}, {})) == [(LOSE, "a", "http://a")]


def test_a_pod_that_is_ready_again_joins_again() -> None:
    assert list(moves({"a": KnownReplica("http://a", leaving=True)}, found("a"))) == [
        (JOIN, "a", "http://a")
    ]


def test_a_pod_of_the_same_name_elsewhere_is_another_replica() -> None:
    """A StatefulSet does that."""
    known = {"a": KnownReplica("http://before", leaving=False)}

    assert list(moves(known, found("a"))) == [
        (LOSE, "a", "http://before"),
        (JOIN, "a", "http://a"),
    ]


names = st.sampled_from("abcde")
many_known = st.dictionaries(
    names, st.builds(KnownReplica, st.sampled_from(["http://1", "http://2"]), leaving=st.booleans())
)
many_found = st.dictionaries(
    names,
    st.builds(
        Endpoint, st.just(""), st.sampled_from(["http://1", "http://2"]), ready=st.booleans()
    ),
)


@given(many_known, many_found)
def test_after_the_moves_the_fleet_is_what_the_slices_say(
    known: dict[str, KnownReplica], found: dict[str, Endpoint]
) -> None:
    fleet = dict(known)
    for move, name, url in moves(known, found):
        if move is LOSE:
            del fleet[name]
        else:
            fleet[name] = KnownReplica(url, leaving=move is LEAVE)

    assert {name for name, each in fleet.items() if not each.leaving} == {
        name for name, each in found.items() if each.ready
    }
    assert all(each.url == found[name].url for name, each in fleet.items())
    assert list(moves(fleet, found)) == []
