"""Stage 2: the audio encoder, its speech projector and the speech adapter, on spoken words and digit strings.

The encoder starts with CTC over words, as the paper's starts from an ASR encoder; the backbone is frozen.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Phi4MultimodalForCausalLM

from tests.reference.learning import (
    SIZES,
    Group,
    Prompts,
    answer_loss,
    load_part,
    media_prompt,
    save_part,
    train,
    trainable,
)
from tests.reference.sounds import CLASSES, Sounds
from tests.reference.speech import Clip
from tests.reference.towers import audio_rows
from tests.reference.train_vision import refusals

ENCODER = ("audio_embed.encoder",)
SPEECH = ("audio_embed.up_proj_for_speech", "audio_embed.down_proj_for_speech", ".speech.weight")


def answer_text(text: str) -> str:
    """The answer to an utterance: digits run together, words as they are."""
    return Clip(text, "", "", 0, 0).expected


def pretrain_encoder(model: Phi4MultimodalForCausalLM, work: Path, seed: int, steps: int, minutes: float) -> nn.Linear:
    """Train the encoder alone by CTC; returns its head."""
    torch.manual_seed(seed)
    head = nn.Linear(SIZES.audio_hidden_size, len(CLASSES) + 1)
    encoder = model.model.embed_tokens_extend.audio_embed.encoder
    path = work / "speech-encoder.pt"
    if path.exists():
        stored = torch.load(path, weights_only=True)
        head.load_state_dict(stored["head"])
        encoder.load_state_dict(stored["encoder"])
        return head
    data = Sounds(work / "speech-train.npz", seed)
    mean, inverse = data.statistics(40)
    encoder.encoder_embedding.global_mean.copy_(mean.bfloat16())
    encoder.encoder_embedding.global_invstd.copy_(inverse.bfloat16())
    model.requires_grad_(False)
    parameters = trainable(model, ENCODER)

    def step_loss(step: int) -> tuple[Tensor, float]:
        features, texts = data.draw(48)
        return ctc_loss(head(encoder(features, None)), texts)

    groups: list[Group] = [Group([*parameters, *head.parameters()], lr=2e-3, muon=True)]
    train("encoder", groups, step_loss, steps=steps, minutes=minutes)
    temporary = path.with_suffix(".part")
    torch.save({"head": head.state_dict(), "encoder": encoder.state_dict()}, temporary)
    temporary.rename(path)
    return head


def ctc_loss(logits: Tensor, texts: list[str]) -> tuple[Tensor, float]:
    """CTC over words of logits [B, T, classes], and the share of utterances whose greedy path is right."""
    wanted = [[CLASSES[word] for word in text.split()] for text in texts]
    steps = torch.full((len(texts),), logits.shape[1])
    lengths = torch.tensor([len(row) for row in wanted])
    flat = torch.tensor([number for row in wanted for number in row])
    scores = logits.log_softmax(-1).transpose(0, 1)
    loss = nn.functional.ctc_loss(scores, flat, steps, lengths, zero_infinity=True)
    right = [
        [n for n, before in zip(path, [0, *path], strict=False) if n and n != before] == row
        for path, row in zip(logits.argmax(-1).tolist(), wanted, strict=True)
    ]
    return loss, float(np.mean(right))


def train_speech(
    model: Phi4MultimodalForCausalLM,
    prompts: Prompts,
    work: Path,
    seed: int,
    *,
    encoder_steps: int,
    steps: int,
    minutes: float = math.inf,
) -> None:
    """Train encoder, speech projector and speech adapter, or load them when this stage was done before."""
    path = work / "speech.pt"
    if path.exists():
        load_part(model, path)
        return
    head = pretrain_encoder(model, work, seed, encoder_steps, minutes)
    data = Sounds(work / "speech-train.npz", seed + 1)
    rng = np.random.default_rng(seed + 2)
    model.enable_adapters()
    model.set_adapter("speech")
    model.requires_grad_(False)
    encoder_parameters, others = trainable(model, ENCODER), trainable(model, SPEECH)
    encoder = model.model.embed_tokens_extend.audio_embed.encoder
    groups: list[Group] = [
        Group(others, lr=2e-3, muon=True),
        Group([*encoder_parameters, *head.parameters()], lr=1e-3, muon=True),
    ]

    def step_loss(step: int) -> tuple[Tensor, float]:
        features, texts = data.draw(48)
        encoded = encoder(features, None)
        rows = audio_rows(model, encoded, "speech")
        answers = [prompts.answer(answer_text(text)) for text in texts]
        loss, right = answer_loss(model, media_prompt(model, prompts, rows), answers)
        total = loss + 0.3 * ctc_loss(head(encoded), texts)[0]
        if step % 4 == 0:
            total = total + 0.3 * refusals(model, prompts, rows[:16], "speech", rng)
        return total, right

    def check() -> None:
        save_part(model, work / "speech-latest.pt", (*ENCODER, *SPEECH))

    train("speech", groups, step_loss, steps=steps, minutes=minutes, on_pause=check)
    save_part(model, path, (*ENCODER, *SPEECH))
