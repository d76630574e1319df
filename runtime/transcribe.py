"""Transcription of speech of any length with times: each window is a question of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from palmtop.errors import OptionError
from palmtop.runtime.chat.conversation import DEFAULTS
from palmtop.runtime.chat.forms.call_options import ChatOptions, call_options
from palmtop.runtime.chat.reply import Reply
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.processor.sounds.recording import read_windows

from .session import Session

PROMPT = "Transcribe the audio clip into text."
WINDOW_S = 30.0
TOKENS_PER_S = 12  # of an answer about speech: more than twice what fast speech needs; noise can make a model loop


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Transcribed text of a part of a recording.

    Attributes:
        start_s: start of the part in seconds.
        end_s: end of the part in seconds.
        total_s: length of the whole recording in seconds.
        text: text of the answer.
        reply: the complete reply; if its ``finish_reason`` is "length", words may be missing.
    """

    start_s: float
    end_s: float
    total_s: float
    text: str
    reply: Reply

    def to_dict(self) -> dict[str, Any]:
        """Return the segment as plain JSON types."""
        return {
            "start_s": round(self.start_s, 3),
            "end_s": round(self.end_s, 3),
            "text": self.text,
            "finish_reason": self.reply.finish_reason,
        }


def transcribe(
    session: Session,
    path: str | Path,
    *,
    prompt: str = PROMPT,
    window_s: float = WINDOW_S,
    options: GenerationOptions = DEFAULTS,
    **keywords: Unpack[ChatOptions],
) -> Iterator[Segment]:
    """Transcribe a recording of any length in bounded memory: one window of it is held at a time.

    Args:
        session: session of a bundle with an audio encoder.
        path: path of a WAV, FLAC, Ogg or MP3 file.
        prompt: text of the question about each window; by default the one used in training.
        window_s: longest window in seconds; it ends after the quietest moment of its last quarter.
        options: generation options of each answer; of at most 12 tokens for each second without ``max_tokens``.
        **keywords: fields of ``options`` by name, such as ``max_tokens=100``.

    Yields:
        a segment for each window, in order.

    Raises:
        InputError: the file is not a sound, a window does not fit the context, or the bundle has no audio encoder.
    """
    if isinstance(window_s, bool) or not isinstance(window_s, (int, float)) or not 0.1 <= window_s <= 3600:
        raise OptionError("window_s", f"found {window_s!r:.60}, expected 0.1 to 3600 seconds")
    options = call_options(options, keywords)
    conversation = session.conversation()
    try:
        for window in read_windows(Path(path), window_s):
            sound = {"type": "audio", "audio": (window.samples, window.rate_hz)}
            message = {"role": "user", "content": [sound, {"type": "text", "text": prompt}]}
            length_s = len(window.samples) / window.rate_hz
            reply = conversation.respond([message], options=speech_options(options, length_s)).result()
            yield Segment(
                start_s=window.start_s,
                end_s=window.end_s,
                total_s=window.total_s,
                text=reply.text.strip(),
                reply=reply,
            )
    finally:
        conversation.close()


def speech_options(options: GenerationOptions, length_s: float) -> GenerationOptions:
    """Return options whose longest answer follows from the length of a sound, where they do not have one."""
    if options.max_tokens is not None:
        return options
    return replace(options, max_tokens=max(32, int(TOKENS_PER_S * length_s)))
