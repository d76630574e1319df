"""Counters of the server in Prometheus' format. Names and numbers only: no content of any request."""

from __future__ import annotations

from collections import Counter

from palmtop.runtime.chat.reply import Reply
from palmtop.runtime.memory.machine import rss_bytes

from .models import Models

Labels = tuple[tuple[str, str], ...]
MEANINGS = {
    "palmtop_requests_total": ("counter", "Requests answered, by path and status."),
    "palmtop_requests_aborted_total": ("counter", "Requests whose client went away first."),
    "palmtop_prompt_tokens_total": ("counter", "Tokens of prompts, media rows counted."),
    "palmtop_cached_tokens_total": ("counter", "Tokens of prompts that were in the KV cache."),
    "palmtop_completion_tokens_total": ("counter", "Tokens sampled."),
    "palmtop_ttft_seconds_total": ("counter", "Seconds to the first token, waiting in line left out."),
    "palmtop_answers_total": ("counter", "Answers, by what ended them."),
    "palmtop_model_loaded": ("gauge", "1 for a model that is in memory."),
    "palmtop_model_planned_bytes": ("gauge", "Memory that a loaded model is planned to take."),
    "palmtop_requests_waiting": ("gauge", "Requests in line before a model."),
    "palmtop_requests_running": ("gauge", "1 while a model answers."),
    "palmtop_resident_memory_bytes": ("gauge", "Resident memory of the process."),
}


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[Labels]] = {}

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter; ``name`` is one of ``MEANINGS``."""
        key = tuple(sorted(labels.items()))
        self._counts.setdefault(name, Counter())[key] += amount  # type: ignore[assignment]

    def answered(self, model: str, reply: Reply) -> None:
        """Count an answer of a model."""
        self.add("palmtop_answers_total", model=model, ended_by=reply.ended_by)
        self.add("palmtop_prompt_tokens_total", reply.usage.prompt_tokens, model=model)
        self.add("palmtop_cached_tokens_total", reply.usage.cached_tokens, model=model)
        self.add("palmtop_completion_tokens_total", reply.usage.completion_tokens, model=model)
        self.add("palmtop_ttft_seconds_total", reply.usage.ttft_s, model=model)

    def text(self, models: Models) -> str:
        """Return all counters in Prometheus' text format 0.0.4."""
        values: dict[str, dict[Labels, float]] = {name: dict(counts) for name, counts in self._counts.items()}
        for model in models.models.values():
            key = (("model", model.name),)
            plan = model.session.plan.total if model.session is not None else 0
            values.setdefault("palmtop_model_loaded", {})[key] = int(model.session is not None)
            values.setdefault("palmtop_model_planned_bytes", {})[key] = plan
            values.setdefault("palmtop_requests_waiting", {})[key] = model.turns.waiting
            values.setdefault("palmtop_requests_running", {})[key] = int(model.turns.is_busy)
        if (resident := rss_bytes()) is not None:
            values["palmtop_resident_memory_bytes"] = {(): resident}
        lines = []
        for name, (kind, meaning) in MEANINGS.items():
            lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
            lines += [f"{name}{_labels(labels)} {value:.17g}" for labels, value in values.get(name, {}).items()]
        return "\n".join(lines) + "\n"


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    escape = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
    return "{" + ",".join(f'{name}="{value.translate(escape)}"' for name, value in labels) + "}"
