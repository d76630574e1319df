"""Why an answer ended, and why a cached sequence was read again, as words."""

from typing import Literal

FinishReason = Literal["eos", "stop_string", "max_tokens", "context_full", "cancelled", "timeout"]
ReprefillReason = Literal["adapters", "rope"]
