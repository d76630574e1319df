"""External data locations in an ONNX graph: read, and changed in a copy in memory.

Reads the few protobuf fields that lead to external data (onnx.proto3), so that the runtime needs no onnx package.
Independent of files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from palmtop.errors import BundleError

Rename = Callable[[str], str]

_LENGTH_DELIMITED = 2
_FIXED_BYTES = {1: 8, 5: 4}
# By message: number of a field, and the message in it. "entry" is StringStringEntryProto.
_LEADS_TO = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},
    "tensor": {13: "entry"},
}
_KEY, _VALUE = 1, 2  # field of an entry


def with_locations(model: bytes, rename: Rename) -> bytes:
    """Return a serialised ModelProto with renamed external locations; all other bytes are unchanged.

    Args:
        model: content of an .onnx file.
        rename: function from an old location to the new one.

    Raises:
        BundleError: the bytes are not an ONNX model.
    """
    try:
        return _changed(memoryview(model), "model", rename)
    except (IndexError, UnicodeDecodeError) as error:
        raise BundleError(f"the graph is no ONNX model ({error}), expected one that protobuf can read") from error


def _changed(message: memoryview, kind: str, rename: Rename) -> bytes:
    leads_to, out = _LEADS_TO[kind], bytearray()
    for number, whole, content in _fields(message):
        inner = leads_to.get(number)
        if inner is None or content is None:
            out += whole
            continue
        changed = _renamed(content, rename) if inner == "entry" else _changed(content, inner, rename)
        out += _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(changed)) + changed
    return bytes(out)


def _renamed(entry: memoryview, rename: Rename) -> bytes:
    """A key with its value; the value of "location" is renamed."""
    texts = {number: bytes(content).decode() for number, _, content in _fields(entry) if content is not None}
    if texts.get(_KEY) != "location":
        return bytes(entry)
    out = bytearray()
    for number, text in ((_KEY, "location"), (_VALUE, rename(texts.get(_VALUE, "")))):
        data = text.encode()
        out += _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(data)) + data
    return bytes(out)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview, memoryview | None]]:
    """Number, all bytes, and content of each field; no content for numbers."""
    at = 0
    while at < len(message):
        start = at
        tag, at = _read_varint(message, at)
        wire, content = tag & 7, None
        if wire == _LENGTH_DELIMITED:
            size, at = _read_varint(message, at)
            content = message[at : at + size]
            at += size
        elif wire == 0:
            _, at = _read_varint(message, at)
        elif wire in _FIXED_BYTES:
            at += _FIXED_BYTES[wire]
        else:
            raise IndexError(f"wire type {wire} at byte {start}")
        if at > len(message):
            raise IndexError(f"a field at byte {start} ends behind its message")
        yield tag >> 3, message[start:at], content


def _read_varint(message: memoryview, at: int) -> tuple[int, int]:
    """Read a number; return it with the position behind it."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
