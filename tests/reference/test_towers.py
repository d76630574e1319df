from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from palmtop.runtime.reference import checkpoint_path  # noqa: E402
from palmtop.runtime.reference.heldout import held_out_items  # noqa: E402
from tests.reference.pixels import tile  # noqa: E402
from tests.reference.port import load_port  # noqa: E402
from tests.reference.score import Reference  # noqa: E402
from tests.reference.towers import audio_rows, image_rows, vision_features  # noqa: E402


@pytest.mark.parametrize(("width", "height"), [(56, 56), (100, 60), (168, 57), (51, 112)])
def test_the_training_tower_gives_the_ports_rows(width: int, height: int) -> None:
    model = load_port(checkpoint_path())
    pictures = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
    tiles = tile(pictures, 56, 14)
    ids = torch.full((2, tiles.rows), model.config.vision_config.image_token_id)
    with torch.no_grad():
        wanted = model.model.embed_tokens_extend(
            ids,
            model.model.embed_tokens(ids),
            image_pixel_values=tiles.pixel_values,
            image_sizes=tiles.sizes,
            image_attention_mask=tiles.mask,
        )
        rows = image_rows(model, vision_features(model, tiles), tiles)
    torch.testing.assert_close(rows, wanted, rtol=1e-4, atol=1e-4)


def test_pictures_with_sound_use_the_vision_side_projector() -> None:
    reference = Reference.load(checkpoint_path())
    feeds = reference.inputs(next(held_out_items("image+audio", 1, seed=0)))
    model = reference.model
    sound = feeds["input_ids"][0] == model.config.audio_config.audio_token_id
    with torch.no_grad():
        embedded = model.model.embed_tokens(feeds["input_ids"])
        merged = model.model.embed_tokens_extend(feeds["input_ids"], embedded, **_media(feeds))
        encoded = model.model.embed_tokens_extend.audio_embed.encoder(feeds["audio_input_features"], None)
        wanted = audio_rows(model, encoded, "vision")
    torch.testing.assert_close(merged[:, sound], wanted, rtol=1e-4, atol=1e-4)


def _media(feeds: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in feeds.items() if key != "input_ids"}


def test_vision_attention_looks_forward_too() -> None:
    """transformers' SDPA path takes a missing mask for a causal one; upstream's tower, and eager attention, do not."""
    model = load_port(checkpoint_path())
    pixels = torch.zeros(2, 3, 56, 56)
    pixels[1, :, 42:, 42:] = 1.0  # only the last patch differs
    with torch.no_grad():
        features = model.model.embed_tokens_extend.image_embed.get_img_features(
            pixels, attention_mask=torch.ones(2, 4, 4, dtype=torch.bool)
        )
    assert (features[0, 0] - features[1, 0]).abs().max() > 1e-4
