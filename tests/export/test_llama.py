"""The family ``llama`` against transformers' LlamaForCausalLM, on checkpoints of shapes that nobody would choose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

import palmtop
from palmtop.errors import CheckpointError
from palmtop.export.adapters.install import add_adapter
from palmtop.export.convert import export_model
from palmtop.export.recipe import Recipe
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.decoding.generation_options import GenerationOptions
from tests.export.families import (
    LINEAR,
    LLAMA3,
    MESSAGES,
    SMALL,
    YARN,
    Family,
    ends,
    logits_of,
    tokenizer,
    write_model,
)
from tests.export.test_phi3 import edit_config
from tests.static.intel_device import register_openvino, tolerance

SHAPES: dict[str, dict[str, Any]] = {
    "as Llama 3.2": {"tie_word_embeddings": True, "rope_parameters": LLAMA3},
    "as Llama 3.1": {"rope_parameters": LLAMA3, "num_key_value_heads": 1},
    "as SmolLM2": {"hidden_size": 72, "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True},
    "wide heads": {"head_dim": 32, "rope_parameters": LLAMA3},
    "narrow heads": {"head_dim": 8, "num_key_value_heads": 4},
    "padded heads": {"head_dim": 12, "rope_parameters": LINEAR},
    "padded heads with biases": {"head_dim": 20, "attention_bias": True, "mlp_bias": True, "rope_parameters": LLAMA3},
    "biases of attention": {"attention_bias": True, "num_key_value_heads": 4},
    "biases of the MLP": {"mlp_bias": True, "tie_word_embeddings": True},
    "all heads": {"num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 1},
    "odd widths": {"hidden_size": 42, "num_attention_heads": 3, "num_key_value_heads": 1, "intermediate_size": 37},
    "three layers": {"num_hidden_layers": 3, "rms_norm_eps": 1e-3, "vocab_size": 544, "rope_parameters": YARN},
}


def write_llama(folder: Path, seed: int, **changes: Any) -> LlamaForCausalLM:
    """Save a random model as transformers 5 does, with a ChatML template, and give it back in float32."""
    return write_model(folder, seed, LlamaForCausalLM(LlamaConfig(**{**SMALL, **ends(), **changes})))


FAMILY = Family(write=write_llama, shapes=SHAPES)


def test_the_comparison_can_tell(tmp_path: Path) -> None:
    """The scaling of long waves and a bias matter: without them the logits are others."""
    sizes = {"attention_bias": True, "rope_parameters": LLAMA3}
    model = write_llama(tmp_path / "checkpoint", 3, **sizes)
    ids = np.random.default_rng(3).integers(0, 480, 80)
    folder = export_model(tmp_path / "checkpoint", tmp_path / "bundle", Recipe(bits=32, context=128))
    found = logits_of(folder, ids, 60)
    plain = LlamaForCausalLM(LlamaConfig(**{**SMALL, "attention_bias": True, "rope_theta": 5000.0})).eval()
    plain.load_state_dict(model.state_dict())
    without = LlamaForCausalLM(LlamaConfig(**{**SMALL, "rope_parameters": LLAMA3})).eval()
    without.load_state_dict(model.state_dict(), strict=False)
    for other in (plain, without):
        with torch.no_grad():
            expected = other(torch.tensor(ids[:-1])[None], use_cache=False).logits[0, 59:].numpy()
        assert np.abs(found - expected).max() > 1e-2 * np.ptp(expected)


def test_the_template_says_what_ends_a_message(tmp_path: Path) -> None:
    """The tokenizer knows <|end|> too, which this template does not use."""
    write_llama(tmp_path / "checkpoint", 1)
    bundle = open_bundle(export_model(tmp_path / "checkpoint", tmp_path / "bundle", Recipe(context=64)))
    words, text = tokenizer(), bundle.manifest.processor.text
    assert text.end_of_turn_id == words.token_to_id("<|im_end|>")
    assert text.eos_ids == (words.token_to_id("<|im_end|>"), words.token_to_id("<|endoftext|>"))
    assert not text.adds_bos


@pytest.mark.parametrize("sizes", [{"tie_word_embeddings": True}, {"attention_bias": True, "mlp_bias": True}])
def test_quantised_bundles_prove_themselves(sizes: dict[str, Any], tmp_path: Path) -> None:
    """``verify`` compares every stored tensor and the logits of packaged questions with the checkpoint's."""
    write_llama(tmp_path / "checkpoint", 3, max_position_embeddings=512, **sizes)
    bundle = export_model(tmp_path / "checkpoint", tmp_path / "bundle", Recipe(context=256), verify=True)
    quality = json.loads((bundle / "quality.json").read_text())
    assert not quality["skipped"] and quality["modes"]["text"]["positions"] > 0


@pytest.mark.parametrize("shape", ["as SmolLM2", "padded heads with biases"])
def test_a_lora_of_separate_projections_can_be_added(shape: str, tmp_path: Path) -> None:
    """PEFT's own model is the reference; a projection without an adapter is among the fused ones."""
    model = write_llama(tmp_path / "checkpoint", 3, **SHAPES[shape])
    folder = export_model(tmp_path / "checkpoint", tmp_path / "bundle", Recipe(bits=32, context=128))
    targets = ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
    torch.manual_seed(0)
    tuned = get_peft_model(model, LoraConfig(r=4, lora_alpha=12, target_modules=targets, init_lora_weights=False))
    tuned.save_pretrained(tmp_path / "mine")
    add_adapter(folder, tmp_path / "mine")
    ids = np.random.default_rng(3).integers(0, 480, 40)
    for gate in (1.0, 0.0):
        with torch.no_grad():
            if gate == 0.0:
                tuned.disable_adapter_layers()
            expected = tuned(input_ids=torch.tensor(ids[:-1])[None], use_cache=False).logits[0, 29:].numpy()
        assert np.abs(logits_of(folder, ids, 30, (gate,)) - expected).max() < 1e-4 * np.ptp(expected), gate


@pytest.mark.parametrize("shape", ["as Llama 3.2", "padded heads with biases"])
def test_openvino_answers_as_the_cpu(shape: str, tmp_path: Path) -> None:
    if not register_openvino():
        pytest.skip("onnxruntime-ep-openvino is not installed: pip install '.[openvino]'")
    write_llama(tmp_path / "checkpoint", 4, **SHAPES[shape])
    recipe = Recipe(accuracy_level=0, target="openvino", context=128, chunk=16)
    folder = export_model(tmp_path / "checkpoint", tmp_path / "bundle", recipe)
    logits = []
    for provider in ("cpu", "openvino"):
        with palmtop.load(folder, provider=provider) as session:
            session.answer(MESSAGES, options=GenerationOptions(max_tokens=1))
            assert session._default is not None
            logits.append(session._default._track.logits())
    assert np.abs(logits[0] - logits[1]).max() <= tolerance() * np.ptp(logits[0])


@pytest.mark.parametrize("shape", ["as Llama 3.1", "padded heads with biases"])
def test_qnn_compiles_it_and_answers(shape: str, tmp_path: Path) -> None:
    """The export itself compares each compiled graph with float32."""
    pytest.importorskip("onnxruntime_qnn", reason="onnxruntime-qnn is not installed: pip install '.[qnn]'")
    write_llama(tmp_path / "checkpoint", 4, **SHAPES[shape])
    recipe = Recipe(context=64, chunk=16, target="qnn", soc="sm8750", bits=8)
    folder = export_model(tmp_path / "checkpoint", tmp_path / "bundle", recipe)
    assert [t.provider for t in open_bundle(folder).manifest.targets] == ["qnn"]
    with palmtop.load(folder, provider="qnn") as session:
        assert session.answer(MESSAGES, options=GenerationOptions(max_tokens=4)).token_ids


def test_what_smollm2_says_besides_changes_nothing(tmp_path: Path) -> None:
    write_llama(tmp_path / "checkpoint", 1)
    edit_config(tmp_path / "checkpoint", lambda c: c.update(is_llama_config=True, rope_interleaved=False))
    export_model(tmp_path / "checkpoint", tmp_path / "bundle", Recipe(context=64))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "activation": ({"hidden_act": "gelu"}, "hidden_act is 'gelu', expected 'silu'"),
    "biases": ({"attention_bias": True}, r"'model\.layers\.0\.self_attn\.\w_proj\.bias' is missing"),
    "window": ({"sliding_window": 16}, "sliding_window is 16, expected None"),
    "part of a head": ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "rotates 8 of a head's 16 dimensions"),
    "layers": ({"num_hidden_layers": 1}, r"'model\.layers\.1\.\S+' has no place in a llama model of 1 layers"),
    "too long": ({"max_position_embeddings": 32}, "max_position_embeddings is 32, expected at least 64"),
    "softcap": ({"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0, expected 0"),
    "interleaved": ({"rope_interleaved": True}, "rope_interleaved is True, expected False"),
    "norm": ({"qk_layernorm": True}, "qk_layernorm is True, expected False"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_graph_does_not_do_is_refused(case: str, tmp_path: Path) -> None:
    changes, message = REFUSED[case]
    write_llama(tmp_path / "checkpoint", 1)
    edit_config(tmp_path / "checkpoint", lambda c: c.update(changes))
    with pytest.raises(CheckpointError, match=message) as raised:
        export_model(tmp_path / "checkpoint", tmp_path / "bundle", Recipe(context=64))
    assert "\n" not in str(raised.value)
