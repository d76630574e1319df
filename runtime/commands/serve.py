"""``palmtop serve``: bundles behind OpenAI's HTTP interface, with a page to talk to them."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click

from palmtop.errors import InputError
from palmtop.runtime.bundle.option_checks import reason_of
from palmtop.runtime.memory.size_option import Size
from palmtop.runtime.session import SessionOptions

from .flags import session_flags

EXAMPLES = """
\b
Examples:
  palmtop serve phi4mm-int4
  palmtop serve phi4mm-int4 phi4mini-int4 --memory-limit 6GB
  palmtop serve phi4mm-int4 --host 0.0.0.0 --api-key-file key.txt
  curl http://localhost:8080/v1/models
  OPENAI_BASE_URL=http://localhost:8080/v1 OPENAI_API_KEY=none my-program
"""
MIN_KEY = 16


@click.command("serve", epilog=EXAMPLES, short_help="Serve bundles by OpenAI's HTTP interface.")
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE...", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address; any but loopback needs a key.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 for a free one.")
@click.option("--api-key-file", type=click.Path(path_type=Path), help="File with the key that requests must have.")
@click.option("--allow-host", "names", multiple=True, metavar="NAME", help="Also answer to this name; repeatable.")
@click.option("--allow-remote-media", is_flag=True, help="Fetch pictures from public http and https addresses.")
@click.option("--queue", type=click.IntRange(0, 10_000), default=32, show_default=True, help="Requests in line.")
@click.option(
    "--conversations",
    type=click.IntRange(1, 1000),
    default=4,
    show_default=True,
    help="KV caches kept for each model, where there is memory.",
)
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
    server = Server(bundles, loading, options, queue, conversations)
    with bind(host, port) as listening:
        shown = f"[{host}]" if ":" in host else host
        click.echo(f"palmtop serves {', '.join(server.models.models)} at http://{shown}:{listening.getsockname()[1]}/")
        sys.stdout.flush()
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
