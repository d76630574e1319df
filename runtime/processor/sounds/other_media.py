"""Sounds in containers of phones and browsers (MP4, WebM, AAC, AMR, ASF), decoded by PyAV if installed."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from palmtop.errors import InputError
from palmtop.packages import install_command

_ASF = bytes.fromhex("3026b2758e66cf11")
_PACKET, _PACKET_MARK = 188, 0x47  # of an MPEG transport stream
_BY_MARK = (
    (b"FLV\1", "flv", "an FLV"),
    (b"wvpk", "wv", "a WavPack"),
    (b"TTA1", "tta", "a TTA"),
    (b"MAC ", "ape", "a Monkey's Audio"),
    (b"\x0b\x77", "ac3", "an AC-3"),
)


def media_kind(head: bytes) -> tuple[str, str] | None:
    """Return FFmpeg's demuxer and a name for errors, by the first bytes, for files that libsndfile does not read."""
    if head[4:8] == b"ftyp":
        return "mp4", "an MP4 (M4A, 3GP or MOV)"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska", "a WebM or Matroska"
    if head[:4] == b"OggS" and any(mark in head[:64] for mark in (b"\x7fFLAC", b"Speex   ")):
        return "ogg", "an Ogg (FLAC or Speex)"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "aac", "an AAC (ADTS)"
    if head[:5] == b"#!AMR":
        return "amr", "an AMR"
    if head[:8] == _ASF:
        return "asf", "an ASF (WMA)"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi", "an AVI"
    if len(head) > _PACKET and head[0] == head[_PACKET] == _PACKET_MARK:
        return "mpegts", "an MPEG transport stream"
    for mark, demuxer, name in _BY_MARK:
        if head.startswith(mark):
            return demuxer, name
    return None


class MediaStream:
    """First sound stream of a file, decoded by FFmpeg.

    Attributes:
        rate_hz: samples per second.
        frames: samples per channel that the container states; 0 if it states none.
    """

    def __init__(self, file: BinaryIO, kind: tuple[str, str], name: str) -> None:
        """Open a file with PyAV.

        Raises:
            InputError: PyAV is not installed, or the file has no sound that it can decode.
        """
        demuxer, found = kind
        try:
            av: Any = importlib.import_module("av")
        except ImportError as error:
            raise InputError(
                f"{name}: found {found} file, which needs PyAV: {install_command('media', 'av')}, or convert it: "
                "ffmpeg -i FILE sound.wav"
            ) from error
        self._errors: tuple[type[Exception], ...] = (av.error.FFmpegError, ValueError, OSError, EOFError)
        self._name, self._found = name, found
        file.seek(0)
        try:
            # The format is given, so that no playlist is followed.
            self._container: Any = av.open(file, format=demuxer, metadata_errors="replace")
        except self._errors as error:
            raise self._broken(error) from error
        stream: Any = next(iter(self._container.streams.audio), None)
        if stream is None or not stream.codec_context or not stream.codec_context.sample_rate:
            self._container.close()
            raise InputError(f"{name}: found {found} file without a sound, expected one")
        self.rate_hz = int(stream.codec_context.sample_rate)
        self.frames = 0
        if stream.duration and stream.time_base:
            self.frames = int(stream.duration * stream.time_base * self.rate_hz)
        elif demuxer == "matroska" and self._container.duration:
            self.frames = self._container.duration * self.rate_hz // av.time_base
        self._done = 0
        self._held: list[NDArray[np.float32]] = []
        self._blocks = self._decode(stream, av)

    def _decode(self, stream: Any, av: Any) -> Iterator[NDArray[np.float32]]:
        resampler = av.AudioResampler(format="fltp", rate=self.rate_hz)
        for frame in self._container.decode(stream):
            frame.pts = None
            for part in resampler.resample(frame):
                yield part.to_ndarray().mean(axis=0, dtype=np.float32)
        for part in resampler.resample(None):
            yield part.to_ndarray().mean(axis=0, dtype=np.float32)

    def read(self, count: int) -> NDArray[np.float32]:
        """Return the next samples, at most ``count``; empty at the end.

        Raises:
            InputError: the stream is broken.
        """
        held = sum(map(len, self._held))
        try:
            while held < count and (block := next(self._blocks, None)) is not None:
                self._held.append(block)
                held += len(block)
        except self._errors as error:
            if self._done + held >= self.frames:  # otherwise the reader reports what is missing at the end
                raise self._broken(error) from error
        whole = np.concatenate(self._held) if self._held else np.zeros(0, np.float32)
        self._held = [whole[count:]]
        self._done += len(whole[:count])
        return whole[:count]

    def _broken(self, error: Exception) -> InputError:
        reason = str(getattr(error, "strerror", None) or error)[:100]
        return InputError(f"{self._name}: {self._found} file that cannot be decoded ({reason})")

    def close(self) -> None:
        """Close the container."""
        self._container.close()
