"""``palmtop chat``: a dialogue in the terminal, or line by line through a pipe."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import click
from click.core import ParameterSource

from palmtop.errors import InputError, MemoryPlanError, PalmtopError
from palmtop.runtime.chat.conversation import Conversation
from palmtop.runtime.chat.routing import Wanted
from palmtop.runtime.chat.stream import Answer
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.memory.plan import megabytes
from palmtop.runtime.session import SessionOptions

from .dialogue.attachments import attach, kind_of_file, typed_paths, unquoted
from .dialogue.capture import Kind, Source, captured, is_captured
from .dialogue.line_input import LineInput
from .flags import adapter_flag, bundle_argument, generation_flags, open_session, ready_bundle, session_flags
from .run import summary, user_content
from .serve import open_page
from .showing import PieceWriter, cut_note, thinking_flag
from .typed_text import check_text, clean, clean_option, piped_lines

PAGE_PARAMETERS = (
    *("bundle", "web", "context", "threads", "memory_limit", "keep_encoders", "providers", "fallback", "recompile"),
)
"""Parameters of the command that the server of the page takes."""

HELP = """/image FILE   add a picture to the next message; a path pasted alone does too
/audio FILE   add a sound to the next message
              /image clipboard: the copied picture; /audio mic: record until Enter
/retry        answer the last question again
/undo         take the last question and its answer back
/reset        start over
/save FILE    save the conversation, its pictures and sounds, and what was computed
/load FILE    go on with a saved conversation, in place of this one
/help         this
/quit         leave (also Ctrl-D); Ctrl-C stops an answer
Several lines: end a line with \\, or write them between two lines of \"\"\".
Tab completes commands and paths."""
COMMANDS = ("/image", "/audio", "/retry", "/undo", "/reset", "/save", "/load", "/help", "/quit")
ATTACHING = ("/image", "/audio")
TAKING_FILES = (*ATTACHING, "/save", "/load")

EXAMPLES = """
\b
Examples:
  palmtop chat phi4mm-int4
  palmtop chat SmolLM2-135M-Instruct.Q4_1.gguf     # exported on first use
  palmtop chat phi4mm-int4 --system "Be brief." --temperature 0.7
  palmtop chat phi4mm-int4 --resume yesterday.conversation
  palmtop chat phi4mm-int4 --web
  printf '/image cat.jpg\\nWhat is this?\\n' | palmtop chat phi4mm-int4
"""


@click.command("chat", epilog=EXAMPLES, short_help="Talk with a bundle in the terminal.")
@bundle_argument
@click.option("--system", callback=clean_option, help="System message.")
@click.option("--resume", type=click.Path(path_type=Path), metavar="FILE", help="Go on with what /save wrote.")
@click.option("--web", is_flag=True, help="Talk on a page in the browser, which has settings of its own.")
@adapter_flag
@generation_flags
@session_flags
@thinking_flag
def chat_command(
    bundle: Path,
    system: str | None,
    resume: Path | None,
    web: bool,
    adapters: Wanted,
    options: GenerationOptions,
    loading: SessionOptions,
    hide_thinking: bool,
) -> None:
    """Talk with the BUNDLE; each turn reads only what is new, and may include images and sounds.

    A GGUF file or a checkpoint folder in the bundle's place is exported into the user's cache on first use, to INT4,
    or to INT8 below 1 billion weights.
    In the dialogue, /help lists the commands. Exit code 2 when a turn was refused and input is a pipe.
    """
    if web:
        _check_flags_of_the_page()
        open_page(ready_bundle(bundle), loading)
        return
    if resume is not None and system is not None:
        raise InputError(f"--system: {resume} has the system message of its conversation, expected one of both")
    talk(bundle, loading, options, system=system, adapters=adapters, hide_thinking=hide_thinking, resume=resume)


def talk(
    bundle: Path,
    loading: SessionOptions,
    options: GenerationOptions,
    *,
    system: str | None = None,
    adapters: Wanted = None,
    hide_thinking: bool = False,
    resume: Path | None = None,
) -> None:
    """Hold a dialogue with a bundle, on a terminal or through a pipe."""
    with open_session(bundle, loading) as session:
        conversation = session.conversation(system=system) if resume is None else session.restore(resume)
        dialogue = Dialogue(conversation, adapters, options, hide_thinking=hide_thinking, restore=session.restore)
        if dialogue.interactive:
            click.secho(f"{session.manifest.model}, context {session.context} tokens; /help", err=True, dim=True)
        refused = dialogue.run()
    if refused and not dialogue.interactive:
        sys.exit(2)


class Dialogue:
    """A terminal dialogue: reads lines, keeps attached media, streams answers."""

    def __init__(
        self,
        conversation: Conversation,
        adapters: Wanted,
        options: GenerationOptions,
        *,
        hide_thinking: bool = False,
        restore: Callable[[Path], Conversation] | None = None,
    ) -> None:
        self._restore = restore
        self.interactive = sys.stdin is not None and sys.stdin.isatty()
        self._conversation = conversation
        self._adapters = adapters
        self._options = options
        self._hide_thinking = hide_thinking
        self._piped = piped_lines()
        self._images: list[Source] = []
        self._sounds: list[Source] = []
        self._lines = LineInput(COMMANDS, TAKING_FILES) if self.interactive else None

    def run(self) -> int:
        """Run until /quit or the end of input; return the number of turns that were refused."""
        refused = 0
        while (line := self._next_line()) is not None:
            try:
                if (paths := dropped(check_text(line))) is not None:
                    for path in paths:
                        self._attach(kind_of_file(path), path)
                elif line.startswith("/"):
                    if not self._command(line):
                        break
                elif line.strip():
                    self._turn(line)
            except PalmtopError as error:
                refused += 1
                click.secho(f"palmtop: {error}", err=True, fg="red")
        return refused

    def _next_line(self) -> str | None:
        while True:
            with suppress(KeyboardInterrupt):
                try:
                    return next(self._piped, None) if self._lines is None else clean(self._lines.text())
                except EOFError:
                    return None
                except (OSError, ValueError) as error:
                    raise PalmtopError(f"standard input cannot be read ({error!s:.200}), expected UTF-8") from error
            click.secho("\n/quit or Ctrl-D leaves", err=True, dim=True)

    def _command(self, line: str) -> bool:
        """Run a command that begins with a slash; return False to leave."""
        name, _, argument = line.partition(" ")
        if name in ATTACHING:
            if not argument.strip():
                raise PalmtopError(f"{name}: found no file, expected {name} FILE")
            kind: Kind = "image" if name == "/image" else "audio"
            if is_captured(argument.strip(), kind):
                self._attach(kind, captured(Path(argument.strip()), kind), argument.strip())
                return True
            for path in typed_paths(argument):
                self._attach(kind, path)
        elif name == "/retry":
            self._stream(self._conversation.retry(adapters=self._adapters, options=self._options))
        elif name == "/undo":
            self._conversation.rewind()
        elif name == "/reset":
            self._conversation.reset()
            self._images, self._sounds = [], []
        elif name == "/save":
            size = self._conversation.save(_typed_path(argument, name))
            click.secho(f"saved, {megabytes(size)}", err=True, dim=True)
        elif name == "/load" and self._restore is not None:
            path = _typed_path(argument, name)
            try:
                restored = self._restore(path)
            except MemoryPlanError:  # there is room for one
                self._conversation.close()
                restored = self._restore(path)
            self._conversation.close()
            self._conversation, self._images, self._sounds = restored, [], []
        elif name == "/help":
            click.echo(HELP, err=True)
        elif name == "/quit":
            return False
        else:
            raise PalmtopError(f"'{name}' is no command, expected {', '.join(COMMANDS[:-1])} or {COMMANDS[-1]}")
        return True

    def _attach(self, kind: Kind, source: Source, name: str = "") -> None:
        """Keep a picture or a sound for the next message, and say what it is."""
        attached = attach(kind, source, name)
        (self._images if kind == "image" else self._sounds).append(source)
        click.secho(f"[{attached.about}]", err=True, dim=self.interactive)

    def _turn(self, text: str) -> None:
        content = user_content(text, self._images, self._sounds)
        self._images, self._sounds = [], []
        self._stream(self._conversation.chat(content, adapters=self._adapters, options=self._options))

    def _stream(self, answer: Answer) -> None:
        writer = PieceWriter(hide_thinking=self._hide_thinking)
        with _interrupt_cancels(answer):
            for piece in answer:
                writer.write(piece)
                if piece.reply is not None:
                    click.echo()
                    if self.interactive:
                        click.secho(summary(piece.reply), err=True, dim=True)
                    if note := cut_note(piece.reply):
                        click.echo(note, err=True)


@contextmanager
def _interrupt_cancels(answer: Answer) -> Iterator[None]:
    """Make Ctrl-C stop the answer that is being given, and nothing else."""

    def cancel(_signal: int, _frame: FrameType | None) -> None:
        answer.cancel()

    before = signal.signal(signal.SIGINT, cancel)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _check_flags_of_the_page() -> None:
    """Refuse flags beside --web that the page does not take.

    Raises:
        InputError: names the first of them.
    """
    context = click.get_current_context()
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
        if given and parameter.name not in PAGE_PARAMETERS:
            flag = parameter.opts[0]
            raise InputError(f"{flag}: found beside --web, expected this setting on the page")


def _typed_path(argument: str, command: str) -> Path:
    """Return the path behind a command; ``~`` is expanded.

    Raises:
        InputError: there is none.
    """
    if not argument.strip():
        raise InputError(f"{command}: found no file behind it, expected {command} FILE")
    try:
        return Path(unquoted(argument)).expanduser()
    except RuntimeError as error:  # no such home
        raise InputError(f"{argument:.80}: is no path ({error!s:.80})") from error


def dropped(line: str) -> list[Path] | None:
    """Return the files that a line consists of, as a terminal pastes a file that is dropped on it; None for a text."""
    text = line.strip()
    if "\n" in text or not text.startswith(("/", "~/", "'/", '"/', "file:///")):
        return None
    if text.split(" ", 1)[0] in COMMANDS:
        return None
    try:
        return typed_paths(text)
    except PalmtopError:
        return None
