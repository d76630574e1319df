"""``POST /v1/audio/transcriptions``: a recording of any length, window by window, as text with times."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import Request

from palmtop.runtime.decoding.generation_options import GenerationOptions
from palmtop.runtime.processor.sounds.recording import Window, read_windows
from palmtop.runtime.serve.wire.api_error import ApiError, refused
from palmtop.runtime.transcribe import PROMPT, WINDOW_S, Segment, speech_options

from .models import Models, collect
from .slots import Beginning

FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
RECORDINGS = Beginning("recordings", ((b"", 1),))
"""Beginning of all recordings: their windows follow each other in one cache."""
FIELDS = ("file", "model", "language", "prompt", "response_format", "temperature", "stream")
GRANULARITIES = ("timestamp_granularities[]", "timestamp_granularities")
MOST_FIELDS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A recording to transcribe.

    Attributes:
        model: name of the model.
        sound: bytes of a file.
        prompt: prompt for each window.
        language: language of the request, which is only returned; the model detects it.
        form: format of the response.
        options: generation options of each window's answer.
    """

    model: str
    sound: bytes
    prompt: str
    language: str
    form: str
    options: GenerationOptions


async def read_recording(request: Request, timeout_s: float) -> Recording:
    """Read the form of a request.

    Raises:
        ApiError: the body is not a form, or a field is missing, of another shape, or not offered.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
        raise ApiError(415, "Content-Type: expected multipart/form-data", code="unsupported_media_type")
    async with request.form(max_files=1, max_fields=MOST_FIELDS) as form:
        for key in form:
            if key not in (*FIELDS, *GRANULARITIES):
                raise ApiError(400, f"{key:.60}: this server has no such field", code="unknown_parameter", param=key)
        texts: dict[str, str] = {}
        for key, value in form.multi_items():
            if key != "file" and not isinstance(value, str):
                raise refused(key, None, "text, not a file")
            texts[key] = str(value)
        sound = form.get("file")
        if not isinstance(sound, UploadFile):
            raise refused("file", None, "a sound file")
        data = await sound.read()
        granularities = [v for key in GRANULARITIES for v in form.getlist(key)]
    if not data:
        raise ApiError(400, "file: found nothing, expected a sound file", param="file")
    if any(value != "segment" for value in granularities):
        place = "timestamp_granularities"
        raise refused(place, granularities[0], "'segment': this server has no times of words", "unsupported_parameter")
    if texts.get("stream", "false").lower() not in ("false", "0"):
        raise refused("stream", texts["stream"], "false: this server does not offer it", "unsupported_parameter")
    form_of_answer = texts.get("response_format", "json")
    if form_of_answer not in FORMATS:
        raise refused("response_format", form_of_answer, f"one of {', '.join(FORMATS)}")
    if not texts.get("model"):
        raise refused("model", texts.get("model"), "the name of a model")
    return Recording(
        model=texts["model"],
        sound=data,
        prompt=texts.get("prompt") or PROMPT,
        language=texts.get("language", ""),
        form=form_of_answer,
        options=GenerationOptions(
            temperature=_temperature(texts.get("temperature")),
            timeout_s=timeout_s,
            top_logprobs=0 if form_of_answer == "verbose_json" else None,
        ),
    )


async def segments(models: Models, recording: Recording, client: str) -> list[Segment]:
    """Transcribe a recording in one turn of its model.

    Raises:
        ApiError: there is no such model, or its queue is full.
        PalmtopError: the file is not a sound, or the model has no audio encoder.
    """
    model, choice = models.find(recording.model)
    done: list[Segment] = []
    async with models.turn(model, client) as session:
        conversation = await models.conversation(model, session, RECORDINGS, may_grow=False)
        windows = read_windows(recording.sound, WINDOW_S)
        while (window := await asyncio.to_thread(_next, windows)) is not None:
            sound = {"type": "audio", "audio": (window.samples, window.rate_hz)}
            message = {"role": "user", "content": [sound, {"type": "text", "text": recording.prompt}]}
            options = speech_options(recording.options, len(window.samples) / window.rate_hz)
            answer = conversation.respond([message], adapters=choice, options=options)
            async with models.answering(model, answer):
                reply = (await collect(answer)).reply
            assert reply is not None  # the last piece has it
            part = Segment(
                start_s=window.start_s,
                end_s=window.end_s,
                total_s=window.total_s,
                text=reply.text.strip(),
                reply=reply,
            )
            done.append(part)
    return done


def shown(recording: Recording, parts: Sequence[Segment]) -> dict[str, Any] | str:
    """Return the response: an object, or text for "text", "srt" and "vtt"."""
    text = " ".join(part.text for part in parts if part.text)
    if recording.form == "text":
        return text + "\n"
    if recording.form == "srt":
        return "".join(
            f"{n}\n{clock(p.start_s, ',')} --> {clock(p.end_s, ',')}\n{p.text}\n\n" for n, p in enumerate(parts, 1)
        )
    if recording.form == "vtt":
        cues = (f"{clock(p.start_s, '.')} --> {clock(p.end_s, '.')}\n{p.text}\n\n" for p in parts)
        return "WEBVTT\n\n" + "".join(cues)
    usage = {
        "type": "tokens",
        "input_tokens": sum(p.reply.usage.prompt_tokens for p in parts),
        "output_tokens": sum(p.reply.usage.completion_tokens for p in parts),
        "total_tokens": sum(p.reply.usage.prompt_tokens + p.reply.usage.completion_tokens for p in parts),
    }
    if recording.form == "json":
        return {"text": text, "usage": usage}
    duration = parts[-1].total_s if parts else 0.0
    return {
        "task": "transcribe",
        "language": recording.language,
        "duration": round(duration, 3),
        "text": text,
        "segments": [_segment(number, part, recording) for number, part in enumerate(parts)],
        "usage": {"type": "duration", "seconds": round(duration, 3)},
    }


def clock(seconds: float, mark: str) -> str:
    """Format hours, minutes, seconds and thousandths, as in subtitles.

    >>> clock(3723.5, ",")
    '01:02:03,500'
    """
    thousandths = round(seconds * 1000)
    whole = thousandths // 1000
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{mark}{thousandths % 1000:03}"


def _segment(number: int, part: Segment, recording: Recording) -> dict[str, Any]:
    """Return a window; ``no_speech_prob``, which this model does not say, is 0, as clients expect a number."""
    data, logprobs = part.text.encode(), [token.logprob for token in part.reply.logprobs]
    return {
        "id": number,
        "seek": 0,
        "start": round(part.start_s, 3),
        "end": round(part.end_s, 3),
        "text": part.text,
        "tokens": list(part.reply.token_ids),
        "temperature": recording.options.temperature or 0.0,
        "avg_logprob": sum(logprobs) / len(logprobs) if logprobs else 0.0,
        "compression_ratio": len(data) / len(zlib.compress(data)),
        "no_speech_prob": 0.0,
    }


def _temperature(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError as error:
        raise refused("temperature", text, "a number from 0 to 1") from error
    if not 0 <= value <= 1:
        raise refused("temperature", text, "a number from 0 to 1")
    return value


def _next(windows: Iterator[Window]) -> Window | None:
    return next(windows, None)
