"""Any sound file as mono blocks, with its real length.

A container's stated length is compared with the real one before decoding: missing samples are refused, additional ones
are decoded.
"""

from __future__ import annotations

import contextlib
import errno
import io
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import InputError
from palmtop.runtime.bundle.stand_ins import START_BYTES, medium_in_text

from .byte_view import ByteView, Reader, SoundParts
from .chunked import read_chunked
from .flac import read_flac
from .mpeg import parse_frame, read_mpeg
from .ogg import read_ogg
from .other_media import MediaStream, media_kind
from .stderr import without_mpg123_lines

EXPECTED = "expected a WAV, FLAC, Ogg or MP3 file"
TOLERANCE_S = 0.1
"""Seconds that a sound may be shorter than stated: the last frame or block of an inexact writer."""


class SoundStream:
    """An open sound file.

    Attributes:
        rate_hz: samples per second.
        frames: samples per channel, counted or stated; 0 if only decoding can tell.
    """

    def __init__(self, source: str | Path | bytes, name: str) -> None:
        """Open a file and check its length.

        Args:
            source: a path, or the bytes of a file.
            name: name of the sound in errors.

        Raises:
            InputError: the file is missing, empty, not a sound, or cut off.
        """
        self._name = name
        self._file = _open(source, name)
        self._media: MediaStream | None = None
        self._sounds: list[Any] = []
        self._number = self._done = 0
        self._is_mpeg = False
        self._resampler: Any = None
        self._rest = np.zeros(0, np.float32)
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        import soundfile

        reader = Reader(self._file)
        self._length = reader.size
        if reader.size == 0:
            raise InputError(f"{self._name}: found an empty file, {EXPECTED}")
        head = reader.at(0, START_BYTES)
        if (text := medium_in_text(head)) is not None:
            raise InputError(f"{self._name}: {text}")
        kind = media_kind(head)
        if kind is not None:
            ogg = read_ogg(reader) if kind[0] == "ogg" else None
            if ogg is not None and ogg.unended:
                raise InputError(f"{self._name}: the sound is truncated: the file ends {ogg.unended}")
            self._media = MediaStream(self._file, kind, self._name)
            self.rate_hz, self.frames = self._media.rate_hz, self._media.frames
            return
        try:
            parts = _parts(reader)
        except InputError as error:
            raise InputError(f"{self._name}: {error}, {EXPECTED}") from error
        self._is_mpeg = parts.is_mpeg
        try:
            with self._explained():
                for pieces in parts.streams:
                    view: Any = ByteView(self._file, pieces)
                    self._sounds.append(soundfile.SoundFile(view))
        except InputError:
            if not parts.unended:
                raise
            self._sounds = []
        self.rate_hz = int(self._sounds[0].samplerate) if self._sounds else 1
        # A sound that was joined with others may have another rate.
        self.frames = sum(-(-int(sound.frames) * self.rate_hz // sound.samplerate) for sound in self._sounds)
        if not parts.stated and not parts.unended and parts.streams == [[(0, reader.size)]]:
            parts = _rare_parts(self._sounds[0], reader)
        self._check(parts)

    def _check(self, parts: SoundParts) -> None:
        found_s = self.frames / max(self.rate_hz, 1)
        if parts.unended:
            raise InputError(
                f"{self._name}: the sound is truncated: the file ends {parts.unended}, after {found_s:.2f} s"
            )
        if parts.stated > parts.found:
            stated_s = found_s * parts.stated / parts.found if self.frames else 0.0
            if self.frames == 0 or stated_s - found_s > TOLERANCE_S:
                raise self._truncated(found_s, stated_s)

    def read(self, count: int) -> NDArray[np.float32]:
        """Return the next samples, at most ``count``, averaged over the channels; empty only at the end.

        Raises:
            InputError: the file is broken, or shorter than stated.
        """
        if self._media is not None:
            block = self._media.read(count)
        else:
            block = self._rest
            with self._explained():
                # Not file.blocks(): behind a stream that breaks off it yields stale memory (soundfile 0.13).
                while self._number < len(self._sounds) and not len(block):
                    sound = self._sounds[self._number]
                    found = sound.read(count, dtype="float32", always_2d=True)
                    block = self._at_one_rate(found.mean(axis=1, dtype=np.float32), sound)
                    self._number += not len(found)
            block, self._rest = block[:count], block[count:]
        self._done += len(block)
        if not len(block) and (self.frames - self._done) / self.rate_hz > TOLERANCE_S:
            raise self._truncated(self._done / self.rate_hz, self.frames / self.rate_hz)
        return block

    def _at_one_rate(self, block: NDArray[np.float32], sound: Any) -> NDArray[np.float32]:
        if sound.samplerate == self.rate_hz:
            return block
        import soxr

        if self._resampler is None:
            self._resampler = soxr.ResampleStream(sound.samplerate, self.rate_hz, 1, dtype="float32", quality="HQ")
        result: NDArray[np.float32] = self._resampler.resample_chunk(block, last=not len(block))
        if not len(block):
            self._resampler = None
        return result

    def _truncated(self, found_s: float, stated_s: float) -> InputError:
        stated = f"{stated_s:.2f} s" if stated_s else "more"
        return InputError(f"{self._name}: the sound is truncated: it ends after {found_s:.2f} s, expected {stated}")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        import soundfile

        try:
            with without_mpg123_lines() if self._is_mpeg else contextlib.nullcontext():
                yield
        except soundfile.LibsndfileError as error:
            reason = error.error_string.rstrip(".") or "broken stream"
            raise InputError(f"{self._name}: {self._length} bytes cannot be decoded ({reason}), {EXPECTED}") from error
        except (ValueError, RuntimeError, AssertionError, TypeError) as error:  # soundfile trusts a header's numbers
            found = f"{self._length} bytes cannot be decoded ({error!s:.100})"
            raise InputError(f"{self._name}: {found}, {EXPECTED}") from error

    def close(self) -> None:
        """Close the file and its decoders."""
        if self._media is not None:
            self._media.close()
        for sound in self._sounds:
            sound.close()
        self._file.close()

    def __enter__(self) -> SoundStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open(source: str | Path | bytes, name: str) -> BinaryIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    try:
        path = Path(source)
        if path.exists() and not path.is_file() and not path.is_dir():
            raise InputError(f"{name}: is a device or a pipe, {EXPECTED}")
        return path.open("rb")
    except OSError as error:
        hint = "; base64 goes into a data: address" if error.errno == errno.ENAMETOOLONG else ""
        raise InputError(f"{name}: {error.strerror or error}, {EXPECTED}{hint}") from error
    except ValueError as error:  # a NUL byte, or half a surrogate pair
        raise InputError(f"{name!r}: is no path ({error}), {EXPECTED}") from error


def _parts(reader: Reader) -> SoundParts:
    """Return the container's parts; the whole file for containers that are not parsed here."""
    head = reader.at(0, 12)
    parts: SoundParts | None = None
    start = 0
    if head[:3] == b"ID3" and len(head) >= 10:  # a tag before MP3 or FLAC
        start = 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
    if head[:4] == b"OggS":
        parts = read_ogg(reader)
    elif reader.at(start, 4) == b"fLaC":
        parts = read_flac(reader, start)
    elif start or parse_frame(head[:4]) is not None:
        parts = read_mpeg(reader, 0, reader.size)
    else:
        parts = read_chunked(reader)
    if parts is None or not (parts.streams or parts.unended):
        return SoundParts(streams=[[(0, reader.size)]], is_mpeg=True)  # libsndfile may take it for MPEG audio
    return parts


def _rare_parts(sound: Any, reader: Reader) -> SoundParts:
    """Return lengths of a container that only libsndfile reads (VOC, AVR, NIST, ...), from its log."""
    log = str(sound.extra_info)
    stated = re.search(r"Frames *: (\d+)$", log, re.MULTILINE)
    if sound.format == "NIST":
        stated = re.search(r"sample_count -i (\d+)", reader.at(0, 1024).decode("latin-1"))
    if stated is None and re.search(r"truncated|should be|too short", log):
        return SoundParts(unended="before the length that its header states")
    return SoundParts(stated=int(stated[1]) if stated else 0, found=max(int(sound.frames), 1))
