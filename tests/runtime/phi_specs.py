"""What upstream's processors are, and the least that a text needs, for tests without a checkpoint."""

from __future__ import annotations

from palmtop.runtime.bundle.processor_config import AudioSpec, TextSpec

PHI_AUDIO = AudioSpec(
    token_id=200011,
    rate_hz=16000,
    n_fft=512,
    win_length=400,
    hop_length=160,
    preemphasis=0.97,
    n_mels=80,
    mel_min_hz=0.0,
    mel_max_hz=7690.0,
    compression_rate=8,
    downsample_rate=1,
    window_steps=500,
)

PLAIN_TEXT = TextSpec(
    bos_id=None,
    eos_ids=(0,),
    end_of_turn_id=None,
    pad_id=0,
    adds_bos=False,
    image_placeholder="",
    audio_placeholder="",
)
