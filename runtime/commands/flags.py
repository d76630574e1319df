"""Flags that several commands share, and the options made of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from palmtop.errors import InputError
from palmtop.runtime.bundle.named_bundles import BundlePath
from palmtop.runtime.bundle.option_checks import reason_of
from palmtop.runtime.chat.routing import AdapterRequest, parse_adapters
from palmtop.runtime.decoding.generation_options import GenerationOptions, OverflowRule
from palmtop.runtime.decoding.grammar import Grammar
from palmtop.runtime.memory.size_option import Size
from palmtop.runtime.providers.assignment import parse_provider
from palmtop.runtime.session import Session, SessionOptions, load_session

Command = Callable[..., Any]

bundle_argument = click.argument("bundle", type=BundlePath())


def session_flags(command: Command) -> Command:
    """Add --context, --threads, --memory-limit, --keep-encoders; the command gets ``loading``."""

    @click.option("--context", type=int, help="Context in tokens (default: as many as fit).")
    @click.option("--threads", type=int, help="Threads of the native libraries (default: their own).")
    @click.option("--memory-limit", type=Size(), help="Most memory of the session, e.g. 3.5GB.")
    @click.option("--keep-encoders", is_flag=True, help="Keep encoders loaded: faster, more memory.")
    @click.option(
        "--provider",
        "providers",
        multiple=True,
        metavar="[PART=]NAME",
        help="cpu (default), openvino or qnn, for all or for a part: vision=qnn; repeatable.",
    )
    @click.option(
        "--fallback", is_flag=True, help="Run nodes that the provider does not support on the CPU, with a warning."
    )
    @click.option(
        "--recompile", is_flag=True, help="Compile the provider's graphs on this machine, with its compiler version."
    )
    @wraps(command)
    def with_loading(
        *args: Any,
        context: int | None,
        threads: int | None,
        memory_limit: int | None,
        keep_encoders: bool,
        providers: tuple[str, ...],
        fallback: bool,
        recompile: bool,
        **others: Any,
    ) -> Any:
        loading = SessionOptions(
            context=context,
            threads=threads,
            keep_encoders=keep_encoders,
            memory_limit=memory_limit,
            provider=parse_provider(providers),
            fallback=fallback,
            recompile=recompile,
        )
        return command(*args, loading=loading, **others)

    return with_loading


def generation_flags(command: Command) -> Command:
    """Add the sampling flags; the command gets ``options``."""

    @click.option(
        "--max-tokens",
        type=int,
        help="Longest answer in tokens (default: until the context is full). This and the next five: the "
        "checkpoint's generation_config.json goes before the default.",
    )
    @click.option("--temperature", type=float, help="0 (default): always the most probable token.")
    @click.option("--top-k", type=int, help="Sample from this many most probable tokens (default: all).")
    @click.option("--top-p", type=float, help="Sample from the most probable up to this sum (default: 1).")
    @click.option("--min-p", type=float, help="Sample only from this share of the best one's up (default: 0).")
    @click.option("--repetition-penalty", type=float, help="Above 1: fewer repetitions (default: 1).")
    @click.option("--seed", type=int, help="Same question, options and seed: same answer.")
    @click.option("--stop", multiple=True, metavar="TEXT", help="End before this text; repeatable.")
    @click.option("--timeout", "timeout_s", type=float, metavar="SECONDS", help="Cut the answer after this time.")
    @click.option(
        "--overflow",
        "on_overflow",
        type=click.Choice(["refuse", "trim"]),
        default="refuse",
        show_default=True,
        help="When the context is full: refuse the question, or leave out the oldest questions and answers.",
    )
    @click.option(
        "--speculate/--no-speculate",
        default=None,
        help="Use prompt lookup wherever possible, or never (default: where it is measured to be faster).",
    )
    @click.option(
        "--thinking/--no-thinking",
        default=None,
        help="Switch a model's thinking, where its chat template has a switch (default: the template's).",
    )
    @click.option(
        "--schema",
        type=click.Path(path_type=Path),
        help="Answer in JSON that this JSON schema allows, with little white space.",
    )
    @click.option("--regex", help="Answer with a text that matches this regular expression.")
    @click.option("--lark", type=click.Path(path_type=Path), help="Answer in the language of this Lark grammar.")
    @wraps(command)
    def with_options(
        *args: Any,
        max_tokens: int | None,
        temperature: float | None,
        top_k: int | None,
        top_p: float | None,
        min_p: float | None,
        repetition_penalty: float | None,
        seed: int | None,
        stop: tuple[str, ...],
        timeout_s: float | None,
        on_overflow: OverflowRule,
        speculate: bool | None,
        thinking: bool | None,
        schema: Path | None,
        regex: str | None,
        lark: Path | None,
        **others: Any,
    ) -> Any:
        options = GenerationOptions(
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            stop=stop,
            timeout_s=timeout_s,
            on_overflow=on_overflow,
            speculate=speculate,
            thinking=thinking,
            grammar=_grammar(schema, regex, lark),
        )
        return command(*args, options=options, **others)

    return with_options


def adapter_flag(command: Command) -> Command:
    """Add --adapter and --route; the command gets ``adapters``: the request's choice, None without one."""

    @click.option(
        "--adapter",
        "adapter",
        multiple=True,
        metavar="NAME[=W]",
        help="Switch this adapter on at this weight: one of the checkpoint's instead of the route's, one of yours "
        "beside them; repeatable; 'none' for the base alone.",
    )
    @click.option("--route", metavar="NAME", help="Answer under this route of the bundle (default: by the input).")
    @wraps(command)
    def with_adapters(*args: Any, adapter: tuple[str, ...], route: str | None, **others: Any) -> Any:
        named = parse_adapters(adapter)
        wanted = None if named is None and route is None else AdapterRequest(named, route)
        return command(*args, adapters=wanted, **others)

    return with_adapters


def _grammar(schema: Path | None, regex: str | None, lark: Path | None) -> Grammar | None:
    """Return the grammar of an answer from the command line's flags.

    Raises:
        InputError: more than one is given, or a file cannot be read.
    """
    given = [name for name, value in (("--schema", schema), ("--regex", regex), ("--lark", lark)) if value is not None]
    if len(given) > 1:
        raise InputError(f"found {' and '.join(given)}, expected one grammar of the answer")
    if schema is not None:
        return Grammar.json_schema(_read(schema))
    if lark is not None:
        return Grammar.lark(_read(lark))
    return None if regex is None else Grammar.regex(regex)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")  # Windows writes a byte order mark
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as text ({reason_of(error)})") from error


def open_session(bundle: Path, loading: SessionOptions) -> Session:
    """Load a bundle as a session for a command; the front door, which can export, makes one of a model before."""
    return load_session(ready_bundle(bundle), loading)


def ready_bundle(bundle: Path) -> Path:
    """Return a bundle's path; the front door, which can export, makes a bundle of a model before."""
    context = click.get_current_context(silent=True)
    ready = None if context is None else context.find_root().obj
    return Path(ready(bundle)) if callable(ready) else bundle
