"""GGUF files of the architecture ``llama``: the model, its grids and its vocabularies, against transformers."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import Tokenizer

from palmtop.errors import CheckpointError
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.checkpoint.gguf.checkpoint import GgufCheckpoint
from palmtop.export.checkpoint.gguf.grids import coded
from palmtop.export.checkpoint.gguf.tokenizer import adds_bos, tokenizer_json
from palmtop.export.convert import export_model
from palmtop.export.recipe import Recipe
from palmtop.quantize.rtn import dequantize
from palmtop.quantize.scheme import Scheme
from tests.export.families import LINEAR, LLAMA3, add_words, logits_of
from tests.export.test_llama import SHAPES, write_llama

KINDS = gguf.GGMLQuantizationType
NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def gguf_name(name: str) -> str:
    module, _, kind = name.rpartition(".")
    if module in TOP:
        return f"{TOP[module]}.{kind}"
    _, _, layer, rest = module.split(".", 3)
    return f"blk.{layer}.{NAMES[rest]}.{kind}"


def interleaved(array: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """As llama.cpp's converter permutes query and key rows (``LlamaModel.permute``)."""
    return array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


def write_gguf(folder: Path, path: Path, kind: str = "F32", **metadata: Any) -> Path:
    """The GGUF of a checkpoint folder that transformers wrote, as llama.cpp's converter would write it."""
    checkpoint = Checkpoint(folder)
    config = checkpoint.config
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head, rope = config["head_dim"], config["rope_parameters"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(rope, head))
    for key, value in metadata.items():
        (writer.add_string if isinstance(value, str) else writer.add_float32)(key, value)
    add_words(writer, config["vocab_size"])
    for name in checkpoint.names:
        array = checkpoint.weight(name).array()
        if ".q_proj." in name or ".k_proj." in name:
            array = interleaved(array, heads if ".q_proj." in name else kv_heads)
        if array.ndim == 1 or kind == "F32":
            writer.add_tensor(gguf_name(name), np.ascontiguousarray(array, np.float32))
        else:
            writer.add_tensor(gguf_name(name), gguf.quants.quantize(array, KINDS[kind]), raw_dtype=KINDS[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def llama3_factors(rope: dict[str, Any], head: int) -> NDArray[np.float32]:
    """As llama.cpp's converter computes them (``LlamaModel.generate_extra_tensors``)."""
    factors = []
    low, high = (rope["original_max_position_embeddings"] / rope[f"{end}_freq_factor"] for end in ("low", "high"))
    for i in range(0, head, 2):
        wave = 2 * np.pi * rope["rope_theta"] ** (i / head)
        if wave < high:
            factors.append(1.0)
        elif wave > low:
            factors.append(rope["factor"])
        else:
            smooth = (rope["original_max_position_embeddings"] / wave - rope["low_freq_factor"]) / (
                rope["high_freq_factor"] - rope["low_freq_factor"]
            )
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, np.float32)


@pytest.mark.parametrize(
    "shape",
    ["as Llama 3.2", "as SmolLM2", "wide heads", "padded heads", "padded heads with biases", "biases of the MLP"],
)
def test_a_file_matches_transformers(shape: str, tmp_path: Path) -> None:
    model = write_llama(tmp_path / "checkpoint", 5, **SHAPES[shape])
    file = write_gguf(tmp_path / "checkpoint", tmp_path / "model.gguf")
    bundle = export_model(file, tmp_path / "bundle", Recipe(bits=32, context=128))
    ids = np.random.default_rng(5).integers(0, 480, 60)
    with torch.no_grad():
        expected = model(torch.from_numpy(ids)[None]).logits[0].numpy()
    found = logits_of(bundle, ids, 40)
    assert np.abs(found - expected[39:-1]).max() <= 1e-3 * np.ptp(expected)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("kind", "bits"), [("Q4_0", 4), ("Q8_0", 8)])
def test_a_grid_that_fits_is_kept_bit_for_bit(kind: str, bits: int, symmetric: bool, tmp_path: Path) -> None:
    """Stacked and un-permuted on the way; compared with the package's own dequantisation."""
    wide = {"hidden_size": 96, "intermediate_size": 160, "num_attention_heads": 6, "num_key_value_heads": 3}
    write_llama(tmp_path / "checkpoint", 6, **wide)
    file = GgufCheckpoint(write_gguf(tmp_path / "checkpoint", tmp_path / "model.gguf", kind))
    scheme = Scheme(bits=bits, group=32, symmetric=symmetric)
    for name in file.names:
        weight = file.weight(name)
        if len(weight.shape) == 2:
            assert weight.coded is not None
            for start, stop in ((0, weight.shape[0]), (3, 40)):
                kept = weight.coded(start, stop, scheme)
                assert kept is not None
                np.testing.assert_array_equal(dequantize(kept), weight.rows(start, stop))
                assert weight.coded(start, stop, Scheme(bits=bits, group=64, symmetric=symmetric)) is None
    recipes = Recipe(bits=32, context=256), Recipe(bits=bits, symmetric=symmetric, context=256, accuracy_level=0)
    bundles = [export_model(file.path, tmp_path / f"b{r.bits}", r, verify=r.bits < 32) for r in recipes]
    ids = np.random.default_rng(6).integers(0, 480, 40)
    found, expected = logits_of(bundles[1], ids, 20), logits_of(bundles[0], ids, 20)
    assert np.abs(found - expected).max() <= 1e-4 * np.ptp(expected)  # two kernels of the same weights


def test_what_is_rounded_once_more_is_said(tmp_path: Path) -> None:
    write_llama(tmp_path / "checkpoint", 6, hidden_size=96, intermediate_size=160, num_hidden_layers=1)
    file = write_gguf(tmp_path / "checkpoint", tmp_path / "model.gguf", "Q4_0")
    said: dict[int, list[str]] = {group: [] for group in (32, 64)}
    for group, notes in said.items():
        export_model(file, tmp_path / f"b{group}", Recipe(context=64, group=group), on_note=notes.append)
    assert said[32] == []
    assert len(said[64]) == 1
    assert "9 of its 9 quantised matrices are rounded once more (9 in Q4_0)" in said[64][0]


def q4_1(scales: list[float], least: list[float]) -> NDArray[np.uint8]:
    """[1, ...] bytes of blocks with codes 0..15 twice."""
    halves = np.arange(16, dtype=np.uint8)
    blocks = [
        np.concatenate([np.array([d, m], np.float16).view(np.uint8), halves | halves << 4])
        for d, m in zip(scales, least, strict=True)
    ]
    return np.concatenate(blocks)[None]


def test_q4_1_is_kept_only_where_its_least_value_is_a_whole_number_of_steps() -> None:
    scheme = Scheme(bits=4, group=32)
    raw = q4_1([0.5, -0.25, 0.0], [-3.5, 1.0, 0.0])
    kept = coded(raw, KINDS.Q4_1, 96, scheme)
    assert kept is not None
    np.testing.assert_array_equal(dequantize(kept), gguf.quants.dequantize(raw, KINDS.Q4_1))
    for least in (-3.25, 0.5, -8.0):  # between two steps; above zero; sixteen steps
        assert coded(q4_1([0.5], [least]), KINDS.Q4_1, 32, scheme) is None
    assert coded(raw, KINDS.Q4_1, 96, Scheme(bits=4, group=32, symmetric=True)) is None


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"llama.logit_scale": 0.5}, r"metadata key 'llama\.logit_scale' is 0\.5, expected none: it is not read"),
        ({"llama.expert_count": 8.0}, r"metadata key 'llama\.expert_count' is 8\.0"),
        ({"llama.rope.scaling.type": "ntk", "llama.rope.scaling.factor": 4.0}, r"type 'ntk' with factor 4"),
        ({"llama.rope.scaling.factor": 4.0}, r"of type None with factor 4"),
        ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}, "beside other rotary scaling"),
        ({"general.type": "adapter"}, "general.type is 'adapter', expected 'model'"),
    ],
)
def test_metadata_that_would_change_the_model_is_refused(
    metadata: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write_llama(tmp_path / "checkpoint", 3, rope_parameters=LLAMA3)
    with pytest.raises(CheckpointError, match=message):
        GgufCheckpoint(write_gguf(tmp_path / "checkpoint", tmp_path / "model.gguf", **metadata))


def test_linear_scaling_and_its_old_spelling_are_one(tmp_path: Path) -> None:
    write_llama(tmp_path / "linear", 3, rope_parameters=LINEAR)
    write_llama(tmp_path / "plain", 3)
    new = GgufCheckpoint(write_gguf(tmp_path / "linear", tmp_path / "new.gguf"))
    old = GgufCheckpoint(write_gguf(tmp_path / "plain", tmp_path / "old.gguf", **{"llama.rope.scale_linear": 2.5}))
    assert new.config["rope_scaling"] == old.config["rope_scaling"] == {"type": "linear", "factor": 2.5}


WORDS = ["▁", "a", "b", "c", "ab", "▁a", "bc", "abc", "▁ab", "ca", "aa", "▁b", "cab", "▁abc", "é"]


def sentencepiece() -> dict[str, Any]:
    """A toy vocabulary as converters write it: control tokens, bytes, then pieces with falling scores."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *WORDS, "<|user|>"]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 259 + [-float(i) for i in range(len(WORDS))] + [-1000.0],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(WORDS) + [4],
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def by_scores(text: str) -> list[str]:
    """SentencePiece's rule: of all neighbours merge those whose piece has the highest score, the leftmost first."""
    score = {word: -i for i, word in enumerate(WORDS)}
    parts = list("▁" + text.replace(" ", "▁"))
    while True:
        pairs = [(score[a + b], -i) for i, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in score]
        if not pairs:
            return parts
        i = -max(pairs)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.text("abc é☃", min_size=1, max_size=12))
def test_sentencepiece_merges_by_score(text: str) -> None:
    made = Tokenizer.from_str(json.dumps(tokenizer_json(sentencepiece(), Path("model.gguf"))))
    tokens = sentencepiece()["tokenizer.ggml.tokens"]
    expected: list[int] = []
    for part in by_scores(text):
        spelled = [part] if part in WORDS else [f"<0x{byte:02X}>" for byte in part.encode()]
        expected += [tokens.index(each) for each in spelled]
    assert made.encode(text, add_special_tokens=False).ids == expected
    assert made.decode(expected) == text
    assert made.encode(f"{text}<|user|>", add_special_tokens=False).ids[-1] == len(tokens) - 1


def test_bos_is_added_as_the_file_says() -> None:
    assert adds_bos(sentencepiece())
    assert not adds_bos({**sentencepiece(), "tokenizer.ggml.add_bos_token": False})
    assert not adds_bos({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm"})
    assert adds_bos({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "llama-bpe"})


def test_digits_are_split_one_by_one_for_smollm() -> None:
    from tests.export.test_gguf import vocabulary

    made = Tokenizer.from_str(json.dumps(tokenizer_json({**vocabulary(), "tokenizer.ggml.pre": "smollm"}, Path("f"))))
    assert made.pre_tokenizer is not None
    pieces = [piece for piece, _ in made.pre_tokenizer.pre_tokenize_str("it's 2024 now!")]
    assert pieces == ["it", "'s", "Ġ", "2", "0", "2", "4", "Ġnow", "!"]
