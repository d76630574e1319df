"""Text processing: from messages to token ids, with placeholders for images and sounds.

A conversation without control tokens in its texts gets exactly the ids of transformers' ``apply_chat_template``; one
with them, those of its ``sanitize_control_tokens=True``: a user's text never becomes a special token or a medium.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import BundleError, InputError
from palmtop.runtime.bundle.processor_config import TextSpec

from .chat_template import ChatTemplate, plain
from .content import Kind, MediaItem, Turn, read_messages
from .pieces import Utf8Pieces
from .prompt import MediaPlace, Prompt, Segment, expand_media
from .special_tokens import Placeholder, SpecialTokenGuard, TypedText
from .tokenizer import Tokens
from .tool_calls import written_calls
from .tool_formats import ToolFormat, format_of, shown_tools

logger = logging.getLogger(__name__)

ANSWER_MARKS = ("<response>", "</response>")
"""Marks around an answer that Granite 3.3 writes when it thinks, told by its chat template."""

__all__ = ["ChatTemplate", "MediaItem", "MediaPlace", "Prompt", "TextProcessor", "Utf8Pieces", "expand_media"]


class TextProcessor:
    """Tokenizer, chat template and placeholders of one bundle.

    Args:
        tokenizer_json: path of tokenizer.json.
        chat_template: content of chat_template.jinja.
        spec: special ids and placeholder texts.
        image_token_id: id of an image feature row; None if the model takes no images.
        audio_token_id: id of an audio feature row; None if the model takes no sounds.
        separator: text between two media of a message, and between them and its text.

    Raises:
        BundleError: tokenizer or template cannot be read, or a placeholder id is not an added token.
    """

    def __init__(
        self,
        tokenizer_json: Path,
        chat_template: str,
        spec: TextSpec,
        *,
        image_token_id: int | None = None,
        audio_token_id: int | None = None,
        separator: str = "",
    ) -> None:
        self.spec = spec
        self._separator = separator
        self._tokens = Tokens(tokenizer_json)
        self._template = ChatTemplate(chat_template)
        self.tool_format: ToolFormat = format_of(chat_template)
        self._placeholders: dict[Kind, Placeholder] = {}
        if image_token_id is not None:
            self._placeholders["image"] = self._placeholder(spec.image_placeholder, image_token_id)
        if audio_token_id is not None:
            self._placeholders["audio"] = self._placeholder(spec.audio_placeholder, audio_token_id)
        self._media_ids = frozenset({image_token_id, audio_token_id} - {None})
        other = self._tokens.other_control(self._template.literal_text)
        self._warned: set[str] = set()
        self._starts_thinking: dict[bool | None, bool] = {}
        self._guard = SpecialTokenGuard(self._tokens.special, other, self._placeholders)

    def prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        thinking: bool | None = None,
    ) -> Prompt:
        """Render and tokenise a conversation; the media of a message come before its text.

        A last message of the assistant is a beginning that the answer continues, as with transformers'
        ``continue_final_message``: nothing of the template follows its text.

        Args:
            messages: messages of the OpenAI or Hugging Face form.
            tools: JSON schemas of functions, for templates that take them.
            add_generation_prompt: whether to end with the opening of an answer, or with the last message's text.
            thinking: value of the template's switch for thinking; None leaves it to the template.

        Raises:
            InputError: a message of an unknown shape, media that the model does not take, or a template that
                refuses the conversation or drops part of its media.
        """
        turns = read_messages(messages)
        texts = [turn.text or "" for turn in turns]
        texts += _strings([*(turn.extra for turn in turns), tools])
        for text in texts:
            _check_unicode(text)
        marks = TypedText.unused_in([*texts, self._template.literal_text])
        continues = add_generation_prompt and turns[-1].role == "assistant" and not turns[-1].extra.get("tool_calls")
        end = TypedText.unused_in([*texts, self._template.literal_text, marks.start + marks.end]).start
        if continues:
            turns[-1] = replace(turns[-1], text=f"{turns[-1].text or ''}{end} ")
        rendered = self._template.render(
            [self._message(turn, i, marks) for i, turn in enumerate(turns)],
            tools=plain(shown_tools(tools or (), self.tool_format) or None, lambda text: self._guard.mark(text, marks)),
            add_generation_prompt=add_generation_prompt and not continues,
            special_tokens=self._special_tokens(),
            thinking=thinking,
        )
        if continues:
            rendered = _until(rendered, end)
        starts = add_generation_prompt and self.starts_thinking(thinking)
        opens = self._opens_thinking(rendered) if continues else starts
        segments, places = self._guard.split(rendered, marks)
        ids = self._tokens.encode_segments(segments)
        if self.spec.adds_bos and self.spec.bos_id is not None and ids[:1] != [self.spec.bos_id]:
            ids.insert(0, self.spec.bos_id)
        items = [item for turn in turns for item in turn.media]
        return Prompt(ids=np.array(ids, np.int64), media=self._find_media(ids, items, places), opens_thinking=opens)

    def expand(self, prompt: Prompt, media: Sequence[Sequence[Segment]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Put the segments of every medium in the place of its placeholder; see ``expand_media``."""
        return expand_media(prompt, media, self._tokens.encode)

    def encode(self, text: str) -> list[int]:
        """Return the ids of ordinary text: special tokens in it are spelled out.

        Raises:
            InputError: the text is not valid Unicode.
        """
        _check_unicode(text)
        marks = TypedText.unused_in([text])
        return self._tokens.encode_segments(self._guard.split(self._guard.mark(text, marks), marks)[0])

    def encode_special(self, token: str) -> int | None:
        """Return the id of a token by its text; None if there is none."""
        return self._tokens.tokenizer.token_to_id(token)

    def decode(self, ids: Sequence[int], *, keep_special: bool = False) -> str:
        """Return the text of ids, without special tokens unless they are to be kept."""
        return self._tokens.tokenizer.decode(list(ids), skip_special_tokens=not keep_special)

    def token_text(self, token_id: int) -> str:
        """Text of one token alone, special tokens included."""
        return self._tokens.tokenizer.decode([token_id], skip_special_tokens=False)

    def pieces(self) -> Utf8Pieces:
        """Return a new incremental detokeniser."""
        return Utf8Pieces(self._tokens.tokenizer, self.spec.thinking or ())

    def starts_thinking(self, thinking: bool | None = None) -> bool:
        """Return whether the template itself opens the thinking, so that an answer begins inside it.

        Args:
            thinking: value of the template's switch for thinking.
        """
        if self.spec.thinking is None:
            return False
        if thinking not in self._starts_thinking:
            rendered = self._template.render(
                [{"role": "user", "content": "?"}], special_tokens=self._special_tokens(), thinking=thinking
            )
            self._starts_thinking[thinking] = rendered.rstrip().endswith(self.spec.thinking[0])
        return self._starts_thinking[thinking]

    @cached_property
    def answer_marks(self) -> tuple[str, str] | None:
        """Texts in which the template asks for the answer behind the thinking; None for a plain answer."""
        written = self._template.literal_text
        return ANSWER_MARKS if self.spec.thinking and all(mark in written for mark in ANSWER_MARKS) else None

    def _opens_thinking(self, rendered: str) -> bool:
        """Return whether a text ends inside thinking."""
        if self.spec.thinking is None:
            return False
        start, end = self.spec.thinking
        return rendered.rfind(start) > rendered.rfind(end)

    def _placeholder(self, text: str, token_id: int) -> Placeholder:
        token = self._tokens.text_of(token_id)
        if token is None or self._tokens.encode(token) != [token_id]:
            found = f"the placeholder id {token_id} is {token!r}"
            raise BundleError(f"tokenizer.json: {found}, expected an added token")
        return Placeholder(text=text, token=token)

    def _special_tokens(self) -> dict[str, str]:
        ids = {"bos_token": self.spec.bos_id, "pad_token": self.spec.pad_id}
        ids["eos_token"] = self.spec.eos_ids[0] if self.spec.eos_ids else None
        named = {name: self._tokens.text_of(token_id) for name, token_id in ids.items()}
        return {name: token for name, token in named.items() if token is not None}

    def _message(self, turn: Turn, index: int, marks: TypedText) -> dict[str, Any]:
        """Return the message of a turn for the template."""
        if turn.role != "assistant" and turn.text is not None:
            self._warn_of_control_tokens(turn.text, index)

        def mark(text: str) -> str:
            return self._guard.mark(text, marks, is_own=turn.role == "assistant")

        for item in turn.media:
            if item.kind not in self._placeholders:
                raise InputError(f"messages[{index}]: found an {item.kind} part, but the model takes none")
        message = {"role": turn.role, **plain(turn.extra, mark)}
        text = None if turn.text is None else mark(turn.text)
        if turn.role == "assistant" and turn.extra.get("tool_calls") and not self._template.shows_calls:
            del message["tool_calls"]
            text = (text or "") + written_calls(turn.extra["tool_calls"], f"messages[{index}]", mark, self.tool_format)
        if self._template.takes_text:
            parts = [self._placeholders[item.kind].write(item.number) for item in turn.media]
            if text is None and not self._template.takes_null(calls_tools=bool(turn.extra.get("tool_calls"))):
                text = ""  # null beside tool_calls, where the template would add it to a text
            message["content"] = None if text is None else self._separator.join([*parts, *([text] if text else [])])
        else:
            media = [{"type": item.kind, item.kind: f"<{item.kind}>"} for item in turn.media]
            message["content"] = media + ([{"type": "text", "text": text}] if text else [])
        return message

    def _warn_of_control_tokens(self, text: str, index: int) -> None:
        """Warn once about each control token in a text, as in a prompt that was copied whole from a model card."""
        typed = [token for token in dict.fromkeys(self._guard.typed(text)) if token not in self._warned]
        self._warned.update(typed)
        if typed:
            logger.warning(
                "palmtop: messages[%d]: %s in a text is read as text, not as a token; give roles as messages and "
                "pictures and sounds as parts of them (--image, --audio)",
                index,
                ", ".join(repr(token) for token in typed[:5]),
            )

    def _find_media(
        self, ids: Sequence[int], items: Sequence[MediaItem], places: Sequence[tuple[Kind, int | None]]
    ) -> tuple[MediaPlace, ...]:
        """Match the placeholders of the prompt with the items of the messages."""
        counts: dict[Kind, int] = {"image": 0, "audio": 0}
        found: dict[tuple[Kind, int], int] = {}
        positions = [i for i, token in enumerate(ids) if token in self._media_ids]
        for position, (kind, number) in zip(positions, places, strict=False):
            counts[kind] += 1
            found[kind, counts[kind] if number is None else number] = position
        expected = [(item.kind, item.number) for item in items]
        if len(positions) != len(items) or sorted(found) != sorted(expected):
            raise InputError(
                f"chat_template.jinja: the rendered prompt has {len(positions)} places for media,"
                f" expected {len(items)}: one for each image and sound of the messages"
            )
        return tuple(MediaPlace(item=item, position=found[item.kind, item.number]) for item in items)


def _until(rendered: str, end: str) -> str:
    """Return a rendered conversation up to the mark behind its last message's text.

    Raises:
        InputError: the template has left the message out.
    """
    place = rendered.rfind(end)
    if place < 0:
        raise InputError(
            "chat_template.jinja: the template leaves out the assistant's last message, which the answer "
            "continues; expected the user's message as the last"
        )
    is_trimmed = rendered[place + len(end) : place + len(end) + 1] != " "
    return rendered[:place].rstrip() if is_trimmed else rendered[:place]


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"text: found a lone surrogate at {error.start}, expected valid Unicode") from error
