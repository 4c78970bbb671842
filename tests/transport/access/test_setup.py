"""From settings to who is let in: doors are shut where somebody meant to shut them."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from embedfleet.runtime.settings import AccessSettings, GatewaySettings, Settings
from embedfleet.server.gateway.front import Guards
from embedfleet.transport.access import KeyRing, OpenAccess
from embedfleet.transport.access.records import KeyFileError, render
from embedfleet.transport.access.setup import callers, one_key
from embedfleet.vocabulary import SettingError, SetupError

OPEN_TO_ALL = Settings(gateway=GatewaySettings(host="0.0.0.0"))  # noqa: S104  that is the point


def guards(settings: Settings, given: list[str] | None = None) -> Guards:
    found = Guards.of(settings, given, str)
    found.warn(settings.gateway.host, ["http://0.0.0.0:8080"])
    return found


def test_without_a_file_and_keys_every_request_is_accepted() -> None:
    access, watches = callers(None, None)
    assert isinstance(access, OpenAccess)
    assert watches == []


def test_a_file_without_keys_accepts_no_request(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(render([]))
    access, watches = callers(file, None)
    assert isinstance(access, KeyRing)
    assert len(watches) == 1


def test_an_empty_variable_of_keys_does_not_disable_authentication() -> None:
    """As when a secret is missing where the variable is made of it."""
    with pytest.raises(SettingError, match="EMBEDFLEET_API_KEYS is set but holds no key"):
        callers(None, [])


def test_a_file_that_is_missing_or_broken_stops_the_start(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    with pytest.raises(KeyFileError, match="can't be read"):
        callers(file, None)
    file.write_text("{")
    with pytest.raises(KeyFileError, match="not a valid keys file"):
        callers(file, None)
    with pytest.raises(SettingError, match=r"admin\.key_file: .* can't be read"):
        one_key(tmp_path / "none", "admin.key_file")
    file.write_text("short\n")
    with pytest.raises(SetupError, match=r"admin\.key_file: key 1 must have at least 16"):
        one_key(file, "admin.key_file")


def test_an_address_open_to_the_network_without_authentication_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        guards(OPEN_TO_ALL)
    assert "anyone who can reach http://0.0.0.0:8080 can send requests" in caplog.text


def test_with_keys_or_on_loopback_there_is_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(render([]))
    with caplog.at_level(logging.WARNING):
        guards(Settings())
        guards(OPEN_TO_ALL, ["sk-sixteen-letters"])
        guards(replace(OPEN_TO_ALL, access=AccessSettings(keys_file=file)))
    assert caplog.text == ""


def test_a_key_that_could_be_guessed_is_refused_by_where_it_was_given() -> None:
    with pytest.raises(KeyFileError, match=r"^--api-key or EMBEDFLEET_API_KEYS: key 2 must"):
        callers(None, ["a-key-of-sixteen-and-more", "short"])
