"""JSON bodies, read field by field: each of its type, and none left unread."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from palmtop.runtime.bundle.json_fields import kind_of

from .api_error import ApiError, refused

MAX_DEPTH = 64


def read_json(body: bytes) -> dict[str, Any]:
    """The object in a request's body.

    Raises:
        ApiError: it is not JSON by RFC 8259, is nested too deeply, holds a lone surrogate, or is no object.
    """

    def no_constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is no JSON number")

    try:
        value = json.loads(body.decode("utf-8"), parse_constant=no_constant)
        _check(value, MAX_DEPTH)
    except RecursionError as error:
        raise ApiError(400, f"body: nested more than {MAX_DEPTH} deep", code="invalid_json") from error
    except ValueError as error:  # of Unicode too
        raise ApiError(400, f"body: {error!s:.200}, expected JSON", code="invalid_json") from error
    if not isinstance(value, dict):
        raise ApiError(400, f"body: found {kind_of(value)}, expected a JSON object", code="invalid_json")
    return value


def _check(value: object, depth: int) -> None:
    if depth == 0:
        raise RecursionError
    if isinstance(value, str):
        value.encode()  # a lone surrogate is a ValueError here
    elif isinstance(value, dict):
        for key, item in value.items():
            key.encode()
            _check(item, depth - 1)
    elif isinstance(value, list):
        for item in value:
            _check(item, depth - 1)


class Fields:
    """An object of a request. Every field is taken once; ``done`` refuses what nobody took.

    Args:
        data: the object.
        where: its place, "" for the body.
    """

    def __init__(self, data: Mapping[str, Any], where: str = "") -> None:
        self._data = data
        self._where = where
        self._left = set(data)

    def name(self, key: str) -> str:
        """Place of a field, as in errors."""
        return f"{self._where}.{key}" if self._where else key

    def any(self, key: str) -> Any:
        """A value of any type; None where it is null or missing."""
        self._left.discard(key)
        return self._data.get(key)

    def text(self, key: str) -> str | None:
        """A string.

        Raises:
            ApiError: something else.
        """
        value = self.any(key)
        if value is not None and not isinstance(value, str):
            raise refused(self.name(key), value, "text")
        return value

    def word(self, key: str, *choices: str) -> str | None:
        """One of some strings.

        Raises:
            ApiError: something else.
        """
        value = self.text(key)
        if value is not None and value not in choices:
            raise refused(self.name(key), value, f"one of {', '.join(choices)}")
        return value

    def flag(self, key: str) -> bool:
        """True or false; false where it is missing.

        Raises:
            ApiError: something else.
        """
        value = self.any(key)
        if value is not None and not isinstance(value, bool):
            raise refused(self.name(key), value, "true or false")
        return bool(value)

    def number(self, key: str, least: float, most: float) -> float | None:
        """A number of a range.

        Raises:
            ApiError: something else.
        """
        value = self.any(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
            raise refused(self.name(key), value, f"a number from {least:g} to {most:g}")
        return float(value)

    def whole(self, key: str, least: int, most: int) -> int | None:
        """A whole number of a range.

        Raises:
            ApiError: something else.
        """
        value = self.any(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise refused(self.name(key), value, f"a whole number from {least} to {most}")
        return value

    def items(self, key: str) -> list[Any] | None:
        """A list.

        Raises:
            ApiError: something else.
        """
        value = self.any(key)
        if value is not None and not isinstance(value, list):
            raise refused(self.name(key), value, "a list")
        return value

    def nested(self, key: str) -> Fields | None:
        """An object, to be read likewise.

        Raises:
            ApiError: something else.
        """
        value = self.any(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise refused(self.name(key), value, "an object")
        return Fields(value, self.name(key))

    def pass_over(self, *keys: str) -> None:
        """Fields without an influence on the answer."""
        self._left.difference_update(keys)

    def only(self, key: str, *neutral: object) -> None:
        """A field that is not offered: taken where its value asks for nothing.

        Raises:
            ApiError: it asks for something.
        """
        value = self.any(key)
        if value is not None and not any(value == choice and type(value) is type(choice) for choice in neutral):
            expected = f"{' or '.join(map(repr, neutral)) or 'nothing'}: this server does not offer it"
            raise refused(self.name(key), value, expected, code="unsupported_parameter")

    def done(self) -> None:
        """Refuse a field that nobody took.

        Raises:
            ApiError: there is one.
        """
        if self._left:
            key = self.name(min(self._left))
            raise ApiError(400, f"{key:.100}: this server knows no such field", code="unknown_parameter", param=key)


def as_fields(value: object, where: str) -> Fields:
    """An object in a list.

    Raises:
        ApiError: it is something else.
    """
    if not isinstance(value, dict):
        raise refused(where, value, "an object")
    return Fields(value, where)
