"""The decoder's logits of several positions: as those of one after the other, and only where they were asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from palmtop.errors import InputError
from palmtop.export.convert import export_model
from palmtop.export.measure.onnx_decoder import OnnxDecoder
from palmtop.export.recipe import Recipe
from palmtop.runtime.bundle.opening import Bundle, open_bundle
from tests.export.test_decoder import SMALL_TOWERS
from tests.reference.port import random_checkpoint

ROWS = 5


def step(bundle: Bundle, ids: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
    """Logits of a first step over these tokens, by output."""
    session = OnnxDecoder(bundle.file("decoder.onnx"), bundle.manifest.decoder, threads=1)._session
    decoder = bundle.manifest.decoder
    empty = np.zeros(decoder.state("key").stored_shape(0), np.float32)
    feeds: dict[str, Any] = {
        "input_ids": ids[None],
        "attention_mask": np.ones((1, len(ids)), np.int64),
        "media_index": np.zeros(16, np.int64),
        "media_features": np.zeros((1, decoder.hidden_size), np.float32),
        "adapter_gates": np.zeros(2, np.float32),
        "rope_long": np.zeros(1, np.bool_),
    }
    inputs = [i.name for i in session.get_inputs()]
    feeds |= {name: empty for name in inputs if name.startswith("past_key_values.")}
    outputs = [o.name for o in session.get_outputs() if not o.name.startswith("present.")]
    return dict(zip(outputs, session.run(outputs, {k: v for k, v in feeds.items() if k in inputs}), strict=True))


@pytest.mark.parametrize("bits", [4, 32])
@pytest.mark.parametrize("is_tied", [True, False])
def test_every_position_of_a_short_step_has_the_logits_it_has_alone(bits: int, is_tied: bool, tmp_path: Path) -> None:
    random_checkpoint(tmp_path / "checkpoint", 1, tie_word_embeddings=is_tied, **SMALL_TOWERS)
    plain = Recipe(bits=bits, context=64, accuracy_level=0)
    bundles = [
        open_bundle(export_model(tmp_path / "checkpoint", tmp_path / str(rows), Recipe(**plain.to_dict() | each)))
        for rows, each in ((1, {}), (ROWS, {"draft_rows": ROWS}))
    ]
    narrow, wide = bundles
    assert (narrow.manifest.decoder.draft_rows, wide.manifest.decoder.draft_rows) == (1, ROWS)
    ids = np.random.default_rng(2).integers(0, narrow.manifest.decoder.vocab_size - 40, ROWS + 4)
    for length in (1, 2, ROWS):
        found = step(wide, ids[:length])
        alone = np.stack([step(narrow, ids[: place + 1])["logits"][0, 0] for place in range(length)])
        assert found["draft_logits"].shape == (1, length, narrow.manifest.decoder.vocab_size)
        assert np.abs(found["draft_logits"][0] - alone).max() < 1e-4 * np.ptp(alone)
        assert (found["draft_logits"][0, -1] == found["logits"][0, 0]).all()
    long = step(wide, ids)
    assert long["draft_logits"].shape == long["logits"].shape == (1, 1, narrow.manifest.decoder.vocab_size)
    expected = step(narrow, ids)
    assert list(expected) == ["logits"]
    assert np.abs(long["logits"] - expected["logits"]).max() < 1e-4 * np.ptp(expected["logits"])


def test_a_recipe_keeps_its_rows() -> None:
    several = Recipe(draft_rows=4)
    assert Recipe.from_dict(several.to_dict()) == several


@pytest.mark.parametrize(("rows", "found"), [(0, "0"), (16, "16"), (-1, "-1")])
def test_impossible_rows_are_refused(rows: int, found: str) -> None:
    with pytest.raises(InputError, match=f"draft-rows is {found}, expected 1 to 15"):
        Recipe(draft_rows=rows)
