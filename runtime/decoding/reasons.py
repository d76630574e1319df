"""Names of the reasons why an answer ended and why a cached sequence was read again."""

from typing import Literal

EndReason = Literal["eos", "stop_string", "max_tokens", "context_full", "cancelled", "timeout"]
FinishReason = Literal["stop", "length", "tool_calls", "cancelled"]
ReprefillReason = Literal["adapters", "rope"]
