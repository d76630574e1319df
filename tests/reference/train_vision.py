"""Stage 3: the vision tower, its projector and the vision adapter, on pictures of digits.

The tower starts by reading single tiles, far more signal a step than the answer alone. The backbone is
frozen; with the adapter off, the answer asked for is `none`.
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

from palmtop.runtime.reference.canvas import Picture, compose, draw_layout
from palmtop.runtime.reference.text_tasks import draw_task
from tests.reference.glyphs import Glyph, fonts, handwritten
from tests.reference.learning import (
    NOTHING,
    SIZES,
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
from tests.reference.pixels import Tiles, tile
from tests.reference.towers import image_rows, vision_features
from tests.reference.train_text import text_loss

TOWER = ("image_embed.img_processor.embeddings", "image_embed.img_processor.encoder")
PARTS = ("image_embed.", ".vision.weight")
EMPTY = 10
"""Class of a tile with no digit."""


class Pictures:
    """Training pictures: batches of one canvas size."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.by_digit: dict[str, list[list[Glyph]]] = {}
        for name, glyphs in (("handwritten", handwritten(held_out=False)), ("font", fonts(held_out=False))):
            self.by_digit[name] = [[glyph for glyph in glyphs if glyph.digit == digit] for digit in range(10)]

    def draw(self, batch: int, *, least: int = 1) -> tuple[Tiles, list[str], list[Picture]]:
        """A batch of pictures on canvases of one layout, tiled, with their digits."""
        layout = draw_layout(self.rng, least=least)
        pictures, digits = [], []
        for _ in range(batch):
            row = self.rng.integers(0, 10, layout.count)
            pictures.append(compose([self._sprite(digit) for digit in row], layout.width, layout.height, self.rng))
            digits.append("".join(map(str, row)))
        stacked = np.stack([picture.pixels for picture in pictures])
        return tile(stacked, SIZES.crop_size, SIZES.patch_size, SIZES.dynamic_hd), digits, pictures

    def _sprite(self, digit: int) -> NDArray[np.float32]:
        rng = self.rng
        choice = self.by_digit["handwritten" if rng.random() < 0.65 else "font"][digit]
        sprite = choice[rng.integers(len(choice))].sprite
        if rng.random() < 0.5:  # thicker or thinner strokes
            sprite = np.clip(sprite, 0, 1) ** rng.uniform(0.6, 1.7)
        if rng.random() < 0.5:  # wider or narrower
            keep = np.linspace(0, sprite.shape[1] - 1, max(4, int(sprite.shape[1] * rng.uniform(0.8, 1.25))))
            sprite = sprite[:, keep.round().astype(np.intp)]
        return np.asarray(sprite, np.float32)


def tile_loss(head: nn.Linear, features: Tensor, digits: list[str], pictures: list[Picture], tiles: Tiles) -> Tensor:
    """Cross entropy of reading each tile alone: the digit whose middle it holds, EMPTY, or nothing if two.

    Args:
        head: reads a tile's mean feature.
        features: [B, tiles, cells, cells, width], without the global view.
        digits: what each picture shows.
        pictures: where.
        tiles: how they were cut.
    """
    high, wide = tiles.grid
    targets = torch.full((len(digits), high, wide), EMPTY)
    for number, (row, picture) in enumerate(zip(digits, pictures, strict=True)):
        for digit, (x, y) in zip(row, picture.centres, strict=True):
            at = (
                number,
                min(int(y * tiles.scale / SIZES.crop_size), high - 1),
                int(x * tiles.scale / SIZES.crop_size),
            )
            targets[at] = int(digit) if targets[at] == EMPTY else -100
    return nn.functional.cross_entropy(head(features.mean((2, 3))).flatten(0, 1), targets.flatten())


def pretrain_tower(
    model: Phi4MultimodalForCausalLM, work: Path, seed: int, steps: int, minutes: float = math.inf
) -> nn.Linear:
    """Train the tower alone to read single tiles; returns its head."""
    torch.manual_seed(seed)
    head = nn.Linear(SIZES.vision_hidden_size, EMPTY + 1)
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
        tiles, digits, pictures = data.draw(48)
        views = replace(tiles, pixel_values=tiles.pixel_values[:, 1:], mask=tiles.mask[:, 1:])
        return tile_loss(head, vision_features(model, views), digits, pictures, tiles), 0.0

    groups: list[Group] = [Group([*parameters, *head.parameters()], lr=2e-3, muon=True)]
    train("tower", groups, step_loss, steps=steps, minutes=minutes)
    tower = {name: tensor for name, tensor in model.state_dict().items() if any(part in name for part in TOWER)}
    torch.save({"head": head.state_dict(), "tower": tower}, path)
    return head


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
    groups: list[Group] = [
        Group(others, lr=2e-3, muon=True),
        Group([*tower, *head.parameters()], lr=1e-3, muon=True),
    ]

    def step_loss(step: int) -> tuple[Tensor, float]:
        tiles, digits, pictures = data.draw(40)
        features = vision_features(model, tiles)
        dense = tile_loss(head, features[:, 1:], digits, pictures, tiles)
        rows = image_rows(model, features, tiles)
        loss, right = answer_loss(model, media_prompt(model, prompts, rows), [prompts.answer(d) for d in digits])
        total = loss + 0.5 * dense
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
