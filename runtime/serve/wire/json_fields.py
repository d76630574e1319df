"""JSON bodies, read field by field with types; unread fields are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from palmtop.runtime.bundle.json_fields import kind_of

from .api_error import ApiError, refused

MAX_DEPTH = 64


def read_json(body: bytes) -> dict[str, Any]:
    """Return the object in a request's body.

    Raises:
        ApiError: the body is not JSON by RFC 8259, is nested too deeply, has a lone surrogate, or is not an object.
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
        value.encode()  # a lone surrogate raises ValueError here
    elif isinstance(value, dict):
        for key, item in value.items():
            key.encode()
            _check(item, depth - 1)
    elif isinstance(value, list):
        for item in value:
            _check(item, depth - 1)


class Fields:
    """An object of a request; every field is read once, and ``done`` refuses unread ones.

    Args:
        data: the object.
        where: path of the object, "" for the body.
    """

    def __init__(self, data: Mapping[str, Any], where: str = "") -> None:
        self._data = data
        self._where = where
        self._left = set(data)

    def name(self, key: str) -> str:
        """Return the path of a field, for errors."""
        return f"{self._where}.{key}" if self._where else key

    def any(self, key: str) -> Any:
        """Return a value of any type; None if it is null or missing."""
        self._left.discard(key)
        return self._data.get(key)

    def text(self, key: str) -> str | None:
        """Return a string value.

        Raises:
            ApiError: the value is of another type.
        """
        value = self.any(key)
        if value is not None and not isinstance(value, str):
            raise refused(self.name(key), value, "text")
        return value

    def word(self, key: str, *choices: str) -> str | None:
        """Return one of several strings.

        Raises:
            ApiError: the value is another one.
        """
        value = self.text(key)
        if value is not None and value not in choices:
            raise refused(self.name(key), value, f"one of {', '.join(choices)}")
        return value

    def flag(self, key: str) -> bool:
        """Return a boolean; false if it is missing.

        Raises:
            ApiError: the value is of another type.
        """
        value = self.any(key)
        if value is not None and not isinstance(value, bool):
            raise refused(self.name(key), value, "true or false")
        return bool(value)

    def number(self, key: str, least: float, most: float) -> float | None:
        """Return a number in a range.

        Raises:
            ApiError: the value is another one.
        """
        value = self.any(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
            raise refused(self.name(key), value, f"a number from {least:g} to {most:g}")
        return float(value)

    def whole(self, key: str, least: int, most: int) -> int | None:
        """Return a whole number in a range.

        Raises:
            ApiError: the value is another one.
        """
        value = self.any(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise refused(self.name(key), value, f"a whole number from {least} to {most}")
        return value

    def items(self, key: str) -> list[Any] | None:
        """Return a list value.

        Raises:
            ApiError: the value is of another type.
        """
        value = self.any(key)
        if value is not None and not isinstance(value, list):
            raise refused(self.name(key), value, "a list")
        return value

    def nested(self, key: str) -> Fields | None:
        """Return an object to be read in the same way.

        Raises:
            ApiError: the value is of another type.
        """
        value = self.any(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise refused(self.name(key), value, "an object")
        return Fields(value, self.name(key))

    def pass_over(self, *keys: str) -> None:
        """Ignore fields without an influence on the answer."""
        self._left.difference_update(keys)

    def only(self, key: str, *neutral: object) -> None:
        """Accept a field that is not offered only with a neutral value.

        Raises:
            ApiError: it has another value.
        """
        value = self.any(key)
        if value is not None and not any(value == choice and type(value) is type(choice) for choice in neutral):
            expected = f"{' or '.join(map(repr, neutral)) or 'nothing'}: this server does not offer it"
            raise refused(self.name(key), value, expected, code="unsupported_parameter")

    def done(self) -> None:
        """Refuse fields that were not read.

        Raises:
            ApiError: there is an unread field.
        """
        if self._left:
            key = self.name(min(self._left))
            raise ApiError(400, f"{key:.100}: this server has no such field", code="unknown_parameter", param=key)


def as_fields(value: object, where: str) -> Fields:
    """Return an object in a list.

    Raises:
        ApiError: the item is of another type.
    """
    if not isinstance(value, dict):
        raise refused(where, value, "an object")
    return Fields(value, where)
