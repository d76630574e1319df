"""Older manifests in today's words: one function for each schema, giving the next one's fields.

Knows plain JSON data. What is damaged passes through as it is; ``manifest.py`` refuses it afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Body = dict[str, Any]


def _from_1(body: Body) -> Body:
    """Schema 2 knows adapters that users added: their file, how they meet a route's, what they were merged from."""
    adapters = body.get("adapters")
    if not isinstance(adapters, list):
        return body
    new: Body = {"file": None, "combine": "replace", "merged_from": {}}
    return {**body, "adapters": [{**a, **new} if isinstance(a, dict) else a for a in adapters]}


MIGRATIONS: tuple[Callable[[Body], Body], ...] = (_from_1,)
"""From schema 1, from schema 2, ..."""


def migrate(body: Body, schema: int) -> Body:
    """The manifest's fields as the newest schema has them."""
    for step in MIGRATIONS[schema - 1 :]:
        body = step(body)
    return body
