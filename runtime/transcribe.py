"""Transcription of speech of any length with times: each window is a question of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palmtop.errors import OptionError
from palmtop.runtime.chat.conversation import DEFAULTS
from palmtop.runtime.chat.reply import Reply
from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.processor.sounds.recording import read_windows

from .session import Session

PROMPT = "Transcribe the audio clip into text."
WINDOW_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Transcribed text of a part of a recording.

    Attributes:
        start_s: start of the part in seconds.
        end_s: end of the part in seconds.
        total_s: length of the whole recording in seconds.
        text: text of the answer.
        reply: the complete reply; if its ``finish_reason`` is "max_tokens", words may be missing.
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
) -> Iterator[Segment]:
    """Transcribe a recording of any length in bounded memory: one window of it is held at a time.

    Args:
        session: session of a bundle with an audio encoder.
        path: path of a WAV, FLAC, Ogg or MP3 file.
        prompt: text of the question about each window; by default the one used in training.
        window_s: longest window in seconds; it ends after the quietest moment of its last quarter.
        options: generation options of each answer.

    Yields:
        a segment for each window, in order.

    Raises:
        InputError: the file is not a sound, a window does not fit the context, or the bundle has no audio encoder.
    """
    if isinstance(window_s, bool) or not isinstance(window_s, (int, float)) or not 0.1 <= window_s <= 3600:
        raise OptionError("window_s", f"found {window_s!r:.60}, expected 0.1 to 3600 seconds")
    conversation = session.conversation()
    try:
        for window in read_windows(Path(path), window_s):
            sound = {"type": "audio", "audio": (window.samples, window.rate_hz)}
            message = {"role": "user", "content": [sound, {"type": "text", "text": prompt}]}
            reply = conversation.respond([message], options=options).result()
            yield Segment(
                start_s=window.start_s,
                end_s=window.end_s,
                total_s=window.total_s,
                text=reply.text.strip(),
                reply=reply,
            )
    finally:
        conversation.close()
