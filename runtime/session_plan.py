"""The memory plan of a session: its context as asked for, or the longest that fits."""

from __future__ import annotations

import logging

from palmtop.errors import OptionError
from palmtop.runtime.bundle.manifest import Manifest
from palmtop.runtime.memory.machine import available_memory
from palmtop.runtime.memory.plan import (
    MINIMUM_CONTEXT,
    MemoryPlan,
    check_plan,
    largest_context,
    plan_memory,
    with_copies,
)
from palmtop.runtime.providers.static_sessions import StaticSessions

from .session_options import LARGEST_CHUNK, SessionOptions

logger = logging.getLogger(__name__)


def plan_session(manifest: Manifest, options: SessionOptions, static: StaticSessions | None = None) -> MemoryPlan:
    """Return the plan for the requested context, or for the longest that fits; refuse one that does not fit.

    Graphs of fixed shapes always allocate the cache that they were exported with.
    """
    serves = manifest.decoder.context_length if static is None else static.spec.context
    if options.context is not None and options.context > serves:
        raise OptionError("context", f"found {options.context}, this bundle serves at most {serves} tokens")

    def plan(context: int) -> MemoryPlan:
        needs = plan_memory(
            manifest,
            context=context,
            media_rows=options.media_rows,
            chunk=options.prefill_chunk or LARGEST_CHUNK,
            keep_encoders=options.keep_encoders,
            conversations=options.conversations,
        )
        return needs if static is None else with_copies(manifest, needs, static.copies)

    available = available_memory()
    if options.memory_limit is not None:
        available = options.memory_limit if available is None else min(available, options.memory_limit)
    wanted = plan(options.context or serves if static is None else serves)
    if static is None and options.context is None and available is not None and wanted.text > available:
        fits = largest_context(manifest, wanted, available)
        logger.info("%s: a context of %d instead of %d fits into memory", manifest.model, fits, serves)
        wanted = plan(fits or MINIMUM_CONTEXT)
    check_plan(manifest, wanted, available)
    return wanted
