"""GGUF checkpoints: the bundle that safetensors give, the same tokens, the trained model's answers, and bad files."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import unicodedata
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import Tokenizer

import palmtop
from palmtop.errors import CheckpointError, InputError, UnsupportedModelError
from palmtop.export.arch.phi4mm import read_model
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.checkpoint.gguf.byte_level import O200K
from palmtop.export.checkpoint.gguf.checkpoint import GgufCheckpoint
from palmtop.export.checkpoint.gguf.place import GgufSlice
from palmtop.export.checkpoint.gguf.tokenizer import tokenizer_json
from palmtop.export.checkpoint.opening import open_checkpoint
from palmtop.export.checkpoint.safetensors_reader import SafetensorsReader
from palmtop.export.checkpoint.tensor_slice import file_mark
from palmtop.export.convert import export_model
from palmtop.export.recipe import Recipe
from palmtop.runtime.reference import checkpoint_path
from palmtop.runtime.reference.heldout import held_out_items
from tests.export.test_phi3 import longrope, write_phi3
from tests.reference.vocabulary import CHAT_TEMPLATE, build_tokenizer

GGUF_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
F32, Q8_0 = gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.Q8_0


def gguf_name(name: str) -> str:
    name = name.removeprefix("model.").removesuffix(".weight")
    if not name.startswith("layers."):
        return {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}[name] + ".weight"
    _, layer, rest = name.split(".", 2)
    return f"blk.{layer}.{GGUF_NAMES[rest]}.weight"


def write_gguf(
    path: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, NDArray[np.float32]],
    kind: gguf.GGMLQuantizationType = F32,
    **changes: Any,
) -> Path:
    """A file as llama.cpp's converter writes it: metadata of a Phi3Config, tensors in one type, vectors in float32."""
    writer = gguf.GGUFWriter(path, changes.pop("architecture", "phi3"))
    writer.add_name("a-name")
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_rope_scaling_orig_ctx_len(config["original_max_position_embeddings"])
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(int(config["partial_rotary_factor"] * hidden) // heads)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_sliding_window(config.get("sliding_window") or 0)
    for key, value in changes.pop("metadata", {}).items():
        (writer.add_string if isinstance(value, str) else writer.add_float32)(f"phi3.{key}", value)
    scaling = config.get("rope_scaling")
    if scaling is not None:
        writer.add_rope_scaling_attn_factors(changes.pop("attn_factor"))
        for side in ("long", "short"):
            factors = np.array(scaling[f"{side}_factor"], np.float32)
            writer.add_tensor(f"rope_factors_{side}.weight", factors)
    write_vocabulary(writer, config["vocab_size"], **changes)
    for name, array in tensors.items():
        if array.ndim == 1 or kind == F32:
            writer.add_tensor(gguf_name(name), np.ascontiguousarray(array, np.float32))
        else:
            writer.add_tensor(gguf_name(name), gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_vocabulary(writer: gguf.GGUFWriter, size: int, *, model: str = "gpt2", pre: str = "qwen2") -> None:
    tokenizer = build_tokenizer()
    described = json.loads(tokenizer.to_str())
    special = {t["id"] for t in described["added_tokens"]}
    count = tokenizer.get_vocab_size()
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([tokenizer.id_to_token(i) if i < count else f"[PAD{i}]" for i in range(size)])
    writer.add_token_types([3 if i in special else 1 if i < count else 5 for i in range(size)])
    writer.add_token_merges([" ".join(merge) for merge in described["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.token_to_id("<|endoftext|>"))
    writer.add_bos_token_id(tokenizer.token_to_id("<|endoftext|>"))
    writer.add_pad_token_id(tokenizer.token_to_id("<|endoftext|>"))
    writer.add_chat_template(CHAT_TEMPLATE)


def from_phi3(folder: Path, path: Path, **changes: Any) -> Path:
    """The GGUF of a checkpoint folder that transformers wrote."""
    checkpoint = Checkpoint(folder)
    rope = checkpoint.config["rope_parameters"]
    config = {**checkpoint.config, **{k: rope[k] for k in ("rope_theta", "partial_rotary_factor") if k in rope}}
    config.setdefault("partial_rotary_factor", 1.0)
    if rope["rope_type"] == "longrope":
        config["rope_scaling"] = {k: rope[k] for k in ("long_factor", "short_factor")}
    return write_gguf(path, config, {n: checkpoint.weight(n).array() for n in checkpoint.names}, **changes)


def reference_gguf(path: Path, kind: gguf.GGMLQuantizationType) -> Path:
    """The trained reference model's text backbone, as llama.cpp's converter would leave it without the adapters."""
    checkpoint = Checkpoint(checkpoint_path())
    weights = read_model(checkpoint).weights
    layers = range(checkpoint.config["num_hidden_layers"])
    names = ["embed_tokens", "norm", *(f"layers.{i}.{name}" for i in layers for name in GGUF_NAMES)]
    tensors = {f"model.{n}.weight": weights.find(f"{n}.weight").array() for n in names}
    config = {**checkpoint.config, "sliding_window": 0}
    return write_gguf(path, config, tensors, kind, attn_factor=float(np.sqrt(1 + np.log(32) / np.log(4096))))


@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("is_long", [False, True])
def test_the_bundle_is_that_of_the_safetensors(is_tied: bool, is_long: bool, tmp_path: Path) -> None:
    rope = (
        longrope(5, partial_rotary_factor=0.75, factor=4.0) if is_long else {"rope_type": "default", "rope_theta": 5e2}
    )
    changes = {"rope_parameters": rope, "tie_word_embeddings": is_tied, "original_max_position_embeddings": 64}
    write_phi3(tmp_path / "folder", 3, sliding_window=40, **changes)
    factor = {"attn_factor": float(np.sqrt(1 + np.log(4) / np.log(64)))} if is_long else {}
    file = from_phi3(tmp_path / "folder", tmp_path / "model.gguf", **factor)
    bundles = [
        export_model(source, tmp_path / name, Recipe(context=64))
        for source, name in ((tmp_path / "folder", "a"), (file, "b"))
    ]
    weights = [(bundle / "weights" / "decoder.bin").read_bytes() for bundle in bundles]
    assert weights[0] == weights[1]
    sessions = [palmtop.load(bundle) for bundle in bundles]
    ask = [{"role": "user", "content": "the same words"}]
    answers = [session.answer(ask, max_tokens=12).text for session in sessions]
    assert answers[0] == answers[1]
    for session in sessions:
        session.close()


def test_the_trained_model_answers_from_a_quantised_file(tmp_path: Path) -> None:
    bundle = export_model(reference_gguf(tmp_path / "reference.gguf", Q8_0), tmp_path / "bundle", verify=True)
    items = list(held_out_items("text", 40, seed=3))
    with palmtop.load(bundle) as session:
        right = sum(session.answer(item.messages, max_tokens=24).text.strip() == item.expected for item in items)
    assert right >= 36


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.text(max_size=40))
def test_tokens_are_those_of_the_model(text: str) -> None:
    text = unicodedata.normalize("NFC", text)  # as Qwen's own tokenizer does
    own = build_tokenizer()
    made = Tokenizer.from_str(json.dumps(tokenizer_json(vocabulary(), Path("model.gguf"))))
    for words in (text, f"<|user|>{text}<|end|>", "It's 12:30, I'll go  now\n\n"):
        assert made.encode(words, add_special_tokens=False).ids == own.encode(words, add_special_tokens=False).ids
    assert made.decode(own.encode(text).ids) == own.decode(own.encode(text).ids)


def vocabulary() -> dict[str, Any]:
    described = json.loads(build_tokenizer().to_str())
    special = {t["id"]: t["content"] for t in described["added_tokens"]}
    plain = {i: token for token, i in described["model"]["vocab"].items()}
    tokens = [text for _, text in sorted({**plain, **special}.items())]
    tokens += [f"[PAD{i}]" for i in range(len(tokens), 517)]  # a table of padded size, as converters write it
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if i in special else 1 if i < 493 else 5 for i in range(len(tokens))],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in described["model"]["merges"]],
    }


def test_the_split_of_phi_4_keeps_words_and_threes_of_digits_together() -> None:
    from tokenizers import Regex, pre_tokenizers

    split = pre_tokenizers.Split(Regex(O200K), behavior="isolated")
    pieces = [piece for piece, _ in split.pre_tokenize_str("He'll PAY $12345 forHTMLPages\n  now/")]
    assert pieces == ["He'll", " PAY", " $", "123", "45", " for", "HTMLPages", "\n", " ", " now", "/"]


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q4_K", "Q5_K", "Q6_K", "Q3_K"])
def test_rows_are_those_of_the_whole(kind: str, tmp_path: Path) -> None:
    """K-quants cannot be written by the package, so their bytes are drawn: every byte means something but scales."""
    file = tmp_path / "model.gguf"
    place = GgufSlice(file, 7, gguf.GGMLQuantizationType[kind], (6, 512), (0, 0, 0))
    rng = np.random.default_rng(0)
    if kind in ("Q4_K", "Q5_K", "Q6_K", "Q3_K"):
        data = rng.integers(0, 60, (6, place.row_bytes), np.uint8)  # as float16 scales: small and finite
    else:
        data = gguf.quants.quantize(rng.standard_normal((6, 512)).astype(np.float32), place.kind)
    raw = np.ascontiguousarray(data).view(np.uint8)
    file.write_bytes(b"1234567" + raw.tobytes())
    weight = SafetensorsReader(file, {"w": replace(place, mark=file_mark(file))}).weight("w")
    whole = gguf.quants.dequantize(data, place.kind)
    assert weight.array().shape == (6, 512)
    np.testing.assert_array_equal(weight.array(), whole)
    np.testing.assert_array_equal(weight.rows(2, 5), whole[2:5])


def test_the_hash_is_of_every_byte(tmp_path: Path) -> None:
    file = small(tmp_path)
    before = GgufCheckpoint(file).sha256()
    data = bytearray(file.read_bytes())
    data[-40] ^= 1
    file.write_bytes(data)
    assert GgufCheckpoint(file).sha256() != before


def small(tmp_path: Path, **changes: Any) -> Path:
    if not (tmp_path / "folder").exists():
        write_phi3(tmp_path / "folder", 3, num_hidden_layers=1)
    return from_phi3(tmp_path / "folder", tmp_path / "model.gguf", **changes)


def test_a_tokenizer_beside_the_file_is_taken_if_it_is_the_models(tmp_path: Path) -> None:
    file = small(tmp_path, model="bert", pre="default")
    with pytest.raises(
        CheckpointError, match="its tokenizer is 'bert' split as 'default', expected 'llama', or 'gpt2'"
    ):
        open_checkpoint(file)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tmp_path / "folder" / name).read_bytes())
    assert palmtop.load(export_model(file, tmp_path / "bundle", Recipe(context=64))) is not None
    other = json.loads((tmp_path / "tokenizer.json").read_text())
    other["model"]["vocab"] = {token: (i + 100) % 480 for token, i in other["model"]["vocab"].items()}
    (tmp_path / "tokenizer.json").write_text(json.dumps(other))
    with pytest.raises(CheckpointError, match=r"of its \d+ tokens are those of model.gguf"):
        open_checkpoint(file)


def test_other_architectures_and_parts_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"general\.architecture is 'bert', expected one of llama, qwen2,"):
        open_checkpoint(small(tmp_path, architecture="bert"))


def test_a_folder_of_such_files_is_told_from_a_checkpoint(tmp_path: Path) -> None:
    small(tmp_path)
    with pytest.raises(CheckpointError, match=r"folder with GGUF files, expected one of them, such as .*model\.gguf"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.00001, 0.001, 0.05, 0.3, 0.9])
def test_a_truncated_file_is_named(share: float, tmp_path: Path) -> None:
    file = small(tmp_path)
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match=r"model\.gguf: is truncated"):
        open_checkpoint(file)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4))
def test_mutated_headers_never_crash(changes: list[tuple[float, int]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "model.gguf"
        data = bytearray(small_bytes())
        for where, value in changes:
            data[int(where * 24000)] = value
        file.write_bytes(data)
        with contextlib.suppress(CheckpointError, UnsupportedModelError):
            open_checkpoint(file)


@functools.cache
def small_bytes() -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        return small(Path(temporary)).read_bytes()


def test_without_the_package_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "palmtop.export.checkpoint.gguf.checkpoint", None)
    with pytest.raises(InputError, match=r"pip install .*'gguf>=[\d.]+'"):
        open_checkpoint(tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"logit_scale": 0.5}, r"metadata key 'phi3\.logit_scale' is 0\.5, expected none: it is not read"),
        (
            {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
            r"rope\.scaling is of type 'linear' with factor 4",
        ),
        (
            {"rope.scaling.attn_factor": 1.25},
            r"rope\.scaling\.attn_factor is 1\.25, expected the factors rope_factors_s",
        ),
        ({"attention.value_length": 7.0}, r"attention\.value_length is 7\.0, expected"),
    ],
)
def test_metadata_that_nothing_reads_is_refused(metadata: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(small(tmp_path, metadata=metadata))
