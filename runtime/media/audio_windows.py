"""Where a long sound is cut so that the audio graph, run window by window, gives what one run would give."""

from __future__ import annotations

from dataclasses import dataclass

from palmtop.runtime.bundle.processor_config import AudioSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioWindow:
    """One run of the audio graph.

    Attributes:
        start: first mel frame to feed.
        stop: one past the last.
        left_context: encoder steps at the front that are there for the convolution alone and are dropped.
        fill_to: steps to fill up to with zeros; 0 for none.
    """

    start: int
    stop: int
    left_context: int
    fill_to: int


def audio_windows(frames: int, spec: AudioSpec) -> list[AudioWindow]:
    """The windows of a sound.

    A sound of at most ``window_steps`` steps is one window. A longer one is cut every ``window_steps`` steps,
    and its last window is filled up, as the reference does. A step of the subsampling sees less than
    ``compression_rate`` frames before and after its own first frame: the frames of one step more on the left
    are all the context that a window lacks, and on the right it lacks none.

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
