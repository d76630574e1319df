"""The two towers on batches of equal shape: the port's own modules, without what training does not need.

`tests/reference/score.py` runs the port's whole forward; these give the same rows (`test_towers.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import Phi4MultimodalForCausalLM

from tests.reference.pixels import Tiles


def vision_features(model: Phi4MultimodalForCausalLM, tiles: Tiles) -> Tensor:
    """Pooled features [B, 1 + tiles, cells, cells, width]; layers after the feature layer are left out."""
    embedding = model.model.embed_tokens_extend.image_embed
    tower = embedding.img_processor
    batch, count = tiles.pixel_values.shape[:2]
    mask = tiles.mask.flatten(0, 1).bool()  # [B*T, side, side]
    hidden = tower.embeddings(pixel_values=tiles.pixel_values.flatten(0, 1), patch_attention_mask=mask)
    hidden_keys = torch.finfo(torch.float32).min * ~mask.flatten(1)[:, None, None, :]  # added to the scores
    keys = None if bool(mask.all()) else hidden_keys
    layers = tower.encoder.layers
    for layer in layers[: len(layers) + 1 + embedding.layer_idx]:
        hidden = layer(hidden, keys)
    side = mask.shape[-1]
    grid = hidden.view(-1, side, side, hidden.shape[-1]).permute(0, 3, 1, 2)
    if side % 2:
        grid = embedding.img_processor_padding(grid)
    pooled = embedding.image_token_compression(grid).permute(0, 2, 3, 1)
    return pooled.reshape(batch, count, *pooled.shape[1:])


def image_rows(model: Phi4MultimodalForCausalLM, features: Tensor, tiles: Tiles) -> Tensor:
    """Media rows [B, rows, hidden] of pooled features: tiles line by line, separator, global view."""
    embedding = model.model.embed_tokens_extend.image_embed
    sub = sub_grid(features, tiles)
    batch, high, _, width = sub.shape
    newline = embedding.sub_img_feature_extensor
    sub = torch.cat([sub, newline.expand(batch, high, 1, width)], 2).flatten(1, 2)
    whole = features[:, 0]
    whole = torch.cat([whole, newline.expand(batch, whole.shape[1], 1, width)], 2).flatten(1, 2)
    rows = torch.cat([sub, embedding.global_img_feature_extensor.expand(batch, 1, width), whole], 1)
    return embedding.img_projection_down(nn.functional.gelu(embedding.img_projection_up(rows)))


def sub_grid(features: Tensor, tiles: Tiles) -> Tensor:
    """The tiles' features laid out as the picture, padding cut off: [B, useful high, useful wide, width]."""
    batch, _, cells, _, width = features.shape
    high, wide = tiles.grid
    grid = features[:, 1:].reshape(batch, high, wide, cells, cells, width).transpose(2, 3)
    return grid.reshape(batch, high * cells, wide * cells, width)[:, : tiles.useful[0], : tiles.useful[1]]


def audio_rows(model: Phi4MultimodalForCausalLM, encoded: Tensor, mode: str) -> Tensor:
    """Media rows [B, T, hidden] of encoder output, by the `speech` or the `vision` projector."""
    embedding = model.model.embed_tokens_extend.audio_embed
    if mode == "speech":
        up, down = embedding.up_proj_for_speech, embedding.down_proj_for_speech
    else:
        up, down = embedding.up_proj_for_vision_speech, embedding.down_proj_for_vision_speech
    rows: Tensor = down(nn.functional.gelu(up(encoded)))
    return rows
