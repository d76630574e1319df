"""Checks of requests before the body is read: host names, origins, key and size.

A page of another site can send requests to a server on its visitor's machine (cross-site request forgery), and a name
that its owner points at 127.0.0.1 makes its page an own origin (DNS rebinding). Browsers report both in headers that no
page can change: Host, Origin and Sec-Fetch-Site.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import Receive

from palmtop.runtime.serve.wire.api_error import ApiError

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
OPEN_PATHS = ("/", "/health")
"""Paths without a key: the health check, and the page, which asks for the key itself."""
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
BODY_PAUSE_S = 30.0
BODIES_AT_ONCE = 8  # of the largest size


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """Checks of a request before its body is read.

    Attributes:
        host: address that the server listens on.
        key: key that requests must have; None for no key.
        names: further host names of the server.
    """

    host: str
    key: str | None
    names: Sequence[str] = ()

    def check(self, request: Request) -> None:
        """Refuse a request with a wrong name, origin or key.

        Raises:
            ApiError: 403 for a foreign name or origin, 401 for a wrong key.
        """
        host = request.headers.get("host", "")
        name = _name(host)
        if name is None or ((self.key is None or self.names) and name not in {*LOOPBACK_NAMES, self.host, *self.names}):
            raise ApiError(403, f"Host: found {host!r:.80}, expected localhost or a name given by --allow-host")
        origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
        is_visit = request.method == "GET" and request.url.path == "/" and request.headers.get("origin") is None
        if (origin is not None and not _is_same(origin, host)) or (
            site not in (None, "same-origin", "none") and not is_visit
        ):
            raise ApiError(403, "the request comes from a page of another origin, expected this server's own page")
        if self.key is not None and request.url.path not in OPEN_PATHS:
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self.key.encode()):
                raise ApiError(
                    401,
                    "the API key is missing or wrong, expected 'Authorization: Bearer KEY'",
                    code="invalid_api_key",
                    headers={"www-authenticate": "Bearer"},
                )


def _name(host: str) -> str | None:
    """A host without its port; None if it is not a host."""
    try:
        return urlsplit(f"//{host}").hostname if host and not set(host) & set("/?#@\\") else None
    except ValueError:
        return None


def _is_same(origin: str, host: str) -> bool:
    parts = origin.split("://")
    return len(parts) == 2 and parts[0] in ("http", "https") and parts[1].lower() == host.lower()


class Bodies:
    """Reader of bodies, with limits of bytes and time for each, and of memory for all together.

    Args:
        most_bytes: most bytes of one body.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._held = 0

    @asynccontextmanager
    async def read(self, request: Request, receive: Receive) -> AsyncIterator[bytes]:
        """Yield a request's body; it counts until the block is left.

        Raises:
            ApiError: 413 for a body that is too long, 408 for one that does not come, 503 where too many come at once.
            ClientGoneError: the client disconnected before its end.
        """
        stated = request.headers.get("content-length", "")
        if stated.isdigit() and int(stated[:20]) > self.most_bytes:
            raise self._too_long()
        parts: list[bytes] = []
        taken, more = 0, True
        try:
            while more:
                try:
                    async with asyncio.timeout(BODY_PAUSE_S):
                        message = await receive()
                except TimeoutError as error:
                    raise ApiError(408, f"body: nothing came for {BODY_PAUSE_S:.0f} seconds") from error
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                parts.append(message.get("body", b""))
                taken += len(parts[-1])
                self._held += len(parts[-1])
                if taken > self.most_bytes:
                    raise self._too_long()
                if self._held > BODIES_AT_ONCE * self.most_bytes:
                    raise ApiError(503, "too many long requests are in work", code="overloaded", retry_after_s=5)
                more = message.get("more_body", False)
            body = b"".join(parts)
            parts.clear()
            yield body
        finally:
            self._held -= taken

    def _too_long(self) -> ApiError:
        return ApiError(413, f"body: expected at most {self.most_bytes} bytes (--max-body)", code="body_too_large")


class ClientGoneError(Exception):
    """A request whose client has closed its connection."""
