"""Older manifests in today's words: one function for each schema, giving the next one's fields.

And back, for writing: a manifest that says nothing new is written as before, so that older readers, and phones,
still open it. Knows plain JSON data. What is damaged passes through as it is; ``manifest.py`` refuses it afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Body = dict[str, Any]


NEW_IN_2: Body = {"file": None, "combine": "replace", "merged_from": {}}
"""Of adapters that came with the checkpoint."""


def _from_1(body: Body) -> Body:
    """Schema 2 knows adapters that users added: their file, how they meet a route's, what they were merged from."""
    adapters = body.get("adapters")
    if not isinstance(adapters, list):
        return body
    return {**body, "adapters": [{**a, **NEW_IN_2} if isinstance(a, dict) else a for a in adapters]}


def _to_1(body: Body, modes: tuple[str, ...]) -> Body | None:
    """The same in schema 1, None where that cannot say it: it knows no added adapters and no routes of tasks."""
    if (
        any(a[key] != value for a in body["adapters"] for key, value in NEW_IN_2.items())
        or body["routes"].keys() - modes
    ):
        return None
    kept = [{key: value for key, value in a.items() if key not in NEW_IN_2} for a in body["adapters"]]
    return {**body, "adapters": kept}


def _from_2(body: Body) -> Body:
    """Schema 3 knows KV caches of 8 and 4 bits, and targets: graphs for providers that compile ahead."""
    found, decoder = {**body, "targets": []}, body.get("decoder")
    return {**found, "decoder": {**decoder, "kv_bits": 32}} if isinstance(decoder, dict) else found


def _to_2(body: Body, modes: tuple[str, ...]) -> Body | None:
    """The same in schema 2, None where that cannot say it: its KV caches are float32, and it knows no targets."""
    if body["targets"] or body["decoder"]["kv_bits"] != 32:
        return None
    decoder = {key: value for key, value in body["decoder"].items() if key != "kv_bits"}
    return {**{key: value for key, value in body.items() if key != "targets"}, "decoder": decoder}


MIGRATIONS: tuple[Callable[[Body], Body], ...] = (_from_1, _from_2)
"""From schema 1, from schema 2, ..."""
WAYS_BACK: tuple[Callable[[Body, tuple[str, ...]], Body | None], ...] = (_to_1, _to_2)
"""To schema 1, to schema 2, ..."""


def migrate(body: Body, schema: int) -> Body:
    """The manifest's fields as the newest schema has them."""
    for step in MIGRATIONS[schema - 1 :]:
        body = step(body)
    return body


def oldest(body: Body, modes: tuple[str, ...]) -> Body:
    """A whole manifest in the oldest schema that can say what it says, that schema's number first."""
    schema = len(MIGRATIONS) + 1
    for back in reversed(WAYS_BACK):
        lower = back(body, modes)
        if lower is None:
            break
        body, schema = lower, schema - 1
    return {"schema": schema, **body}
