"""Chat messages of the OpenAI / Hugging Face form, parsed to turns: one text and the media before it.

A content is a string, a part, or a list of parts. This file reads the spellings of a part and of its source; it opens
no file and no network address.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fsdecode
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import numpy as np

from palmtop.errors import InputError
from palmtop.runtime.bundle.json_fields import kind_of

Kind = Literal["image", "audio"]

# Keys of the source of each kind of part, most usual spelling first.
_SOURCE_KEYS: dict[str, tuple[Kind, tuple[str, ...]]] = {
    "image": ("image", ("image", "image_url", "url", "path")),
    "image_url": ("image", ("image_url",)),
    "input_image": ("image", ("image_url",)),
    "audio": ("audio", ("audio", "input_audio", "audio_url", "url", "path")),
    "input_audio": ("audio", ("input_audio",)),
    "audio_url": ("audio", ("audio_url",)),
}
_TEXT_TYPES = ("text", "input_text", "output_text")
_ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class MediaItem:
    """An image or a sound of a conversation.

    Attributes:
        kind: "image" or "audio".
        number: 1-based, counted per kind over the whole conversation.
        source: source for ``load_image`` or ``load_audio``.
    """

    kind: Kind
    number: int
    source: Any


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Turn:
    """One parsed message.

    Attributes:
        role: "system", "user", "assistant", "tool", or another role of the template.
        text: its texts, joined without a separator; None if the message has no content.
        media: in the order given; they come before the text.
        extra: other keys of the message.
    """

    role: str
    text: str | None
    media: tuple[MediaItem, ...]
    extra: dict[str, Any]


def read_messages(messages: Sequence[Mapping[str, Any]]) -> list[Turn]:
    """Parse and check a conversation.

    Raises:
        InputError: a message or part of an unknown shape; names its place, like ``messages[0].content[1]``.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not messages:
        raise InputError(f"messages: found {_brief(messages)}, expected a list of messages with role and content")
    counts: dict[Kind, int] = {"image": 0, "audio": 0}
    return [_read_message(message, f"messages[{i}]", counts) for i, message in enumerate(messages)]


def media_beside(messages: Sequence[Mapping[str, Any]], folder: Path) -> tuple[list[dict[str, Any]], set[Kind]]:
    """Return messages of a file with media paths relative to its folder, and the kinds of their media.

    Raises:
        InputError: as for ``read_messages``.
    """
    kinds = set[Kind]()

    def located(item: MediaItem) -> Any:
        kinds.add(item.kind)
        return str(folder / item.source) if isinstance(item.source, (str, Path)) else item.source

    return with_sources(messages, located), kinds


def with_sources(messages: Sequence[Mapping[str, Any]], source_of: Callable[[MediaItem], Any]) -> list[dict[str, Any]]:
    """Return messages in which every medium has the source that a function gives for it.

    Raises:
        InputError: as for ``read_messages``.
    """
    found = []
    for message, turn in zip(messages, read_messages(messages), strict=True):
        media = iter(turn.media)
        content = message.get("content")
        if isinstance(content, Mapping) or is_picture(content):
            content = [content]
        if isinstance(content, (list, tuple)):
            content = [
                part
                if isinstance(part, str) or (isinstance(part, Mapping) and part["type"] in _TEXT_TYPES)
                else {"type": (item := next(media)).kind, item.kind: source_of(item)}
                for part in content
            ]
        found.append({**message, "content": content} if "content" in message else dict(message))
    return found


def _read_message(message: Mapping[str, Any], where: str, counts: dict[Kind, int]) -> Turn:
    if not isinstance(message, Mapping):
        raise InputError(f"{where}: found {_brief(message)}, expected an object with role and content")
    role = message.get("role")
    if not isinstance(role, str) or not _ROLE.fullmatch(role):
        raise InputError(f"{where}.role: found {_brief(role)}, expected a name such as 'user'")
    content = message.get("content")
    texts: list[str] = []
    media: list[MediaItem] = []
    if isinstance(content, Mapping) or is_picture(content):
        content = [content]
    if isinstance(content, str):
        texts.append(content)
    elif isinstance(content, (list, tuple)):
        for i, part in enumerate(content):
            _read_part(part, f"{where}.content[{i}]", texts, media, counts)
    elif content is not None:
        raise InputError(f"{where}.content: found {_brief(content)}, expected text or a list of parts")
    text = None if content is None else "".join(texts)
    extra = {key: value for key, value in message.items() if key not in ("role", "content")}
    return Turn(role=role, text=text, media=tuple(media), extra=extra)


def _read_part(part: Any, where: str, texts: list[str], media: list[MediaItem], counts: dict[Kind, int]) -> None:
    if isinstance(part, str):
        part = {"type": "text", "text": part}
    elif is_picture(part):
        part = {"type": "image", "image": part}
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in _TEXT_TYPES:
        if not isinstance(part.get("text"), str):
            raise InputError(f"{where}.text: found {_brief(part.get('text'))}, expected text")
        texts.append(part["text"])
        return
    if not isinstance(kind, str) or kind not in _SOURCE_KEYS:
        expected = ", ".join(("text", *_SOURCE_KEYS))
        raise InputError(f"{where}.type: found {_brief(kind)}, expected one of {expected}")
    modality, keys = _SOURCE_KEYS[kind]
    key = next((key for key in keys if part.get(key) is not None), None)
    if key is None:
        raise InputError(f"{where}: the {modality} part has no source, expected a key {' or '.join(map(repr, keys))}")
    counts[modality] += 1
    source = _plain(modality, _read_source(part[key], f"{where}.{key}"), f"{where}.{key}")
    _check_source(modality, source, f"{where}.{key}")
    media.append(MediaItem(kind=modality, number=counts[modality], source=source))


def _read_source(value: Any, where: str) -> Any:
    """Unpack {"url": ...} and {"data": base64}, data: and file: addresses; leave paths, bytes and arrays.

    Rows of Hugging Face data sets are unpacked as well: {"array", "sampling_rate"}, and {"bytes", "path"}.
    """
    if isinstance(value, Mapping):
        if value.get("array") is not None and value.get("sampling_rate") is not None:
            return value["array"], value["sampling_rate"]
        if isinstance(value.get("bytes"), bytes):
            return value["bytes"]
        if value.get("path") is not None:
            return _read_source(value["path"], f"{where}.path")
        if isinstance(value.get("data"), str):
            return _decode_base64(value["data"], f"{where}.data")
        if value.get("url") is None:
            found = _brief(str(sorted(map(str, value))))
            raise InputError(f"{where}: found keys {found}, expected 'url', 'data', or 'array' and 'sampling_rate'")
        if isinstance(value["url"], Mapping):
            raise InputError(f"{where}.url: found an object, expected a path or an address")
        return _read_source(value["url"], f"{where}.url")
    if isinstance(value, str):
        if value.startswith("data:"):
            head, _, body = value.partition(",")
            if not head.endswith(";base64"):
                raise InputError(f"{where}: found {_brief(head)}, expected a data: address in base64")
            return _decode_base64(body, where)
        if value.startswith("file://"):
            try:
                return Path(unquote(urlsplit(value).path))
            except ValueError as error:
                raise InputError(f"{where}: {_brief(value)} is no file: address ({error})") from error
        if re.match(r"https?://", value, re.IGNORECASE):
            expected = "a path, bytes or a data: address (palmtop fetches nothing)"
            raise InputError(f"{where}: found {_brief(value)}, expected {expected}")
    return value


def is_picture(value: object) -> bool:
    """Return whether a value is a picture of Pillow, which is not imported for this."""
    return any(kind.__module__ == "PIL.Image" and kind.__name__ == "Image" for kind in type(value).__mro__)


def _plain(kind: Kind, source: Any, where: str) -> Any:
    """Return a source as a path, bytes, pixels, or (samples, rate): from Pillow, an open file, a tensor or a list."""
    if is_picture(source):
        from .images.image_file import pixels_of

        return pixels_of(source, where)
    if isinstance(source, (bytearray, memoryview)):
        return bytes(source)
    if isinstance(source, PathLike) and not isinstance(source, Path):
        return Path(fsdecode(source))
    if callable(getattr(source, "read", None)):
        try:
            start = source.tell() if source.seekable() else None
            data = source.read()
            if start is not None:
                source.seek(start)  # a conversation reads its messages at each turn
        except (OSError, ValueError, AttributeError) as error:  # ValueError: it is closed
            raise InputError(f"{where}: the open file cannot be read ({error!s:.100})") from error
        if not data:
            raise InputError(f"{where}: the open file has nothing left to read, expected it at its beginning")
        return data
    try:
        if kind == "image" and hasattr(source, "__array__"):
            return np.asarray(source)
        if kind == "audio" and isinstance(source, (tuple, list)) and len(source) == 2:
            samples, rate = source
            return np.asarray(samples), getattr(rate, "item", lambda: rate)()
    except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: a tensor on another device
        raise InputError(f"{where}: is no array ({error!s:.100})") from error
    return source


def _check_source(kind: Kind, source: Any, where: str) -> None:
    """Refuse a source that neither ``load_image`` nor ``load_audio`` accepts, while its position is known."""
    if isinstance(source, (str, Path)):
        if "\0" in str(source):
            raise InputError(f"{where}: found a NUL byte in {_brief(str(source))}, expected a path")
    elif not isinstance(source, bytes):
        wanted: type = np.ndarray if kind == "image" else tuple
        array = "a picture of Pillow, or pixels" if kind == "image" else "(samples, rate in Hz)"
        if not isinstance(source, wanted):
            raise InputError(f"{where}: found {type(source).__name__}, expected a path, bytes, {array}")


def _decode_base64(text: str, where: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{where}: {len(text)} characters are not valid base64 ({error})") from error


def _brief(value: object) -> str:
    text = repr(value) if isinstance(value, (str, int, float, type(None))) else kind_of(value)
    return text if len(text) <= 60 else text[:57] + "..."
