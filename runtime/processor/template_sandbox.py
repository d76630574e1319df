"""Jinja2 sandbox with limits of time and memory for a template.

jinja2's own sandbox protects Python's internals, but allows ``'a' * 10**10`` or a macro that calls itself. Here loops
and calls are counted, and texts, lists and numbers are limited. Templates of real models stay far below the limits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from functools import wraps
from typing import Any

from jinja2 import TemplateRuntimeError, nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_STEPS = 200_000
"""Most loop items and calls of one rendering."""
MAX_SIZE = 1 << 25
"""Most characters or items of any one value, and characters of the whole prompt."""
MAX_BITS = 1 << 12
MAX_WIDTH = 1 << 16
"""Largest number for a filter or method: widths, counts, indents."""
_LOOP, _TEXT = "palmtop_loop", "palmtop_text"


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja2 environment that counts the steps of a template; ``begin`` resets the count."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, finalize=_printable)
        self._steps = 0
        del self.globals["lipsum"]
        for name, change in list(self.filters.items()):
            self.filters[name] = self.limited(change)
        self.filters[_LOOP] = self._loop
        self.filters[_TEXT] = _sized

    def begin(self) -> None:
        """Reset the count for another rendering."""
        self._steps = 0

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 - jinja2's names
        """Count a call in a template: macros, ``loop()``, methods."""
        __self._step(1)
        owner = getattr(__obj, "__self__", None)
        _check_arguments((owner, *args) if isinstance(owner, str) else args, kwargs)
        return _sized(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute an operator whose result may be large, within the limits."""
        if operator == "*":
            for many, times in ((left, right), (right, left)):
                if isinstance(many, Sized) and isinstance(times, int) and len(many) * times > MAX_SIZE:
                    raise _too_much()
        if operator == "%" and isinstance(left, (str, bytes)):
            _check_format(left)
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
            if bits > MAX_BITS:
                raise _too_much()
        return _sized(super().call_binop(context, operator, left, right))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Parse a template so that every loop counts its items, and every ``~`` checks its result."""
        tree = super()._parse(source, name, filename)
        for loop in list(tree.find_all(nodes.For)):
            loop.iter = _filtered(loop.iter, _LOOP)
        _wrap_concatenations(tree)
        return tree

    def _loop(self, items: Iterable[Any]) -> Iterable[Any]:
        counted = items if isinstance(items, Sized) else list(items)
        self._step(len(counted))
        return counted

    def _step(self, count: int) -> None:
        self._steps += count
        if self._steps > MAX_STEPS:
            raise TemplateRuntimeError(f"it takes more than {MAX_STEPS} steps")

    def limited(self, change: Callable[..., Any]) -> Callable[..., Any]:
        """Return a filter that checks its arguments and its result."""

        @wraps(change)  # also copies jinja2's attributes of a filter
        def limited(*args: Any, **kwargs: Any) -> Any:
            self._step(1)
            _check_arguments(args, kwargs)
            return _sized(change(*args, **kwargs))

        return limited


def _check_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse large widths, and texts whose product could be one text: ``'a'.replace('', long)``."""
    product = 1
    for value in (*args, *kwargs.values()):
        if isinstance(value, int) and abs(value) > MAX_WIDTH:
            raise _too_much()
        if isinstance(value, (str, list, tuple)):
            product *= max(1, len(value))
            _weigh(value)
            if isinstance(value, str) and "%" in value:
                _check_format(value)
    if product > MAX_SIZE:
        raise _too_much()


def _check_format(text: str | bytes) -> None:
    """Refuse a width of six digits or more in a format string, or one taken from an argument."""
    digits = 0
    for character in text if isinstance(text, str) else text.decode("latin-1"):
        digits = digits + 1 if character.isdigit() else 0
        if digits > 5:
            raise _too_much()


def _sized(value: Any) -> Any:
    if isinstance(value, (str, bytes, list, tuple, dict)) and len(value) > MAX_SIZE:
        raise _too_much()
    return value


def _printable(value: Any) -> Any:
    """Check a value that a template writes; nested lists are counted before they are written out."""
    _weigh(value)
    return value


def _weigh(value: Any) -> None:
    """Refuse nested lists and objects that are small in memory and very long when written."""
    if not isinstance(value, (list, tuple, dict)):
        return
    characters, items, waiting = 0, 0, [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, (list, tuple, dict)):
            items += len(item)
            if items > MAX_STEPS:
                raise _too_much()
            waiting.extend(item.values() if isinstance(item, dict) else item)
        elif isinstance(item, str):
            characters += len(item)
            if characters > MAX_SIZE:
                raise _too_much()


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _wrap_concatenations(node: nodes.Node) -> None:
    for name, value in list(node.iter_fields()):
        if isinstance(value, nodes.Node):
            _wrap_concatenations(value)
            if isinstance(value, nodes.Concat):
                setattr(node, name, _filtered(value, _TEXT))
        elif isinstance(value, list):
            for place, item in enumerate(value):
                if isinstance(item, nodes.Node):
                    _wrap_concatenations(item)
                    if isinstance(item, nodes.Concat):
                        value[place] = _filtered(item, _TEXT)


def _too_much() -> TemplateRuntimeError:
    return TemplateRuntimeError(f"it makes a value of more than {MAX_SIZE} characters or items")
