"""A running server: a socket, uvicorn on it, and a stop that lets answers end."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from palmtop.errors import InputError
from palmtop.runtime.session_options import SessionOptions

from .app import ServeOptions, Service
from .models import Models

GRACE_S = 10
"""Answers in work have so long to end after the server is told to stop."""


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any that is free.

    Raises:
        InputError: the address cannot be had.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{host}:{port}: cannot listen there ({reason}); choose another --host or --port") from error


class Server:
    """Bundles behind a socket.

    Args:
        paths: of bundles.
        loading: how each is loaded.
        options: whom and how to answer.
        queue: requests that may wait before each model.
        conversations: whose KV caches are kept for each model.

    Raises:
        BundleError: a bundle is damaged.
        InputError: two bundles have the same name.
    """

    def __init__(
        self, paths: Sequence[Path], loading: SessionOptions, options: ServeOptions, queue: int, conversations: int = 1
    ) -> None:
        self.models = Models(paths, loading, queue, conversations)
        self.service = Service(self.models, options)
        config = uvicorn.Config(
            self.service.app(),
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # what a client writes there is not where it comes from
            timeout_graceful_shutdown=GRACE_S,
            ws="none",
        )
        self._server = uvicorn.Server(config)
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)

    def run(self, listening: socket.socket) -> None:
        """Answer until SIGINT or SIGTERM, or ``stop``."""
        self._server.run(sockets=[listening])

    def stop(self) -> None:
        """End ``run`` when the answers in work have ended; from any thread."""
        self._server.should_exit = True

    @property
    def is_ready(self) -> bool:
        """Whether requests are answered."""
        return self._server.started
