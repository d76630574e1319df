"""A conversation's state, as values, and its form in a file (``palmtop.runtime.saved``).

The file holds messages with their media, answers as sampled, and everything that the decoder computed. It belongs to
one bundle and one version of onnxruntime: other weights or kernels give other keys and values. What is read is checked
against the manifest before anything is allocated for it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import InputError
from palmtop.runtime.bundle.manifest import Manifest
from palmtop.runtime.bundle.states import StateSpec
from palmtop.runtime.decoding.decoder import LayerState, MediaSpan, SequenceState, TokenSequence
from palmtop.runtime.decoding.loop_decoder import STORED_TYPES
from palmtop.runtime.media.conversation_media import item_key
from palmtop.runtime.processor.content import MediaItem, with_sources
from palmtop.runtime.processor.prompt import Segment
from palmtop.runtime.saved.array_file import EXPECTED, ArrayFile, ArraySpec, open_array_file, write_array_file

from .prompt_builder import Message
from .sampled_history import SampledAnswer
from .tools import Tool

PROJECTORS = ("", ":speech", ":vision")
MAX_ROWS = 1 << 20
SAVED = "saved:"
"""Beginning of the source of a medium in a saved message; the number of its array follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What the numbers of a saved conversation depend on.

    Attributes:
        model: name of the model, for messages.
        bundle: hash of the manifest, which holds the hash of every file.
        adapters: hash of each adapter's file, or of the checkpoint it came with, by name.
        provider: provider of the decoder.
        runtime: name and version of the library that ran it.
    """

    model: str
    bundle: str
    adapters: dict[str, str]
    provider: str
    runtime: str

    @classmethod
    def of(cls, manifest: Manifest, provider: str, runtime: str) -> Binding:
        """Return the binding of a loaded bundle."""
        whole = json.dumps(manifest.to_dict(), sort_keys=True).encode()
        adapters = {
            adapter.name: manifest.source_sha256 if adapter.file is None else manifest.files[adapter.file].sha256
            for adapter in manifest.adapters
        }
        return cls(
            model=manifest.model,
            bundle=hashlib.sha256(whole).hexdigest(),
            adapters=adapters,
            provider=provider,
            runtime=runtime,
        )

    def check(self, path: Path, saved: Any) -> None:
        """Refuse a file of another bundle, provider or runtime.

        Raises:
            InputError: names what differs.
        """
        if not isinstance(saved, dict):
            raise InputError(f"{path}: does not say which bundle it belongs to, {EXPECTED}")
        if saved.get("bundle") != self.bundle:
            theirs = saved.get("adapters")
            if saved.get("model") == self.model and isinstance(theirs, dict) and theirs != self.adapters:
                other = sorted({*theirs, *self.adapters}, key=str)
                name = next(n for n in other if theirs.get(n) != self.adapters.get(n))
                raise InputError(
                    f"{path}: was saved with another adapter '{name!s:.64}', expected the bundle as it was"
                )
            raise InputError(
                f"{path}: was saved with another bundle ({saved.get('model')!s:.60}), expected this one ({self.model})"
            )
        for key, own in (("provider", self.provider), ("runtime", self.runtime)):
            if saved.get(key) != own:
                raise InputError(
                    f"{path}: was computed by {saved.get(key)!s:.60}, expected {own}: ask again and save again"
                )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ConversationState:
    """A conversation between two turns.

    Attributes:
        messages: the dialogue.
        first: messages of a new dialogue: the system message.
        tools: functions that the model may call.
        answers: answers as sampled.
        segments: segments of the prompt for each medium, by key.
        sequence: what the decoder computed; None before the first answer.
    """

    messages: Sequence[Message]
    first: Sequence[Message]
    tools: Sequence[Tool] | None
    answers: Sequence[SampledAnswer]
    segments: Mapping[str, tuple[Segment, ...]]
    sequence: SequenceState | None


def write_conversation(path: str | os.PathLike[str], state: ConversationState, bound: Binding) -> int:
    """Write a conversation and return the bytes of its file; an existing file is replaced at the end.

    Raises:
        InputError: a file of the dialogue's media is missing, a message is not JSON, or the file cannot be written.
    """
    target = Path(path)
    media = _Sources(state.segments)
    dialogue = {
        "messages": with_sources(state.messages, media.take) if state.messages else [],
        "first": with_sources(state.first, media.take) if state.first else [],
        "tools": None if state.tools is None else list(state.tools),
    }
    arrays = [(f"source.{number}", array) for number, array in enumerate(media.arrays)]
    for number, answer in enumerate(state.answers):
        arrays += [(f"prompt.{number}", answer.prompt), (f"answer.{number}", answer.ids)]
    states: Iterable[LayerState] = ()
    specs: list[ArraySpec] = []
    sequence = None
    if (saved := state.sequence) is not None:
        arrays += [("ids", saved.held.ids), ("places", saved.held.places)]
        if saved.rows is not None:
            arrays.append(("rows", saved.rows))
        states, specs = saved.states, state_specs(saved.specs, len(saved.held.ids))
        sequence = {
            "length": saved.length,
            "alone": saved.alone,
            "media": [[span.start, span.rows, media.renamed(span.key)] for span in saved.held.media],
            "row_keys": [media.renamed(key) for key in saved.row_keys],
            "gates": None if saved.gates is None else saved.gates.tolist(),
            "rope_long": saved.rope_long,
        }
    values = {
        "bound_to": asdict(bound),
        **dialogue,
        "sources": media.rates,
        "answers": [answer.text for answer in state.answers],
        "segments": {new: list(state.segments[old]) for old, new in media.keys.items() if old in state.segments},
        "sequence": sequence,
    }
    try:
        json.dumps(values)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{target}: a message is not JSON ({error!s:.200}), expected texts and media") from error

    def contents() -> Iterator[NDArray[np.generic]]:
        yield from (array for _, array in arrays)
        yield from (array for _, _, array in states)

    return write_array_file(target, values, [*(ArraySpec.of(*one) for one in arrays), *specs], contents())


@contextmanager
def open_conversation(
    path: str | os.PathLike[str], bound: Binding, manifest: Manifest, specs: tuple[StateSpec, ...], context: int
) -> Iterator[ConversationState]:
    """Yield a saved conversation; its states are read from the file while the block runs.

    Args:
        path: path of the file.
        bound: binding of the loaded bundle.
        manifest: its manifest.
        specs: kinds of the decoder's states.
        context: most tokens of a conversation.

    Raises:
        InputError: the file is missing, foreign, damaged, cut, of another version, or too long for this session; raised
            inside the block too, at the end of the states.
    """
    with open_array_file(Path(path)) as file:
        bound.check(file.path, file.values.get("bound_to"))
        try:
            yield _Reader(file, manifest, specs, context).state()
        except (KeyError, TypeError, ValueError, IndexError, OverflowError, AttributeError) as error:
            raise InputError(f"{file.path}: its content does not fit together ({error!s:.80}), {EXPECTED}") from error


def state_specs(specs: Iterable[StateSpec], count: int) -> list[ArraySpec]:
    """Return names, types and shapes of a sequence's states in a file."""
    return [
        ArraySpec(f"state.{spec.name}.{layer}", np.dtype(STORED_TYPES[spec.dtype]).name, spec.stored_shape(count))
        for spec in specs
        for layer in spec.layers
    ]


class _Sources:
    """Media of a dialogue as arrays; a path becomes the bytes of its file."""

    def __init__(self, known: Mapping[str, object]) -> None:
        self.arrays: list[NDArray[np.generic]] = []
        self.rates: list[int | str] = []
        self.keys = {key: key for key in known if not key.partition(":")[2].startswith("file:")}
        self._numbers: dict[str, int] = {}

    def take(self, item: MediaItem) -> str:
        """Keep the content of an item once, and return the source that stands for it in the message."""
        key, source = item_key(item), item.source
        if isinstance(source, (str, Path)):
            try:
                source = Path(source).read_bytes()
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                raise InputError(
                    f"{item.source}: cannot be read ({reason}), expected the file, which is saved with the conversation"
                ) from error
        new = item_key(replace(item, source=source))
        self.keys[key] = new
        if new not in self._numbers:
            self._numbers[new] = len(self.arrays)
            samples = source[0] if isinstance(source, tuple) else source
            self.arrays.append(np.frombuffer(samples, np.uint8) if isinstance(samples, bytes) else np.asarray(samples))
            self.rates.append("bytes" if isinstance(source, bytes) else int(source[1]) if item.kind == "audio" else 0)
        return f"{SAVED}{self._numbers[new]}"

    def renamed(self, key: str) -> str:
        """Return the key of media rows under the key that the source has in the file."""
        for projector in PROJECTORS:
            if key.removesuffix(projector) in self.keys and key.endswith(projector):
                return self.keys[key.removesuffix(projector)] + projector
        return key


class _Reader:
    """Reader of a conversation's file: every value is checked before it is used.

    Raises:
        ValueError, KeyError, TypeError: in ``state``: the content does not fit together.
    """

    def __init__(self, file: ArrayFile, manifest: Manifest, specs: tuple[StateSpec, ...], context: int) -> None:
        self._file = file
        self._values = file.values
        self._manifest = manifest
        self._specs = specs
        self._context = context
        self._unread = deque(file.specs)

    def state(self) -> ConversationState:
        values, vocabulary = self._values, self._manifest.decoder.vocab_size
        sources = [self._source(number, rate) for number, rate in enumerate(values["sources"])]

        def source_of(item: MediaItem) -> Any:
            number = item.source.removeprefix(SAVED)  # anything else is no address of this file, and is not opened
            _check(number.isdecimal() and item.source == SAVED + number, "the source of a medium")
            return sources[int(number)]

        messages, first = (with_sources(values[key], source_of) if values[key] else [] for key in ("messages", "first"))
        answers = []
        for number, text in enumerate(values["answers"]):
            prompt, ids = (self._array(f"{kind}.{number}", "int32", (None,)) for kind in ("prompt", "answer"))
            _check(isinstance(text, str), "the text of an answer")
            answers.append(SampledAnswer(_ids(prompt, vocabulary), _ids(ids, vocabulary), text))
        segments = {key: _segments(found) for key, found in values["segments"].items()}
        sequence = None if values["sequence"] is None else self._sequence(values["sequence"])
        if sequence is None:
            _check(not self._unread, "arrays that nothing refers to")
            self._file.finish()
        return ConversationState(
            messages=messages,
            first=first,
            tools=values["tools"],
            answers=answers,
            segments=segments,
            sequence=sequence,
        )

    def _sequence(self, values: Mapping[str, Any]) -> SequenceState:
        decoder = self._manifest.decoder
        ids = _ids(self._array("ids", "int32", (None,)), decoder.vocab_size)
        count = len(ids)
        if count > self._context:
            raise InputError(
                f"{self._file.path}: has {count} tokens, this session's context is {self._context}; load a longer one"
            )
        _check(count > 0, "no tokens")
        places = self._array("places", "int64", (count,))
        spans, row, end = [], 0, 0
        for start, rows, key in values["media"]:
            _check(isinstance(key, str), "the key of a medium")
            spans.append(MediaSpan(_whole(start, count - 1, least=end), _whole(rows, MAX_ROWS, least=1), key))
            row, end = row + rows, start + 1
        _check(bool((places >= 0).all()) and int(places.max()) <= row, "places of media rows")
        keys = tuple(values["row_keys"])
        _check(keys == tuple(span.key for span in spans[: len(keys)]), "the keys of media rows")
        gates, is_long = values["gates"], values["rope_long"]
        if gates is not None:
            gates = np.array(gates, np.float32)
            _check(gates.shape == (len(self._manifest.adapters),) and bool(np.isfinite(gates).all()), "gates")
        _check(is_long is None or isinstance(is_long, bool), "rope_long")
        rows = None
        if self._unread and self._unread[0].name == "rows":
            written = sum(span.rows for span in spans[: len(keys)])
            rows = self._array("rows", "float32", (written, decoder.hidden_size))
        _check(list(self._unread) == state_specs(self._specs, count), "the states")
        alone = values["alone"]
        return SequenceState(
            held=TokenSequence(ids.astype(np.int32, copy=False), places.astype(np.int64, copy=False), tuple(spans)),
            length=_whole(values["length"], count, least=1),
            alone=None if alone is None else _whole(alone, count - 1),
            row_keys=keys,
            rows=None if rows is None else rows.astype(np.float32, copy=False),
            gates=gates,
            rope_long=is_long,
            specs=self._specs,
            states=self._states(),
        )

    def _states(self) -> Iterator[LayerState]:
        for spec in self._specs:
            for layer in spec.layers:
                yield spec, layer, self._file.read()
        self._file.finish()

    def _source(self, number: int, rate: Any) -> Any:
        array = self._array(f"source.{number}")
        if rate == "bytes":
            _check(array.dtype == np.uint8 and array.ndim == 1, "a medium's bytes")
            return array.tobytes()
        return (array, _whole(rate, 1 << 31)) if rate else array

    def _array(self, name: str, dtype: str | None = None, shape: tuple[int | None, ...] | None = None) -> NDArray[Any]:
        """Read the next array, which has this name, type and shape; None in a shape stands for any size."""
        spec = self._unread.popleft()
        fits = shape is None or (
            len(shape) == len(spec.shape) and all(n in (None, m) for n, m in zip(shape, spec.shape, strict=True))
        )
        _check(spec.name == name and dtype in (None, spec.dtype) and fits, f"array {name}")
        return self._file.read()


def _ids(array: NDArray[Any], vocabulary: int) -> NDArray[np.int32]:
    _check(not len(array) or (int(array.min()) >= 0 and int(array.max()) < vocabulary), "token ids")
    return array


def _segments(found: Any) -> tuple[Segment, ...]:
    return tuple(segment if isinstance(segment, str) else _whole(segment, MAX_ROWS, least=1) for segment in found)


def _whole(value: Any, most: int, *, least: int = 0) -> int:
    _check(type(value) is int and least <= value <= most, f"a number of {least} to {most}")
    return int(value)


def _check(is_right: bool, what: str) -> None:
    if not is_right:
        raise ValueError(what)
