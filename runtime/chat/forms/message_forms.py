"""Forms in which a caller may give a question, as a list of messages: text, parts, one message, or the messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from palmtop.errors import InputError
from palmtop.runtime.bundle.json_fields import kind_of
from palmtop.runtime.chat.prompt_builder import Message
from palmtop.runtime.chat.reply import Reply

Asked = str | Mapping[str, Any] | Sequence[Any]
"""Text, a message, a list of messages, or a list of one message's parts (texts, pictures, {"type": ...})."""


def as_messages(asked: Asked, *, system: str | None = None, image: Any = None, audio: Any = None) -> list[Message]:
    """Return a question as messages.

    Args:
        asked: the question; a ``Reply`` among messages stands for its ``message``.
        system: text of a system message to put before it.
        image: picture or list of pictures, put before the last message's text.
        audio: sound or list of sounds, put behind the pictures.

    Raises:
        InputError: there is no question, or ``system`` stands beside a system message.

    >>> as_messages("Hello", system="Be brief.")
    [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': 'Hello'}]
    """
    messages = _messages(asked)
    if image is not None or audio is not None:
        messages[-1] = _with_media(messages[-1], image, audio)
    if system is None:
        return messages
    if not isinstance(system, str):
        raise InputError(f"system: found {kind_of(system)}, expected text")
    if isinstance(messages[0], Mapping) and messages[0].get("role") == "system":
        raise InputError("system: the messages begin with a system message already, expected one of the two")
    return [{"role": "system", "content": system}, *messages]


def as_content(content: Any, image: Any = None, audio: Any = None) -> Any:
    """Return the content of one message with media before its text; ``content`` itself without any."""
    media = [{"type": "image", "image": each} for each in _each(image)]
    media += [{"type": "audio", "audio": each} for each in _each(audio)]
    if not media:
        return content
    if content is None or isinstance(content, str):
        return [*media, *([{"type": "text", "text": content}] if content else [])]
    return [*media, *(content if isinstance(content, (list, tuple)) else [content])]


def _messages(asked: Any) -> list[Message]:
    if isinstance(asked, Reply):
        return [asked.message]
    if isinstance(asked, str):
        return [{"role": "user", "content": asked}]
    if isinstance(asked, Mapping):
        return [asked] if _is_message(asked) else [{"role": "user", "content": [asked]}]
    if not isinstance(asked, (list, tuple)) or not asked:
        raise InputError(
            f"messages: found {kind_of(asked)}, expected text, or a list of messages with role and content"
        )
    if any(map(_is_message, asked)):
        return [each.message if isinstance(each, Reply) else each for each in asked]
    return [{"role": "user", "content": list(asked)}]


def _is_message(value: object) -> bool:
    return isinstance(value, Reply) or (isinstance(value, Mapping) and ("role" in value or "type" not in value))


def _with_media(message: Message, image: Any, audio: Any) -> Message:
    if not isinstance(message, Mapping) or message.get("role") != "user":
        raise InputError("image, audio: the last message is not the user's, expected a question that they belong to")
    return {**message, "content": as_content(message.get("content"), image, audio)}


def _each(media: Any) -> list[Any]:
    if media is None:
        return []
    return list(media) if isinstance(media, list) else [media]
