"""Parameter type for sizes on the command line, such as 2GB."""

from __future__ import annotations

import re
from typing import Any

import click

from palmtop.errors import OptionError

LARGEST = 1e18


class Size(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic from click 8.4 on
    """Click parameter type: bytes from text such as 2GB, 800MB or 1.5 GiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Convert text to bytes; a number alone is bytes."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(i?)b?", str(value).strip().lower())
        if match is None or not 0 < float(match[1]) < LARGEST:
            name = param.name if param is not None and param.name is not None else "size"
            raise OptionError(name, f"found '{value:.60}', expected a size such as 2GB or 800MB")
        return int(float(match[1]) * (1024 if match[3] else 1000) ** " kmgt".index(match[2] or " "))
