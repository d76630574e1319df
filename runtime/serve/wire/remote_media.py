"""Images at network addresses, if ``--allow-remote-media`` permits them.

Only public addresses are fetched: a request must not make the server read its own network. A name is looked up once,
and the connection goes to the address that was checked.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
from urllib.parse import urlsplit

from .api_error import ApiError

MOST_BYTES = 20 << 20
TIMEOUT_S = 10.0
MOST_HOPS = 3


def fetch_image(url: str, place: str) -> bytes:
    """Return the bytes at an http or https address.

    Args:
        url: address in the request.
        place: path of the field, for errors.

    Raises:
        ApiError: the address cannot be fetched, is too large, or is not public.
    """
    for _ in range(MOST_HOPS + 1):
        try:
            moved, data = _get(url, place)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ApiError(400, f"{place}: the address cannot be read ({error!s:.100})", param=place) from error
        if moved is None:
            return data
        url = moved
    raise ApiError(400, f"{place}: the address leads on more than {MOST_HOPS} times", param=place)


def _get(url: str, place: str) -> tuple[str | None, bytes]:
    """Return the redirection of an address, or its bytes."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ApiError(400, f"{place}: found another kind of address, expected http or https", param=place)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    address = _public_address(parts.hostname, port, place)
    with socket.create_connection((address, port), TIMEOUT_S) as plain:
        link: socket.socket = plain
        if parts.scheme == "https":
            link = ssl.create_default_context().wrap_socket(plain, server_hostname=parts.hostname)
        connection = http.client.HTTPConnection(parts.hostname, port, timeout=TIMEOUT_S)
        connection.sock = link
        try:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", path, headers={"accept": "image/*", "user-agent": "palmtop"})
            response = connection.getresponse()
            location = response.getheader("location")
            if response.status in (301, 302, 303, 307, 308) and location:
                if "://" not in location:
                    raise ApiError(400, f"{place}: the address leads on without saying where", param=place)
                return location, b""
            if response.status != 200:
                raise ApiError(400, f"{place}: the address answers with status {response.status}", param=place)
            data = response.read(MOST_BYTES + 1)
        finally:
            connection.close()
    if len(data) > MOST_BYTES:
        raise ApiError(400, f"{place}: found more than {MOST_BYTES} bytes there", param=place)
    return None, data


def _public_address(host: str, port: int, place: str) -> str:
    for *_, found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        address = str(found[0])
        if not ipaddress.ip_address(address.partition("%")[0]).is_global:
            raise ApiError(400, f"{place}: the address lies in a network that is not public", param=place)
        return address
    raise ApiError(400, f"{place}: the name has no address", param=place)
