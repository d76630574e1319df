"""A running server: a socket with uvicorn, and a stop that lets answers end."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from palmtop.errors import InputError
from palmtop.runtime.session_options import SessionOptions

from .app import ServeOptions, Service
from .models import Models
from .session_store import SessionStore

GRACE_S = 10
"""Seconds for running answers to end after the server is stopped."""

SWITCH_S = 0.001
"""Seconds for which a thread of an answer may hold Python's lock while the event loop waits for it (5 ms otherwise)."""


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes any free port.

    Raises:
        InputError: the address cannot be used.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{host}:{port}: cannot listen there ({reason}); choose another --host or --port") from error


class Server:
    """Bundles served at a socket.

    Args:
        paths: paths of bundles.
        loading: options for loading.
        options: options of the server.
        queue: most requests that may wait for each model.
        conversations: most conversations of each model whose KV caches are kept.
        store: files of sessions; None to keep none.

    Raises:
        BundleError: a bundle is damaged.
        InputError: two bundles have the same name.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        loading: SessionOptions,
        options: ServeOptions,
        queue: int,
        conversations: int = 1,
        store: SessionStore | None = None,
    ) -> None:
        self.models = Models(paths, loading, queue, conversations, store)
        self.service = Service(self.models, options)
        config = uvicorn.Config(
            self.service.app(),
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # a client's header is not its address
            timeout_graceful_shutdown=GRACE_S,
            ws="none",
        )
        self._server = uvicorn.Server(config)
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)

    def run(self, listening: socket.socket) -> None:
        """Serve until SIGINT or SIGTERM, or ``stop``."""
        before = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_S)
        try:
            self._server.run(sockets=[listening])
        finally:
            sys.setswitchinterval(before)

    def stop(self) -> None:
        """End ``run`` when the running answers have ended; from any thread."""
        self._server.should_exit = True

    @property
    def is_ready(self) -> bool:
        """Whether requests are answered."""
        return self._server.started
