"""The text-only backbone against transformers' Phi3ForCausalLM, on checkpoints of shapes that nobody would choose."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import Phi3Config, Phi3ForCausalLM

import palmtop
from palmtop.errors import CheckpointError, InputError
from palmtop.export.convert import export_model
from palmtop.export.measure.onnx_decoder import DecoderPrompt, OnnxDecoder
from palmtop.export.recipe import Recipe
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.decoding.generation_options import GenerationOptions
from tests.export.families import Family, with_random_weights
from tests.reference.vocabulary import build_tokenizer, token_ids, write_tokenizer

TOKENIZER = build_tokenizer()
IDS = token_ids(TOKENIZER)
SMALL = {
    "vocab_size": 517,
    "hidden_size": 56,
    "intermediate_size": 72,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "original_max_position_embeddings": 256,
}


def longrope(pairs: int, **more: Any) -> dict[str, Any]:
    short = [1.0 + 0.01 * i for i in range(pairs)]
    long = [round(20.0 ** (i / max(pairs - 1, 1)), 4) for i in range(pairs)]
    return {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": short, "long_factor": long, **more}


def write_phi3(folder: Path, seed: int, **changes: Any) -> Phi3ForCausalLM:
    """Save a random model as transformers 5 does, and give it back in float32."""
    ends = {"bos_token_id": IDS["<|endoftext|>"], "pad_token_id": IDS["<|endoftext|>"]}
    config = Phi3Config(**{**SMALL, **ends, "eos_token_id": IDS["<|endoftext|>"], **changes})
    model: Phi3ForCausalLM = with_random_weights(Phi3ForCausalLM(config), seed)
    model.save_pretrained(folder)
    write_tokenizer(TOKENIZER, folder)
    return model


FAMILY = Family(
    write=write_phi3,
    shapes={
        "as Phi-4-mini": {"tie_word_embeddings": True, "rope_parameters": {"partial_rotary_factor": 4 / 7}},
        "a window": {"sliding_window": 7, "num_key_value_heads": 1},
        "long": {"original_max_position_embeddings": 48, "rope_parameters": longrope(7), "num_hidden_layers": 3},
    },
)


def edit_config(folder: Path, change: Callable[[dict[str, Any]], None], name: str = "config.json") -> None:
    path = folder / name
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def in_words_of_transformers_4(config: dict[str, Any]) -> None:
    """As Microsoft's files say it."""
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["partial_rotary_factor"] = rope.pop("partial_rotary_factor", 1.0)
    kind = rope.pop("rope_type")
    rope.pop("original_max_position_embeddings", None)
    config["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}


def compare(
    folder: Path,
    model: Phi3ForCausalLM,
    ids: NDArray[np.int64],
    split: int,
    context: int = 64,
    notes: list[str] | None = None,
) -> float:
    """Largest difference as a share of the logit range: a prompt of ``split`` tokens, then token by token."""
    recipe, on_note = Recipe(bits=32, context=context), None if notes is None else notes.append
    bundle = open_bundle(export_model(folder / "checkpoint", folder / "bundle", recipe, on_note=on_note))
    decoder = bundle.manifest.decoder
    probe = OnnxDecoder(bundle.file("decoder.onnx"), decoder, threads=1)
    fed = ids[:-1]
    with torch.no_grad():
        expected = model(torch.tensor(fed)[None], use_cache=False).logits[0, split - 1 :].numpy()
    prompt = DecoderPrompt(
        mode="text",
        input_ids=ids[:split],
        media_places=np.zeros(split, np.int64),
        features=np.zeros((1, decoder.hidden_size), np.float32),
    )
    is_long = decoder.original_context is not None and len(fed) > decoder.original_context
    found = probe.logits(prompt, np.zeros(0, np.float32), ids[split:], is_long=is_long)
    return float(np.abs(found - expected).max() / np.ptp(expected))


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(
    layers=st.sampled_from([1, 3]),
    heads=st.sampled_from([(2, 1), (3, 1), (4, 2), (3, 3), (5, 1)]),
    head_size=st.sampled_from([8, 12, 16, 20, 32]),
    intermediate_size=st.sampled_from([36, 80]),
    vocab_size=st.sampled_from([493, 517, 544]),
    rotary=st.sampled_from([0.5, 0.75, 1.0]),
    is_long=st.booleans(),
    is_tied=st.booleans(),
    is_older=st.booleans(),
    seed=st.integers(0, 3),
)
def test_odd_shapes_match_transformers(
    layers: int,
    heads: tuple[int, int],
    head_size: int,
    intermediate_size: int,
    vocab_size: int,
    rotary: float,
    is_long: bool,
    is_tied: bool,
    is_older: bool,
    seed: int,
) -> None:
    rotary_size = int(head_size * rotary)
    if rotary_size % 2:
        rotary, rotary_size = 1.0, head_size
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 500.0}
    if is_long:
        rope = longrope(rotary_size // 2)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = write_phi3(
            folder / "checkpoint",
            seed,
            num_hidden_layers=layers,
            num_attention_heads=heads[0],
            num_key_value_heads=heads[1],
            hidden_size=heads[0] * head_size,
            intermediate_size=intermediate_size,
            vocab_size=vocab_size,
            tie_word_embeddings=is_tied,
            original_max_position_embeddings=20 if is_long else 256,
            rope_parameters={**rope, "partial_rotary_factor": rotary},
        )
        if is_older:
            edit_config(folder / "checkpoint", in_words_of_transformers_4)
        ids = np.random.default_rng(seed).integers(0, 480, 24)  # 23 are fed: across the boundary with LongRoPE
        assert compare(folder, model, ids, 17) < 1e-4


@pytest.mark.parametrize("length", [12, 13, 30])
def test_longrope_boundary_matches_a_full_forward(length: int, tmp_path: Path) -> None:
    sizes = {"original_max_position_embeddings": 12, "rope_parameters": longrope(7)}
    model = write_phi3(tmp_path / "checkpoint", 5, **sizes)
    ids = np.random.default_rng(1).integers(0, 480, length + 1)
    assert compare(tmp_path, model, ids, length - 4) < 1e-4


@pytest.mark.parametrize("more", [{"factor": 3.0}, {"attention_factor": 1.7}, {"factor": 3.0, "attention_factor": 0.9}])
def test_a_stated_attention_factor_counts(more: dict[str, float], tmp_path: Path) -> None:
    """256 / 12 would be the factor without it."""
    sizes = {"original_max_position_embeddings": 12, "rope_parameters": longrope(7, **more)}
    model = write_phi3(tmp_path / "checkpoint", 5, **sizes)
    ids = np.random.default_rng(1).integers(0, 480, 21)
    assert compare(tmp_path, model, ids, 16) < 1e-4


@pytest.mark.parametrize("kind", ["su", "yarn"])
def test_older_names_of_longrope_are_read(kind: str, tmp_path: Path) -> None:
    sizes = {"original_max_position_embeddings": 12, "rope_parameters": longrope(7)}
    model = write_phi3(tmp_path / "checkpoint", 5, **sizes)
    edit_config(tmp_path / "checkpoint", in_words_of_transformers_4)
    edit_config(tmp_path / "checkpoint", lambda c: c["rope_scaling"].update(type=kind))
    ids = np.random.default_rng(1).integers(0, 480, 21)
    assert compare(tmp_path, model, ids, 16) < 1e-4


@pytest.mark.parametrize("window", [1, 7, 24, 25, 64])
def test_a_sliding_window_matches_transformers(window: int, tmp_path: Path) -> None:
    model = write_phi3(tmp_path / "checkpoint", 5, sliding_window=window)
    ids = np.random.default_rng(1).integers(0, 480, 26)
    assert compare(tmp_path, model, ids, 20) < 1e-4


def test_the_window_matters_where_it_is_passed(tmp_path: Path) -> None:
    """The comparison above would be empty if a window changed nothing."""
    model = write_phi3(tmp_path / "checkpoint", 5, sliding_window=7)
    edit_config(tmp_path / "checkpoint", lambda c: c.update(sliding_window=None))
    ids = np.random.default_rng(1).integers(0, 480, 26)
    assert compare(tmp_path, model, ids, 20) > 1e-2


def test_a_bundle_answers_as_transformers_across_the_boundary(tmp_path: Path) -> None:
    """Prompt below the 30 tokens, answer beyond them; every step of the reference is a full forward."""
    model = write_phi3(tmp_path / "checkpoint", 2, original_max_position_embeddings=30, rope_parameters=longrope(7))
    bundle = export_model(tmp_path / "checkpoint", tmp_path / "bundle", Recipe(bits=32, context=128))
    messages = [{"role": "user", "content": "what is 12 plus 7?"}]
    with palmtop.load(bundle, threads=1) as session:
        ids = session._processor.prompt(messages).ids.tolist()
        reply = session.answer(messages, options=GenerationOptions(max_tokens=24))
    assert len(ids) < 30 < len(ids) + len(reply.token_ids) - 3
    assert len(set(reply.token_ids)) > 5
    said: list[int] = []
    while len(said) < len(reply.token_ids):
        with torch.no_grad():
            said.append(int(model(torch.tensor([ids + said]), use_cache=False).logits[0, -1].argmax()))
    assert list(reply.token_ids) == said
    assert reply.usage.reprefilled == "rope"


def test_a_text_bundle_has_no_inputs_for_media_and_adapters(tmp_path: Path) -> None:
    write_phi3(tmp_path / "checkpoint", 1)
    bundle = open_bundle(export_model(tmp_path / "checkpoint", tmp_path / "bundle", Recipe(context=64)))
    probe = OnnxDecoder(bundle.file("decoder.onnx"), bundle.manifest.decoder)
    names = {name for name in probe._inputs if not name.startswith("past_key_values.")}
    assert names == {"input_ids", "attention_mask"}
    assert bundle.manifest.modes == ("text",)
    assert (bundle.manifest.vision, bundle.manifest.audio, bundle.manifest.adapters) == (None, None, ())
    image = {"type": "image", "image": np.zeros((8, 8, 3), np.uint8)}
    with palmtop.load(bundle.path) as session, pytest.raises(InputError, match="the model takes none"):
        session.answer([{"role": "user", "content": [image]}])
    with palmtop.load(bundle.path) as session, pytest.raises(InputError, match="adapter 'vision' cannot be switched"):
        session.answer([{"role": "user", "content": "hello"}], adapters={"vision": 1.0})


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_bundles_prove_themselves(is_tied: bool, bits: int, tmp_path: Path) -> None:
    """``verify`` compares every stored tensor and the logits of packaged questions with the checkpoint's."""
    sizes = {"hidden_size": 72, "intermediate_size": 100, "max_position_embeddings": 512}
    write_phi3(tmp_path / "checkpoint", 3, **sizes, tie_word_embeddings=is_tied)
    recipe = Recipe(bits=bits, context=256)
    bundle = open_bundle(export_model(tmp_path / "checkpoint", tmp_path / "bundle", recipe, verify=True))
    quality = json.loads(bundle.file("quality.json").read_text())
    assert not quality["skipped"] and quality["modes"]["text"]["positions"] > 0
    assert len(quality["tensors"]) > 8


def test_ids_that_end_an_answer_come_from_every_file(tmp_path: Path) -> None:
    write_phi3(tmp_path / "checkpoint", 1, eos_token_id=[IDS["<|user|>"]])
    edit_config(tmp_path / "checkpoint", lambda c: c.update(eos_token_id=[7, 9]), "generation_config.json")
    bundle = open_bundle(export_model(tmp_path / "checkpoint", tmp_path / "bundle", Recipe(context=64)))
    text = bundle.manifest.processor.text
    assert text.eos_ids == (IDS["<|endoftext|>"], 7, 9, IDS["<|user|>"], IDS["<|end|>"])
    assert text.end_of_turn_id == IDS["<|end|>"]
    genai = json.loads(bundle.file("genai_config.json").read_text())
    assert genai["model"]["eos_token_id"] == list(text.eos_ids)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "bias of attention": ({"attention_bias": True}, "attention_bias is True, expected False"),
    "bias of the MLP": ({"mlp_bias": True}, "mlp_bias is True, expected False"),
    "activation": ({"hidden_act": "gelu"}, "hidden_act is 'gelu', expected 'silu'"),
    "quantised": ({"quantization_config": {"bits": 4}}, "quantization_config says that the checkpoint is quant"),
    "too long": ({"max_position_embeddings": 32}, "max_position_embeddings is 32, expected at least 64"),
    "no window": ({"sliding_window": 0}, "sliding_window is 0, expected a positive number or null"),
    "heads": ({"num_key_value_heads": 3}, "num_key_value_heads is 3, expected a divisor of 4 heads"),
    "width": ({"hidden_size": 54}, "hidden_size is 54, expected a multiple of 4 heads"),
    "odd rotary": ({"partial_rotary_factor": 0.5}, "heads rotate 7 dimensions, expected an even number"),
    "rotary beyond": ({"partial_rotary_factor": 2.0}, "heads rotate 28 dimensions, expected an even number up to 14"),
    "other rope": ({"rope_scaling": {"type": "llama3"}}, "rope_scaling.type is 'llama3', expected 'longrope'"),
    "factors": (
        {"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 6, "long_factor": [1.0] * 7}},
        "short_factor has 6 values, expected 7 positive numbers",
    ),
    "layers": (
        {"num_hidden_layers": 1},
        "'model.layers.1.input_layernorm.weight' has no place in a phi3 model of 1 layers",
    ),
    "more layers": ({"num_hidden_layers": 3}, "'model.layers.2.input_layernorm.weight' is missing"),
    "vocabulary": ({"vocab_size": 516}, r"'model.embed_tokens.weight' is \[517, 56\], expected \[516, 56\]"),
    "end": ({"eos_token_id": "the end"}, "eos_token_id is 'the end', expected numbers"),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phi3") / "checkpoint"
    write_phi3(folder, 1)
    edit_config(folder, in_words_of_transformers_4)
    return folder


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_graph_does_not_do_is_refused(case: str, small: Path, tmp_path: Path) -> None:
    changes, message = REFUSED[case]
    copy = tmp_path / "checkpoint"
    copy.mkdir()
    for path in small.iterdir():
        (copy / path.name).symlink_to(path)
    config = json.loads((small / "config.json").read_text())
    (copy / "config.json").unlink()
    (copy / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(CheckpointError, match=message) as raised:
        export_model(copy, tmp_path / "bundle", Recipe(context=64))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "bundle").exists()


def test_a_bias_that_nothing_reads_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    write_phi3(tmp_path / "checkpoint", 1)
    path = tmp_path / "checkpoint" / "model.safetensors"
    name = "model.layers.0.self_attn.qkv_proj.bias"
    save_file({**load_file(path), name: torch.zeros(112)}, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"tensor '{name}' has no place in a phi3 model of 2 layers"):
        export_model(tmp_path / "checkpoint", tmp_path / "bundle", Recipe(context=64))


@pytest.mark.parametrize("kind", ["another", "a copy", "the only one"])
def test_a_head_beside_a_tied_table_counts_as_in_transformers(kind: str, tmp_path: Path) -> None:
    """The reference is loaded from the files: transformers 5 ties the two only where they are equal."""
    from safetensors.torch import load_file, save_file

    write_phi3(tmp_path / "checkpoint", 1, tie_word_embeddings=True)
    path = tmp_path / "checkpoint" / "model.safetensors"
    tensors = load_file(path)
    table = tensors["model.embed_tokens.weight"]
    tensors["lm_head.weight"] = table.roll(1, 0) if kind == "another" else table.clone()
    if kind == "the only one":
        del tensors["model.embed_tokens.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    model = Phi3ForCausalLM.from_pretrained(tmp_path / "checkpoint", dtype=torch.float32).eval()
    notes: list[str] = []
    assert compare(tmp_path, model, np.random.default_rng(1).integers(0, 480, 12), 8, notes=notes) < 1e-4
    assert [note for note in notes if "lm_head.weight is not model.embed_tokens.weight" in note] == notes
    assert bool(notes) == (kind == "another")
