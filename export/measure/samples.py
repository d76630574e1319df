"""Samples for calibration: packaged questions with their answers, or a user's JSON lines.

The packaged ones differ from those of ``palmtop evaluate`` and ``palmtop verify``: text from the training part, images
composed from another seed, sounds behind the first thousand that an evaluation uses.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import InputError
from palmtop.export.checkpoint.tokenizer_files import TOKENIZER_FILE
from palmtop.runtime.bundle.json_fields import kind_of
from palmtop.runtime.bundle.manifest import MODES, Manifest
from palmtop.runtime.bundle.option_checks import reason_of
from palmtop.runtime.chat.routing import mode_of
from palmtop.runtime.processor import Processor
from palmtop.runtime.processor.content import media_beside
from palmtop.runtime.processor.images import PreparedImage
from palmtop.runtime.processor.prompt import Segment
from palmtop.runtime.processor.sounds import PreparedSound
from palmtop.runtime.reference import has_packaged_vocabulary
from palmtop.runtime.reference.heldout import Item, held_out_items
from palmtop.runtime.reference.text_tasks import INSTRUCTION, draw_task

SEED = 104729  # seed of images and text tasks; evaluations use small seeds
EVALUATED_SOUNDS = 1000  # first clip of seed 0; later ones are other recordings
PROSE_LETTERS = 1500  # tokens of a passage


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One line of calibration data.

    Attributes:
        mode: mode of the input.
        messages: messages for ``Session.answer``; empty for plain text.
        answer: the answer to them, or the text itself.
    """

    mode: str
    messages: Sequence[Mapping[str, Any]]
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaInput:
    """One image or sound as inputs of the encoder.

    Attributes:
        part: "vision" or "audio".
        feeds: graph inputs of each run.
        segments: feature rows and text that stand for it in the prompt.
        prepared: puts the rows into reading order.
    """

    part: Literal["vision", "audio"]
    feeds: tuple[dict[str, NDArray[Any]], ...]
    segments: tuple[Segment, ...]
    prepared: PreparedImage | PreparedSound

    def features(self, runs: Sequence[Mapping[str, NDArray[np.float32]]]) -> NDArray[np.float32]:
        """Return the features, [rows, H] in the order of the decoder, from the outputs of every run."""
        return self.prepared.in_reading_order([[run[name] for name in self.prepared.outputs] for run in runs])


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A question with its answer as arrays.

    Attributes:
        mode: mode of the input; the manifest's routes give its adapters.
        input_ids: [S] ids of prompt and answer.
        media: images and sounds in the order of the prompt.
        places: [S] 0 for text, k for row k of the features.
        positions: [P] positions whose next token is known and compared.
    """

    mode: str
    input_ids: NDArray[np.int64]
    media: tuple[MediaInput, ...]
    places: NDArray[np.int64]
    positions: NDArray[np.int64]


def packaged_questions(modes: Iterable[str], count: int, *, is_general: bool) -> Iterator[Question]:
    """Return ``count`` questions of every requested mode; for general vocabularies as many texts of prose as well.

    Args:
        modes: modes of the input.
        count: number of questions of each mode.
        is_general: whether the model has other tokens than the packaged one, which can only spell words.
    """
    if "text" in modes and is_general:
        yield from islice(_prose(), count)
    for mode in (m for m in MODES if m in modes):
        if mode == "text":
            rng = np.random.default_rng(SEED)
            for _ in range(count):
                _, task, answer = draw_task(rng, held_out=False)
                content = [{"type": "text", "text": f"{task} {INSTRUCTION}"}]
                yield Question(mode=mode, messages=[{"role": "user", "content": content}], answer=answer)
            continue
        if mode == "audio":
            items: Iterator[Item] = islice(held_out_items("audio", EVALUATED_SOUNDS + count, 0), EVALUATED_SOUNDS, None)
        else:
            items = held_out_items(mode, count, SEED)  # type: ignore[arg-type]
        for item in items:
            yield Question(mode=mode, messages=item.messages, answer=item.expected)


def later_questions(modes: Iterable[str], seen: int, count: int, *, is_general: bool) -> Iterator[Question]:
    """Return ``count`` more of every mode, behind the first ``seen`` of ``packaged_questions``."""
    for mode in modes:
        passed = {True: 0, False: 0}  # prose and questions are counted separately
        for question in packaged_questions([mode], seen + count, is_general=is_general):
            is_prose = not question.messages
            passed[is_prose] += 1
            if passed[is_prose] > seen:
                yield question


def _prose() -> Iterator[Question]:
    """Passages of Python's reference documentation, which is part of every Python installation."""
    from pydoc_data.topics import topics

    for text in topics.values():
        if len(text) > PROSE_LETTERS:
            yield Question(mode="text", messages=[], answer=" ".join(text[:PROSE_LETTERS].split()))


def read_questions(path: Path) -> Iterator[Question]:
    """Read questions from lines of {"messages", "answer"} or {"text"}; paths of media are relative to the file.

    Raises:
        InputError: the file cannot be read, or a line is not such an object; names the line.
    """
    try:
        lines = path.read_text("utf-8-sig").split("\n")  # other Unicode line breaks may be inside a text
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({reason_of(error)}), expected lines of JSON") from error
    questions = [_question(line, f"{path}:{n}", path.parent) for n, line in enumerate(lines, 1) if line.strip()]
    if not questions:
        raise InputError(f"{path}: has no line, expected at least one sample")
    yield from questions


def _question(line: str, where: str, folder: Path) -> Question:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: is not JSON ({error})") from error
    if isinstance(data, dict) and isinstance(data.get("text"), str) and data["text"]:
        return Question(mode="text", messages=[], answer=data["text"])
    if not isinstance(data, dict) or not isinstance(data.get("messages"), list):
        raise InputError(f'{where}: found no messages, expected {{"messages": [...], "answer": "..."}} or {{"text"}}')
    if not isinstance(data.get("answer"), str):
        found = f"'answer' is {kind_of(data['answer'])}" if "answer" in data else "has no 'answer'"
        raise InputError(f"{where}: {found}, expected text")
    try:
        messages, kinds = media_beside(data["messages"], folder)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    mode = mode_of(has_image="image" in kinds, has_audio="audio" in kinds)
    return Question(mode=mode, messages=messages, answer=data["answer"])


class SampleReader:
    """Reader that turns questions into samples with one bundle's processors.

    Attributes:
        is_general: whether the model has other tokens than the packaged one.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._processor = Processor(manifest.processor, folder)
        self._manifest = manifest
        self.is_general = not has_packaged_vocabulary(folder / TOKENIZER_FILE)

    def read(self, question: Question) -> Sample:
        """Return one sample, cut to the bundle's context.

        Raises:
            InputError: the model does not serve this mode, or the messages do not fit it.
        """
        if question.mode not in self._manifest.routes:
            modes = ", ".join(self._manifest.routes)
            raise InputError(f"calibration: a sample is '{question.mode}', the model serves {modes}")
        answer = np.array(self._processor.text.encode(question.answer), np.int64)
        if not question.messages:
            places = np.zeros(len(answer), np.int64)
            return self._sample(question.mode, answer, (), places, np.arange(max(len(answer) - 1, 1)))
        prompt = self._processor.prompt(question.messages)
        media = tuple(self._media(place.item, question.mode) for place in prompt.media)
        ids, places = self._processor.text.expand(prompt, [item.segments for item in media])
        positions = np.arange(len(ids) - 1, len(ids) + len(answer))
        whole = np.concatenate([ids, answer])
        return self._sample(question.mode, whole, media, np.pad(places, (0, len(answer))), positions)

    def _sample(
        self,
        mode: str,
        ids: NDArray[np.int64],
        media: tuple[MediaInput, ...],
        places: NDArray[np.int64],
        positions: NDArray[np.int64],
    ) -> Sample:
        most = self._manifest.decoder.context_length
        inside = positions[positions < most - 1] if len(ids) > most else positions
        if not len(inside):
            inside = np.array([most - 2])
        return Sample(mode=mode, input_ids=ids[:most], media=media, places=places[:most], positions=inside)

    def _media(self, item: Any, mode: str) -> MediaInput:
        if item.kind == "image":
            tiles = self._processor.tiles(item)
            feeds = tuple(tiles.batches(1))
            return MediaInput(part="vision", feeds=feeds, segments=tiles.segments, prepared=tiles)
        sound = self._processor.sound(item)
        feeds = tuple(sound.batches(self._manifest.routes[mode].audio_projector == "vision"))
        return MediaInput(part="audio", feeds=feeds, segments=sound.segments, prepared=sound)
