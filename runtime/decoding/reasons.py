"""Names of the reasons why an answer ended and why a cached sequence was read again."""

from typing import Literal

FinishReason = Literal["eos", "stop_string", "max_tokens", "context_full", "cancelled", "timeout"]
ReprefillReason = Literal["adapters", "rope"]
