"""Training sounds: batches of equal length from stored clips, varied in the wave and in the log-mel picture.

The log-mel is Phi4MultimodalFeatureExtractor's arithmetic in float32; scoring uses the extractor itself.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import rfft
from scipy.signal import fftconvolve
from torch import Tensor, nn
from transformers import Phi4MultimodalFeatureExtractor

from palmtop.runtime.reference.text_tasks import DIGIT_WORDS, SPOKEN_WORDS
from tests.reference.speech import Clip, load

RATE_HZ = 16000
CLASSES = {word: number + 1 for number, word in enumerate([*DIGIT_WORDS, *SPOKEN_WORDS])}
"""CTC class of each word; 0 is the blank."""
POOLED_BATCHES = 6
WEIGHTS = {"espeak": 0.5, "festival": 0.28, "piper": 0.22}


class Sounds:
    """Draws training batches; every random choice comes from the seed."""

    def __init__(self, path: Path, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.recording, clips = load(path)
        self.filters = torch.from_numpy(Phi4MultimodalFeatureExtractor().mel_filters).float()
        self.window = (np.hamming(400) * 32768).astype(np.float32)
        self.waiting: list[list[tuple[NDArray[np.float32], str]]] = []
        self.waiting_for: tuple[str, ...] = ()
        self.by_source: dict[str, dict[str, list[Clip]]] = defaultdict(lambda: defaultdict(list))
        for clip in clips:
            self.by_source[clip.synthesizer][clip.voice].append(clip)
        self.digit_clips = {
            (synthesizer, voice, word): [clip for clip in items if clip.text == word]
            for synthesizer, voices in self.by_source.items()
            for voice, items in voices.items()
            for word in DIGIT_WORDS
        }

    def draw(self, batch: int, *, only: tuple[str, ...] = ()) -> tuple[Tensor, list[str]]:
        """Log-mel features [B, frames, 80] and the spoken words; `only` restricts the vocabulary."""
        if not self.waiting or self.waiting_for != only:
            # several batches at once, sorted by length: little silence is computed
            pool = [self._utterance(only) for _ in range(POOLED_BATCHES * batch)]
            drawn = sorted(((self._vary(wave), text) for wave, text in pool), key=lambda pair: len(pair[0]))
            self.waiting = [drawn[first : first + batch] for first in range(0, len(drawn), batch)]
            self.rng.shuffle(self.waiting)  # type: ignore[arg-type]
            self.waiting_for = only
        pairs = self.waiting.pop()
        longest = max(len(wave) for wave, _ in pairs) + int(self.rng.integers(RATE_HZ // 20, RATE_HZ // 3))
        stacked = np.stack([self._place(wave, longest) for wave, _ in pairs])
        return self._vary_mel(self._log_mel(stacked)), [text for _, text in pairs]

    def _log_mel(self, waves: NDArray[np.float32]) -> Tensor:
        """The extractor's arithmetic in float32, [B, samples] -> [B, frames, 80]; equal to 1e-3, faster."""
        view = np.lib.stride_tricks.sliding_window_view(waves, 400, axis=1)[:, ::160]
        before = np.concatenate([view[..., :1], view[..., :-1]], -1)
        frames = (view - np.float32(0.97) * before) * self.window  # [B, frames, 400]
        power = torch.from_numpy(np.abs(rfft(frames, 512)) ** 2)
        return (power @ self.filters).clamp(min=1.0).log()

    def statistics(self, count: int) -> tuple[Tensor, Tensor]:
        """Mean and inverse deviation of each mel band, for the encoder's own normalisation."""
        features = torch.cat([self.draw(8)[0].flatten(0, 1) for _ in range(count)])
        return features.mean(0), 1.0 / features.std(0)

    def _utterance(self, only: tuple[str, ...]) -> tuple[NDArray[np.float32], str]:
        rng = self.rng
        synthesizer = str(rng.choice(list(WEIGHTS), p=list(WEIGHTS.values())))
        voices = list(self.by_source[synthesizer])
        voice = voices[rng.integers(len(voices))]
        items = self.by_source[synthesizer][voice]
        if only:
            items = [clip for clip in items if clip.text in only]
        clip = items[rng.integers(len(items))]
        if not only and self.digit_clips[synthesizer, voice, "one"] and rng.random() < 0.22:
            return self._composite(synthesizer, voice)
        return self._wave(clip), clip.text

    def _composite(self, synthesizer: str, voice: str) -> tuple[NDArray[np.float32], str]:
        """Two or three digits of one voice, set side by side."""
        rng = self.rng
        words = [str(word) for word in rng.choice(DIGIT_WORDS, rng.integers(2, 4))]
        pieces: list[NDArray[np.float32]] = []
        for word in words:
            choice = self.digit_clips[synthesizer, voice, word]
            wave = self._wave(choice[rng.integers(len(choice))])
            overlap = int(rng.integers(0, 700))
            pieces += [wave[: len(wave) - overlap], np.zeros(int(rng.integers(0, 1800)), np.float32)]
        return np.concatenate(pieces), " ".join(words)

    def _wave(self, clip: Clip) -> NDArray[np.float32]:
        return self.recording[clip.start : clip.stop].astype(np.float32) / 32768.0

    def _vary(self, wave: NDArray[np.float32]) -> NDArray[np.float32]:
        rng = self.rng
        if rng.random() < 0.8:  # pitch, formants and speed together, in both directions
            factor = float(np.exp(rng.uniform(-0.25, 0.25)))
            at = np.arange(0, len(wave) - 1, factor)
            wave = np.interp(at, np.arange(len(wave)), wave).astype(np.float32)
        if rng.random() < 0.2:
            length = int(rng.integers(400, 2400))
            tail = rng.standard_normal(length) * np.exp(-6 * np.arange(length) / length) * rng.uniform(0.02, 0.12)
            tail[0] = 1.0
            wave = fftconvolve(wave, tail)[: len(wave)].astype(np.float32)
        return wave * rng.uniform(0.25, 1.3)

    def _place(self, wave: NDArray[np.float32], length: int) -> NDArray[np.float32]:
        rng = self.rng
        room = length - len(wave)
        start = int(rng.integers(0, room + 1))
        placed = np.pad(wave, (start, room - start))
        noise = rng.standard_normal(length, np.float32)
        if rng.random() < 0.3:  # coloured
            noise = np.convolve(noise, np.ones(int(rng.integers(2, 9))) / 3, "same").astype(np.float32)
        level = 10 ** rng.uniform(-5, -2.4 if rng.random() < 0.8 else -1.6)
        return (placed + level * noise).astype(np.float32)

    def _vary_mel(self, features: Tensor) -> Tensor:
        """Warp time and frequency, tilt, blur and mask the log-mel picture [B, frames, 80]."""
        rng = self.rng
        batch, frames, bands = features.shape

        def uniform(low: float, high: float) -> Tensor:
            return torch.tensor(rng.uniform(low, high, (batch, 1)), dtype=torch.float32)

        time = torch.linspace(-1, 1, frames)[None]
        bow = uniform(-0.12, 0.12) * torch.sin(np.pi * (time + 1) / 2 * rng.integers(1, 3))
        time = time + bow
        band = torch.linspace(0, 1, bands)[None]
        bend = uniform(-0.09, 0.09)
        band = 2 * (band + bend * torch.sin(np.pi * band) * (1 - 0.5 * band)) - 1
        grid = torch.stack(torch.broadcast_tensors(band[:, None, :], time[:, :, None]), -1)
        warped = nn.functional.grid_sample(features[:, None], grid, padding_mode="border", align_corners=True)[:, 0]
        ramp = torch.linspace(-1, 1, bands)[None]
        tilt = uniform(-1.2, 1.2) * ramp + uniform(-0.8, 0.8) * torch.cos(np.pi * ramp * float(rng.uniform(0.5, 3)))
        warped = warped + tilt[:, None, :]
        if rng.random() < 0.4:  # smooth the harmonics away
            width = int(rng.choice([3, 5]))
            blurred = nn.functional.avg_pool1d(warped, width, 1, width // 2, count_include_pad=False)
            blend = uniform(0.3, 1.0)[:, :, None]
            warped = blend * blurred + (1 - blend) * warped
        warped = warped.clamp(min=0.0)
        floor = warped.mean((1, 2))
        for number in range(batch):
            if rng.random() < 0.5:
                low, wide = int(rng.integers(0, bands)), int(rng.integers(1, 14))
                warped[number, :, low : low + wide] = floor[number]
            if rng.random() < 0.3:
                start, long = int(rng.integers(0, frames)), int(rng.integers(1, 8))
                warped[number, start : start + long] = floor[number]
        return warped
