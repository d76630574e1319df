"""``palmtop serve``: bundles behind OpenAI's HTTP interface, with a page to talk to them."""

from __future__ import annotations

import logging
import sys
import threading
import webbrowser
from pathlib import Path

import click

from palmtop.errors import InputError
from palmtop.runtime.bundle.named_bundles import BundlePath
from palmtop.runtime.bundle.option_checks import reason_of
from palmtop.runtime.memory.size_option import Size
from palmtop.runtime.session import SessionOptions

from .flags import session_flags

EXAMPLES = """
\b
Examples:
  palmtop serve phi4mm-int4
  palmtop serve phi4mm-int4 phi4mini-int4 --memory-limit 6GB
  palmtop serve phi4mm-int4 --sessions ~/sessions --sessions-limit 20GB
  palmtop serve phi4mm-int4 --host 0.0.0.0 --api-key-file key.txt
  curl http://localhost:8080/v1/models
  OPENAI_BASE_URL=http://localhost:8080/v1 OPENAI_API_KEY=none my-program
"""
MIN_KEY = 16
LOOPBACK, QUEUE = "127.0.0.1", 32


@click.command("serve", epilog=EXAMPLES, short_help="Serve bundles by OpenAI's HTTP interface.")
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE...", type=BundlePath())
@click.option("--host", default=LOOPBACK, show_default=True, help="Address; any but loopback needs a key.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 for a free one.")
@click.option("--api-key-file", type=click.Path(path_type=Path), help="File with the key that requests must have.")
@click.option("--allow-host", "names", multiple=True, metavar="NAME", help="Also answer to this name; repeatable.")
@click.option("--allow-remote-media", is_flag=True, help="Fetch pictures from public http and https addresses.")
@click.option("--queue", type=click.IntRange(0, 10_000), default=QUEUE, show_default=True, help="Requests in line.")
@click.option(
    "--conversations",
    type=click.IntRange(1, 1000),
    default=4,
    show_default=True,
    help="KV caches kept for each model, where there is memory.",
)
@click.option(
    "--sessions",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Keep conversations of requests with X-Session-Id in this folder.",
)
@click.option("--sessions-limit", type=Size(), default="8GB", show_default=True, help="Most bytes of that folder.")
@click.option("--max-body", type=Size(), default="32MB", show_default=True, help="Largest request.")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(1), default=600.0, show_default=True, help="Of an answer."
)
@session_flags
def serve_command(
    bundles: tuple[Path, ...],
    host: str,
    port: int,
    api_key_file: Path | None,
    names: tuple[str, ...],
    allow_remote_media: bool,
    queue: int,
    conversations: int,
    sessions: Path | None,
    sessions_limit: int,
    max_body: int,
    timeout_s: float,
    loading: SessionOptions,
) -> None:
    """Answer requests of OpenAI's clients with each BUNDLE, under its folder's name, and show a page at /.

    NAME:ADAPTER and NAME:ROUTE are models too. Bundles are loaded when they are first asked for and give way to
    others within --memory-limit. Requests wait in line; logs are on standard error, without any content.
    """
    from palmtop.runtime.serve.app import ServeOptions
    from palmtop.runtime.serve.guard import Guard, is_loopback
    from palmtop.runtime.serve.server import Server, bind
    from palmtop.runtime.serve.session_store import SessionStore

    key = None if api_key_file is None else read_key(api_key_file)
    if key is None and not is_loopback(host):
        raise InputError(f"--host {host}: others can reach it, expected --api-key-file with it, or 127.0.0.1")
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s")
    options = ServeOptions(
        guard=Guard(host=host, key=key, names=names),
        max_body=max_body,
        timeout_s=timeout_s,
        allow_remote_media=allow_remote_media,
    )
    store = None if sessions is None else SessionStore(sessions, sessions_limit)
    server = Server(bundles, loading, options, queue, conversations, store)
    with bind(host, port) as listening:
        shown = f"[{host}]" if ":" in host else host
        click.echo(f"palmtop serves {', '.join(server.models.models)} at http://{shown}:{listening.getsockname()[1]}/")
        sys.stdout.flush()
        server.run(listening)


def open_page(bundle: Path, loading: SessionOptions) -> None:
    """Serve one bundle's page on a free port of this machine, and open it in the browser; ends with Ctrl-C."""
    from palmtop.runtime.serve.app import ServeOptions
    from palmtop.runtime.serve.guard import Guard
    from palmtop.runtime.serve.server import Server, bind

    server = Server([bundle], loading, ServeOptions(guard=Guard(host=LOOPBACK, key=None)), QUEUE)
    with bind(LOOPBACK, 0) as listening:
        url = f"http://{LOOPBACK}:{listening.getsockname()[1]}/"
        click.echo(f"palmtop talks at {url}; Ctrl-C ends it")
        sys.stdout.flush()
        # the socket listens already: a request waits until the server runs
        threading.Thread(target=webbrowser.open, args=[url], daemon=True).start()
        server.run(listening)


def read_key(path: Path) -> str:
    """The API key in a file, without the white space around it.

    Raises:
        InputError: it cannot be read, or is no key.
    """
    try:
        key = path.read_text("utf-8-sig").strip()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as text ({reason_of(error)})") from error
    if len(key) < MIN_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise InputError(f"{path}: found {len(key)} characters, expected a key of at least {MIN_KEY} in one word")
    return key
