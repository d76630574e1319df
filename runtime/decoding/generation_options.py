"""How one answer is generated: its length, its sampling, its form, where it ends. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from palmtop.runtime.bundle.option_checks import check_choice, check_number, check_whole, wrong

from .grammar import Grammar

DEFAULT_MAX_TOKENS = 256
OverflowRule = Literal["refuse", "trim"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationOptions:
    """Chosen anew for every turn.

    Attributes:
        max_tokens: longest answer, in tokens.
        temperature: 0 takes the most probable token each time; 1 samples from the model's own distribution.
        top_k: sample only from this many most probable tokens; 0 for all.
        top_p: sample only from the fewest tokens whose probabilities reach this sum.
        repetition_penalty: above 1 makes tokens that the sequence already holds less probable.
        seed: of the sampler; None draws one from the operating system. Equal requests with equal seeds give equal
            text within a session: for this ``Session.chat`` reads an earlier answer's tokens again as a new prompt.
        stop: the answer ends before the first of these strings.
        grammar: the answer's text follows it; None for free text.
        timeout_s: seconds after which the answer ends where it is, from its first step on; None for no limit.
        on_overflow: what becomes of a prompt longer than the context: "refuse" it, or "trim" the oldest
            questions with their answers, until there is room for the answer too (at most a quarter of the
            context); system messages and the last question always stay.
        speculate: guess ahead (``drafting``), which changes no token: None where the bundle was exported for it and
            as far as it is measured to be faster, True wherever a guess is found, False never.

    Raises:
        InputError: a value is of the wrong type or out of its range.
    """

    max_tokens: int = DEFAULT_MAX_TOKENS
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    grammar: Grammar | None = None
    timeout_s: float | None = None
    on_overflow: OverflowRule = "refuse"
    speculate: bool | None = None

    def __post_init__(self) -> None:
        check_whole("max_tokens", self.max_tokens, 1)
        check_number("temperature", self.temperature, "0 or more")
        check_whole("top_k", self.top_k, 0)
        check_number("top_p", self.top_p, "above 0, at most 1")
        check_number("repetition_penalty", self.repetition_penalty, "above 0")
        check_whole("seed", self.seed, 0, optional=True)
        check_number("timeout_s", self.timeout_s, "above 0", optional=True)
        check_choice("on_overflow", self.on_overflow, ("refuse", "trim"))
        if self.speculate is not None and not isinstance(self.speculate, bool):
            raise wrong("speculate", self.speculate, "True, False or None")
        if self.grammar is not None and not isinstance(self.grammar, Grammar):
            raise wrong("grammar", self.grammar, "a Grammar")
        if not isinstance(self.stop, (tuple, list)) or not all(isinstance(s, str) and s for s in self.stop):
            raise wrong("stop", self.stop, "non-empty strings in a tuple")
        object.__setattr__(self, "stop", tuple(self.stop))
