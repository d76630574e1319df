"""Stage 3: the vision tower, its projector and the vision adapter, on pictures of digits.

The tower starts with a dense task (which digit has its middle in which half of each 28 pixel cell): far more signal a
step than the answer alone. The backbone is frozen; with the adapter off, the answer asked for is `none`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import Phi4MultimodalForCausalLM

from palmtop.runtime.reference.canvas import Picture, compose, digits_that_fit, draw_size
from palmtop.runtime.reference.text_tasks import draw_task
from tests.reference.glyphs import Glyph, fonts, handwritten
from tests.reference.learning import (
    NOTHING,
    SIZES,
    Prompts,
    answer_loss,
    load_part,
    logger,
    media_prompt,
    save_part,
    train,
    trainable,
)
from tests.reference.pixels import Tiles, tile
from tests.reference.towers import image_rows, sub_grid, vision_features
from tests.reference.train_text import text_loss

TOWER = ("image_embed.img_processor.embeddings", "image_embed.img_processor.encoder")
PARTS = ("image_embed.", ".vision.weight")
EMPTY = 10
"""Class of a half cell with no digit."""


class Pictures:
    """Training pictures: batches of one canvas size."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.by_digit: dict[str, list[list[Glyph]]] = {}
        for name, glyphs in (("handwritten", handwritten(held_out=False)), ("font", fonts(held_out=False))):
            self.by_digit[name] = [[glyph for glyph in glyphs if glyph.digit == digit] for digit in range(10)]

    def draw(
        self, batch: int, *, least: int = 1, easy: bool = False
    ) -> tuple[Tiles, list[str], list[Picture]]:
        """A batch of pictures, tiled, with their digits."""
        width, height = (56, 56) if easy else draw_size(self.rng)
        if least > 1:
            width = max(width, 80)
        pictures, digits = [], []
        for _ in range(batch):
            count = 1 if easy else int(self.rng.integers(least, digits_that_fit(width) + 1))
            row = self.rng.integers(0, 10, count)
            pictures.append(compose([self._sprite(digit) for digit in row], width, height, self.rng))
            digits.append("".join(map(str, row)))
        stacked = np.stack([picture.pixels for picture in pictures])
        return tile(stacked, SIZES.crop_size, SIZES.patch_size, SIZES.dynamic_hd), digits, pictures

    def _sprite(self, digit: int) -> NDArray[np.float32]:
        rng = self.rng
        choice = self.by_digit["handwritten" if rng.random() < 0.65 else "font"][digit]
        sprite = choice[rng.integers(len(choice))].sprite
        if rng.random() < 0.5:  # thicker or thinner strokes
            sprite = np.clip(sprite, 0, 1) ** rng.uniform(0.5, 2.0)
        if rng.random() < 0.5:  # wider or narrower
            keep = np.linspace(0, sprite.shape[1] - 1, max(4, int(sprite.shape[1] * rng.uniform(0.75, 1.3))))
            sprite = sprite[:, keep.round().astype(np.intp)]
        return np.asarray(sprite, np.float32)


def half_cell_targets(digits: list[str], pictures: list[Picture], tiles: Tiles) -> Tensor:
    """Classes [B, useful high, useful wide, 2]: the digit whose middle lies in that half cell, or EMPTY."""
    cell = 2 * SIZES.patch_size
    high, wide = tiles.useful
    targets = torch.full((len(digits), high, wide, 2), EMPTY)
    for number, (row, picture) in enumerate(zip(digits, pictures, strict=True)):
        for digit, (x, y) in zip(row, picture.centres, strict=True):
            half = min(int(x * tiles.scale * 2 / cell), 2 * wide - 1)
            targets[number, min(int(y * tiles.scale / cell), high - 1), half // 2, half % 2] = int(digit)
    return targets


def pretrain_tower(
    model: Phi4MultimodalForCausalLM, work: Path, seed: int, steps: int, minutes: float
) -> nn.Linear:
    """Train the tower alone on the half cell task; returns its head."""
    torch.manual_seed(seed)
    head = nn.Linear(SIZES.vision_hidden_size, 22)
    path = work / "vision-tower.pt"
    if path.exists():
        stored = torch.load(path, weights_only=True)
        head.load_state_dict(stored.pop("head"))
        model.load_state_dict(stored["tower"], strict=False)
        return head
    data = Pictures(seed)
    model.requires_grad_(False)
    parameters = trainable(model, TOWER)

    def step_loss(step: int) -> tuple[Tensor, float]:
        # single digits first: the tower must find out what a digit is before it can tell rows of them apart
        tiles, digits, pictures = (
            data.draw(64, easy=True) if step < 250 else data.draw(48, easy=step % 3 == 0)
        )
        features = vision_features(
            model, replace(tiles, pixel_values=tiles.pixel_values[:, 1:], mask=tiles.mask[:, 1:])
        )
        features = torch.cat([features[:, :1], features], 1)  # the global view is not computed here
        logits = head(sub_grid(features, tiles)).unflatten(-1, (2, 11))
        return half_cell_loss(logits, half_cell_targets(digits, pictures, tiles))

    train(
        "tower",
        [{"params": [*parameters, *head.parameters()], "lr": 2e-3, "muon": True}],
        step_loss,
        steps=steps,
        minutes=minutes,
    )
    tower = {
        name: tensor for name, tensor in model.state_dict().items() if any(part in name for part in TOWER)
    }
    torch.save({"head": head.state_dict(), "tower": tower}, path)
    return head


def half_cell_loss(logits: Tensor, targets: Tensor) -> tuple[Tensor, float]:
    """Cross entropy that weighs half cells with a digit as much as the empty ones; share of digits found."""
    flat, wanted = logits.flatten(0, -2), targets.flatten()
    there = wanted != EMPTY
    loss = nn.functional.cross_entropy(flat[there], wanted[there]) + nn.functional.cross_entropy(
        flat[~there], wanted[~there]
    )
    return loss, (flat[there].argmax(-1) == wanted[there]).float().mean().item()


def train_vision(
    model: Phi4MultimodalForCausalLM,
    prompts: Prompts,
    work: Path,
    seed: int,
    *,
    tower_steps: int,
    steps: int,
    minutes: float = math.inf,
) -> None:
    """Train tower, projector and vision adapter, or load them when this stage was done before."""
    path = work / "vision.pt"
    if path.exists():
        load_part(model, path)
        return
    head = pretrain_tower(model, work, seed, tower_steps, minutes)
    data = Pictures(seed + 1)
    rng = np.random.default_rng(seed + 2)
    model.enable_adapters()
    model.set_adapter("vision")
    model.requires_grad_(False)
    tower, others = trainable(model, TOWER), trainable(model, PARTS, besides=TOWER)
    groups: list[dict[str, object]] = [
        {"params": others, "lr": 2e-3, "muon": True},
        {"params": [*tower, *head.parameters()], "lr": 1e-3, "muon": True},
    ]

    def step_loss(step: int) -> tuple[Tensor, float]:
        tiles, digits, pictures = data.draw(40)
        features = vision_features(model, tiles)
        logits = head(sub_grid(features, tiles)).unflatten(-1, (2, 11))
        dense, _ = half_cell_loss(logits, half_cell_targets(digits, pictures, tiles))
        rows = image_rows(model, features, tiles)
        loss, right = answer_loss(
            model, media_prompt(model, prompts, rows), [prompts.answer(d) for d in digits]
        )
        total = loss + 0.3 * dense
        if step % 4 == 0:
            total = total + 0.3 * refusals(model, prompts, rows[:16], "vision", rng)
        return total, right

    def check() -> None:
        save_part(model, work / "vision-latest.pt", PARTS)

    train("vision", groups, step_loss, steps=steps, minutes=minutes, on_pause=check)
    save_part(model, path, PARTS)
    logger.info("vision saved")


def refusals(
    model: Phi4MultimodalForCausalLM, prompts: Prompts, rows: Tensor, adapter: str, rng: np.random.Generator
) -> Tensor:
    """Answering `none`: without an adapter to media rows, and with this adapter to a bare text task."""
    model.disable_adapters()
    unseen, _ = answer_loss(model, media_prompt(model, prompts, rows), [prompts.answer(NOTHING)] * len(rows))
    model.enable_adapters()
    model.set_adapter(adapter)
    tasks = [(draw_task(rng, held_out=False)[1], NOTHING) for _ in range(16)]
    bare, _ = text_loss(model, prompts, tasks)
    return unseen + bare
