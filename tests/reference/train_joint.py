"""Stage 4: pictures with spoken questions, as the paper's joint stage: audio encoder frozen.

Trains the vision-side audio projector, the vision adapter, the vision tower and its projector; half of the
steps are pictures alone, so that they stay right.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import Phi4MultimodalForCausalLM

from palmtop.runtime.reference.text_tasks import QUESTIONS, answer_question
from tests.reference.learning import (
    NOTHING,
    Group,
    Prompts,
    answer_loss,
    load_part,
    media_prompt,
    save_part,
    train,
    trainable,
)
from tests.reference.sounds import Sounds
from tests.reference.towers import audio_rows, image_rows, vision_features
from tests.reference.train_vision import PARTS, TOWER, Pictures, refusals

BATCH = 32
BRIDGE = ("audio_embed.up_proj_for_vision_speech", "audio_embed.down_proj_for_vision_speech")
HEARD_BATCHES = 120


def train_joint(
    model: Phi4MultimodalForCausalLM,
    prompts: Prompts,
    work: Path,
    seed: int,
    steps: int,
    minutes: float = math.inf,
) -> None:
    """Train the joint stage, or load it when it was done before."""
    path = work / "joint.pt"
    if path.exists():
        load_part(model, path)
        return
    embedding = model.model.embed_tokens_extend.audio_embed
    with torch.no_grad():  # the speech side's projector is a start: it says the same words to another adapter
        for part in ("up_proj", "down_proj"):
            for name, tensor in getattr(embedding, f"{part}_for_vision_speech").named_parameters():
                tensor.copy_(getattr(embedding, f"{part}_for_speech").get_parameter(name))
    heard = encode_questions(model, work, seed)
    data, rng = Pictures(seed + 1), np.random.default_rng(seed + 2)
    model.enable_adapters()
    model.set_adapter("vision")
    model.requires_grad_(False)
    tower, others = trainable(model, TOWER), trainable(model, (*PARTS, *BRIDGE), besides=TOWER)
    groups: list[Group] = [
        Group(others, lr=1.2e-3),
        Group(tower, lr=1.2e-3, muon=True),
    ]

    def step_loss(step: int) -> tuple[Tensor, float]:
        tiles, digits, _ = data.draw(BATCH, least=1 + step % 2)
        rows = image_rows(model, vision_features(model, tiles), tiles)
        if step % 2:
            encoded, questions = heard[rng.integers(len(heard))]
            media = (rows, audio_rows(model, encoded, "vision"))
            answers = [answer_question(q, d) for q, d in zip(questions, digits, strict=True)]
        else:
            media, answers = (rows,), digits
        loss, right = answer_loss(model, media_prompt(model, prompts, *media), [prompts.answer(a) for a in answers])
        if step % 8 < 2:
            prompt = torch.cat([part[:12] for part in media], 1)
            loss = loss + 0.3 * refusals(model, prompts, prompt, "vision", rng)
        elif step % 8 == 5:  # a sound without a picture is not this adapter's
            alone = media_prompt(model, prompts, audio_rows(model, encoded[:12], "speech").detach())
            loss = loss + 0.2 * answer_loss(model, alone, [prompts.answer(NOTHING)] * 12)[0]
        return loss, right

    def check() -> None:
        save_part(model, work / "joint-latest.pt", (*PARTS, *BRIDGE))

    train("joint", groups, step_loss, steps=steps, minutes=minutes, on_pause=check)
    save_part(model, path, (*PARTS, *BRIDGE))


@torch.no_grad()
def encode_questions(model: Phi4MultimodalForCausalLM, work: Path, seed: int) -> list[tuple[Tensor, list[str]]]:
    """Batches of spoken question words through the frozen encoder: ([B, T, width], words)."""
    data = Sounds(work / "speech-train.npz", seed)
    encoder = model.model.embed_tokens_extend.audio_embed.encoder
    heard = []
    for _ in range(HEARD_BATCHES):
        features, words = data.draw(BATCH, only=QUESTIONS)
        heard.append((encoder(features, None), words))
    return heard
