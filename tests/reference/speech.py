"""Which utterances are synthesized for training and for the held-out set, and how they are stored.

Held out: eight espeak-ng voices, new renderings of the festival and piper voices, and flite altogether.
"""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from palmtop.runtime.reference.text_tasks import DIGIT_WORDS, QUESTIONS, SPOKEN_WORDS
from tests.reference.synthesizers import FESTIVAL_VOICES, FLITE_VOICES, Request, speak

logger = logging.getLogger(__name__)

ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-029", "en-us-nyc")
VARIANTS = (  # noqa: SIM905
    "m1 m2 m4 m5 m6 m7 m8 f1 f3 f4 f5 klatt klatt2 klatt4 klatt5 croak Andy Alex Alicia Andrea Annie "
    "Denis Diogo Gene Henrique Hugo Jacky Lee Mario Michael Mike Nguyen Storm Tweaky adam anika announcer "
    "belinda benjamin boris caleb david ed edward grandma grandpa iven john kaukovalta linda marcelo max "
    "michel miguel norbert pablo paul pedro quincy rob robert sandro shelby steph travis zac"
).split()
HELD_OUT_VARIANTS = ["m3", "f2", "klatt3", "antonio", "Marco", "gustave", "aunty", "victor"]


@dataclass(frozen=True, slots=True)
class Clip:
    """Where one utterance lies in the long recording, and what it says."""

    text: str
    synthesizer: str
    voice: str
    start: int
    stop: int

    @property
    def expected(self) -> str:
        """The answer: digits run together, words as they are."""
        words = self.text.split()
        return "".join(str(DIGIT_WORDS.index(word)) for word in words) if words[0] in DIGIT_WORDS else self.text


def training_requests(seed: int) -> list[Request]:
    """The utterances to train on, about 6,000."""
    rng = np.random.default_rng(seed)
    requests = []
    for number, variant in enumerate(VARIANTS):
        voice = f"{ACCENTS[number % len(ACCENTS)] if number % 2 else 'en-us'}+{variant}"
        requests += _batch("espeak", voice, rng, strings=18, pitch=True)
        for question in QUESTIONS:
            requests.append(Request(question, "espeak", f"en-us+{variant}", float(rng.uniform(0.75, 1.4))))
    for voice in FESTIVAL_VOICES:
        for _ in range(7):
            requests += _batch("festival", voice, rng, strings=24)
    for _ in range(10):
        requests += _batch("piper", "joe", rng, strings=24)
    return requests


def held_out_requests(seed: int) -> list[Request]:
    """The utterances to test on, about 1,200; flite is the synthesizer never trained on."""
    rng = np.random.default_rng(seed)
    requests = []
    for number, variant in enumerate(HELD_OUT_VARIANTS):
        requests += _batch("espeak", f"{ACCENTS[number % 4]}+{variant}", rng, strings=16, pitch=True)
    for voice in FESTIVAL_VOICES:
        requests += _batch("festival", voice, rng, strings=16)
    requests += _batch("piper", "joe", rng, strings=24)
    for voice in FLITE_VOICES:
        requests += _batch("flite", voice, rng, strings=40)
    return requests


def synthesize(requests: list[Request], piper_wheel: Path, seed: int) -> tuple[NDArray[np.int16], list[Clip]]:
    """Speak all requests, two processes at a time, into one recording with an index."""
    jobs: dict[tuple[str, str], list[Request]] = {}
    for request in requests:
        jobs.setdefault((request.synthesizer, request.voice), []).append(request)
    with ThreadPoolExecutor(2) as pool:
        order = sorted(jobs.values(), key=len, reverse=True)
        results = list(pool.map(lambda job: _speak(job, piper_wheel, seed), order))
    pieces, clips, position = [], [], 0
    for job, spoken in zip(order, results, strict=True):
        for request, samples in zip(job, spoken, strict=True):
            pieces.append((samples * 32767).astype(np.int16))
            stop = position + len(samples)
            clips.append(Clip(request.text, request.synthesizer, request.voice, position, stop))
            position = stop
    return np.concatenate(pieces), clips


def save(path: Path, recording: NDArray[np.int16], clips: list[Clip]) -> None:
    """Store a recording and its index in one npz."""
    index = json.dumps([asdict(clip) for clip in clips])
    with path.with_suffix(".part").open("wb") as file:
        np.savez(file, recording=recording, index=np.array(index))
    path.with_suffix(".part").rename(path)


def load(path: Path) -> tuple[NDArray[np.int16], list[Clip]]:
    """What `save` stored."""
    with np.load(path) as stored:
        return stored["recording"], [Clip(**entry) for entry in json.loads(str(stored["index"]))]


def _speak(job: list[Request], piper_wheel: Path, seed: int) -> list[NDArray[np.float32]]:
    logger.info("%s %s: %d utterances", job[0].synthesizer, job[0].voice, len(job))
    return speak(job, piper_wheel, seed)


def _batch(
    synthesizer: str, voice: str, rng: np.random.Generator, *, strings: int, pitch: bool = False
) -> list[Request]:
    texts = [*DIGIT_WORDS, *SPOKEN_WORDS]
    texts.extend(" ".join(rng.choice(DIGIT_WORDS, 2 + number % 2)) for number in range(strings))
    return [
        Request(
            text,
            synthesizer,
            voice,
            float(rng.uniform(0.75, 1.4)),
            int(rng.integers(25, 80)) if pitch else 50,
        )
        for text in texts
    ]
