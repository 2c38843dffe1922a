"""Addresses of endpoints: what a key is meant for, and how much of a URL may be shown.

A URL can carry secrets (a user's password, a key in its query), so none is printed but `shown`.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

import httpx2


@dataclass(frozen=True)
class Origin:
    """Scheme, host and port of a URL: what a key is meant for."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Origin:
        """The origin as the HTTP client will see it, so that no two parsers can disagree.

        Raises `httpx2.InvalidURL`.
        """
        parsed = httpx2.URL(url)
        port = parsed.port or {"https": 443, "http": 80}.get(parsed.scheme, 0)
        return cls(parsed.scheme, parsed.host.rstrip(".").lower(), port)

    @property
    def is_web(self) -> bool:
        """True for a host that is reached over HTTP."""
        return self.scheme in ("http", "https") and bool(self.host)


def shown(url: str) -> str:
    """Scheme, host, port and path; '(not a web address)' for anything else.

    What is no web address is not quoted at all: where its password ends is anybody's guess.
    """
    try:
        if Origin.of(url).is_web:
            return str(httpx2.URL(url).copy_with(userinfo=b"", query=None, fragment=None))
    except httpx2.InvalidURL:
        pass
    return "(not a web address)"


def is_local(host: str) -> bool:
    """True for this machine's own addresses."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified
