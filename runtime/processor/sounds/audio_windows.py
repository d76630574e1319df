"""Windows of a long sound, such that the audio graph gives the same rows window by window as in one run."""

from __future__ import annotations

from dataclasses import dataclass

from palmtop.runtime.bundle.processor_config import AudioSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioWindow:
    """Frame range and padding of one run of the audio graph.

    Attributes:
        start: first mel frame.
        stop: end of the frames, exclusive.
        left_context: encoder steps at the front that serve the convolution only and are dropped.
        fill_to: number of steps to pad to with zeros; 0 for no padding.
    """

    start: int
    stop: int
    left_context: int
    fill_to: int


def audio_windows(frames: int, spec: AudioSpec) -> list[AudioWindow]:
    """Return the windows of a sound.

    A sound of at most ``window_steps`` steps is one window. A longer one is cut every ``window_steps`` steps, and its
    last window is padded, as in the reference. A step of the subsampling depends on fewer than ``compression_rate``
    frames before and after its own first frame: one more step on the left is all the context that a window needs; on
    the right it needs none.

    Source: transformers 5.23, modeling_phi4_multimodal.py, Phi4MultimodalAudioModel.forward (max_seq_len).
    """
    rate, window = spec.compression_rate, spec.window_steps
    if frames <= rate * window:
        return [AudioWindow(start=0, stop=frames, left_context=0, fill_to=0)]
    return [
        AudioWindow(
            start=max(first - rate, 0),
            stop=min(first + rate * window, frames),
            left_context=int(first > 0),
            fill_to=window,
        )
        for first in range(0, frames, rate * window)
    ]
