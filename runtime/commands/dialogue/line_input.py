"""Lines of a dialogue from a terminal: editing, history, completion, and texts of several lines."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import islice

from .attachments import completions

FENCE = '"""'


class LineInput:
    """Reader of a user's texts from the terminal.

    Python's readline gives editing, history and completion where it exists (not on Windows).

    Args:
        commands: commands that a line may begin with.
        taking_files: those of them that a path follows.
        read: reads one line after a prompt; ``input`` if None.
    """

    def __init__(
        self, commands: tuple[str, ...], taking_files: tuple[str, ...], read: Callable[[str], str] | None = None
    ) -> None:
        self._read = read or input
        self._commands, self._taking_files = commands, taking_files
        with suppress(ImportError):  # Windows and some builds of Python lack readline
            import readline

            readline.set_completer(self.complete)
            readline.set_completer_delims("")  # the whole line is completed
            is_libedit = "libedit" in (readline.__doc__ or "")
            readline.parse_and_bind("bind ^I rl_complete" if is_libedit else "tab: complete")

    def complete(self, line: str, number: int) -> str | None:
        """Return the n-th way to complete a line, as readline asks for it."""
        found = completions(line, self._commands, self._taking_files)
        return next(islice(found, number, None), None)

    def text(self) -> str:
        """Read a text: a line, lines joined by a backslash at their end, or all between two lines of three quotes.

        Raises:
            EOFError: the input has ended.
        """
        line = self._read("> ")
        if line.lstrip().startswith(FENCE):
            first = line.lstrip()[len(FENCE) :]
            lines = [first] if first else []
            if FENCE in first:
                return first.partition(FENCE)[0]
            while FENCE not in (line := self._read(". ")):
                lines.append(line)
            return "\n".join([*lines, *([last] if (last := line.partition(FENCE)[0]) else [])])
        lines = []
        while line.endswith("\\") and not line.startswith("/"):
            lines.append(line[:-1])
            line = self._read(". ")
        return "\n".join([*lines, line])
