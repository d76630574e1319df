"""Generation options of one answer: length, sampling, grammar, stop strings. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from palmtop.runtime.bundle.option_checks import check_choice, check_number, check_whole, wrong

from .grammar import Grammar

UNTIL_THE_CONTEXT_IS_FULL = 1 << 20
MAX_TOP_LOGPROBS = 20
OverflowRule = Literal["refuse", "trim"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationOptions:
    """Generation options of one answer, chosen for each turn.

    None in length or sampling stands for the bundle's value: the checkpoint's ``generation_config.json``. Where that
    has no value: as many tokens as the context has room for, greedy sampling.

    Attributes:
        max_tokens: longest answer in tokens.
        temperature: 0 takes the most probable token each time; 1 samples from the model's own distribution.
        top_k: sample only from this many most probable tokens; 0 for all.
        top_p: sample only from the fewest tokens whose probabilities reach this sum.
        min_p: sample only from tokens whose probability is at least this share of the most probable one's; 0 for all.
        repetition_penalty: above 1 makes tokens that the sequence already holds less probable.
        seed: seed of the sampler; None draws one from the operating system. Equal requests with equal seeds give equal
            text within a session: for this ``Session.chat`` reads an earlier answer's tokens again as a new prompt.
        stop: strings; the answer ends before the first of them.
        grammar: grammar that the answer's text must follow; None for free text.
        timeout_s: seconds after which the answer is cut, counted from its first step; None for no limit.
        on_overflow: treatment of a prompt longer than the context: "refuse" it, or "trim" the oldest questions with
            their answers until there is room for the answer too (at most a quarter of the context); system messages and
            the last question are kept.
        speculate: use prompt lookup (``prompt_lookup``), which changes no token: None uses it where the bundle was
            exported for it and as far as it is measured to be faster, True wherever a draft is found, False never.
        thinking: whether a model with a switch for it thinks before the answer: given to the chat template as
            ``enable_thinking`` (Qwen3, MiniCPM4.1) and ``thinking`` (Granite 3.3); None leaves it to the template.
        top_logprobs: number of most probable tokens (0 to 20) to report for each token of the answer, beside its own
            log-probability; None reports none.

    Raises:
        InputError: a value has the wrong type or is out of its range.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    grammar: Grammar | None = None
    timeout_s: float | None = None
    on_overflow: OverflowRule = "refuse"
    speculate: bool | None = None
    thinking: bool | None = None
    top_logprobs: int | None = None

    def __post_init__(self) -> None:
        check_whole("max_tokens", self.max_tokens, 1, optional=True)
        check_number("temperature", self.temperature, "0 or more", optional=True)
        check_whole("top_k", self.top_k, 0, optional=True)
        check_number("top_p", self.top_p, "above 0, at most 1", optional=True)
        check_number("min_p", self.min_p, "0 or more", optional=True)
        if self.min_p is not None and self.min_p > 1:
            raise wrong("min_p", self.min_p, "0 to 1")
        check_number("repetition_penalty", self.repetition_penalty, "above 0", optional=True)
        check_whole("seed", self.seed, 0, optional=True)
        check_whole("top_logprobs", self.top_logprobs, 0, optional=True)
        if self.top_logprobs is not None and self.top_logprobs > MAX_TOP_LOGPROBS:
            raise wrong("top_logprobs", self.top_logprobs, f"0 to {MAX_TOP_LOGPROBS}")
        check_number("timeout_s", self.timeout_s, "above 0", optional=True)
        check_choice("on_overflow", self.on_overflow, ("refuse", "trim"))
        for name in ("speculate", "thinking"):
            if not isinstance(getattr(self, name), (bool, type(None))):
                raise wrong(name, getattr(self, name), "True, False or None")
        if self.grammar is not None and not isinstance(self.grammar, Grammar):
            raise wrong("grammar", self.grammar, "a Grammar")
        if not isinstance(self.stop, (tuple, list)) or not all(isinstance(s, str) and s for s in self.stop):
            raise wrong("stop", self.stop, "non-empty strings in a tuple")
        object.__setattr__(self, "stop", tuple(self.stop))

    def resolved(self, own: Mapping[str, float] | None = None) -> ResolvedOptions:
        """Return the same options with a value for each None in length and sampling.

        Args:
            own: the bundle's defaults (``processor.text.generation``).
        """
        plain = {
            "max_tokens": UNTIL_THE_CONTEXT_IS_FULL,
            "temperature": 0.0,
            "top_k": 0,
            "top_p": 1.0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
        }
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, value in {**plain, **(own or {})}.items():
            if values[name] is None:
                values[name] = int(value) if name in ("max_tokens", "top_k") else value
        return ResolvedOptions(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedOptions(GenerationOptions):
    """Generation options without None in length and sampling."""

    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
