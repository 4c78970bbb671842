"""Addresses in settings: who can reach one to listen on, and where a service has its root."""

from __future__ import annotations

from ipaddress import ip_address


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def service_root(url: str) -> str:
    """The address without the `/v1` that OpenAI's clients want at the end of theirs."""
    return url.rstrip("/").removesuffix("/v1").rstrip("/")
