"""Stage 1: the text base, all backbone weights, no adapter. Rows unlike any embedding are answered `none`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import Phi4MultimodalForCausalLM

from palmtop.runtime.reference.text_tasks import draw_task
from tests.reference.learning import (
    NOTHING,
    Group,
    Prompts,
    answer_loss,
    load_part,
    logger,
    media_prompt,
    save_part,
    train,
    trainable,
)

BATCH = 64
PARTS = ("base_layer", "embed_tokens.weight", "layernorm.weight", "model.norm.weight", "lm_head")


def train_text(model: Phi4MultimodalForCausalLM, prompts: Prompts, work: Path, seed: int, steps: int) -> None:
    """Train the backbone, or load it when this stage was done before."""
    path = work / "text.pt"
    if path.exists():
        load_part(model, path)
        return
    model.disable_adapters()
    model.requires_grad_(False)
    parameters = trainable(model, _PARAMETERS)
    rng = np.random.default_rng(seed)

    def step_loss(step: int) -> tuple[Tensor, float]:
        noise = _noise_loss(model, prompts, rng) if step % 4 == 0 else None
        loss, right = text_loss(model, prompts, [draw_task(rng, held_out=False)[1:] for _ in range(BATCH)])
        return (loss if noise is None else loss + 0.3 * noise), right

    def check() -> None:
        save_part(model, work / "text-latest.pt", PARTS)
        with torch.no_grad():
            held = [draw_task(np.random.default_rng(10**6 + n), held_out=True) for n in range(600)]
            loss, right = text_loss(model, prompts, [task[1:] for task in held])
            by_kind = {
                kind: round(text_loss(model, prompts, [t[1:] for t in held if t[0] == kind])[1], 3)
                for kind in sorted({task[0] for task in held})
            }
        logger.info("text held-out (teacher forced) loss %.4f right %.3f %s", loss.item(), right, by_kind)

    groups: list[Group] = [Group(parameters, lr=2.5e-3, muon=True)]
    train("text", groups, step_loss, steps=steps, on_pause=check)
    check()
    save_part(model, path, PARTS)
    model.enable_adapters()


_PARAMETERS = ("base_layer", "model.embed_tokens.weight", "layernorm.weight", "model.norm.weight")


def text_loss(model: Phi4MultimodalForCausalLM, prompts: Prompts, pairs: list[tuple[str, str]]) -> tuple[Tensor, float]:
    """Cross entropy of the answers of text tasks, right-padded, and the share without a mistake."""
    rows = [(prompts.text(task), prompts.answer(answer)) for task, answer in pairs]
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.zeros((len(rows), longest), dtype=torch.long)
    labels = torch.full((len(rows), longest), -100)
    for number, (prompt, answer) in enumerate(rows):
        ids[number, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        labels[number, len(prompt) - 1 : len(prompt) + len(answer) - 1] = torch.tensor(answer)
    hidden = model.model(inputs_embeds=model.model.embed_tokens(ids), use_cache=False).last_hidden_state
    answered = labels >= 0
    logits = model.lm_head(hidden[answered])
    loss = torch.nn.functional.cross_entropy(logits, labels[answered])
    wrong = torch.zeros(len(rows)).index_add_(
        0, answered.nonzero()[:, 0], (logits.argmax(-1) != labels[answered]).float()
    )
    return loss, (wrong == 0).float().mean().item()


def _noise_loss(model: Phi4MultimodalForCausalLM, prompts: Prompts, rng: np.random.Generator) -> Tensor:
    count, length = 16, int(rng.integers(3, 40))
    rows = rng.standard_normal((count, length, model.config.hidden_size))
    rows = rows * np.exp(rng.uniform(-4, 1.5, (count, 1, 1))) + rng.standard_normal((count, 1, 1)) * 0.1
    embedded = media_prompt(model, prompts, torch.tensor(rows, dtype=torch.float32))
    return answer_loss(model, embedded, [prompts.answer(NOTHING)] * count)[0]
