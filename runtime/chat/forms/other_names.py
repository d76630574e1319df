"""Names that other libraries give to what a session does, and what to write here."""

from __future__ import annotations

_CHAT = 'session.chat("...") gives the answer: loop over its pieces, or take its text'
_OF_SESSION = {
    **dict.fromkeys(("generate", "stream_generate", "create", "create_chat_completion", "completions", "ask"), _CHAT),
    **dict.fromkeys(("predict", "complete", "invoke", "respond", "say", "stream", "run", "messages"), _CHAT),
    **dict.fromkeys(("tokenizer", "tokenize", "encode"), 'session.count_tokens("...") counts tokens'),
    **dict.fromkeys(("start_chat", "chats", "history"), "session.conversation() keeps a dialogue"),
    **dict.fromkeys(("load_adapter", "set_adapter", "load_lora"), 'adapters={"NAME": 1.0} of a call switches one on'),
    **dict.fromkeys(("to", "cuda", "half", "eval"), 'palmtop.load(..., provider="openvino") chooses where it runs'),
    **dict.fromkeys(("audio", "transcriptions"), 'palmtop.transcribe(session, "talk.mp3") gives text with times'),
}


def no_attribute(name: str) -> AttributeError:
    """Return the error for a name that a session does not have, with the one to use where it is known.

    >>> print(no_attribute("start_chat"))
    Session has no 'start_chat'; session.conversation() keeps a dialogue
    """
    instead = f"; {_OF_SESSION[name]}" if name in _OF_SESSION else ""
    return AttributeError(f"Session has no '{name}'{instead}")
