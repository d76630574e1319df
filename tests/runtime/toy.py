"""A bundle with random weights and every input of the real one: small enough for hundreds of native runs.

One token per byte; LongRoPE switches at 128 tokens; two adapters.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from palmtop.runtime.bundle.genai_config import genai_config
from palmtop.runtime.bundle.manifest import AdapterSpec, DecoderSpec, EncoderSpec, FileSpec, Manifest, PartSpec, Route
from palmtop.runtime.bundle.opening import sha256_of
from palmtop.runtime.bundle.processor_config import DynamicHdSpec, ProcessorSpec, TextSpec
from palmtop.runtime.bundle.states import kv_states
from tests.runtime.phi_specs import PHI_AUDIO

VOCAB, HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_SIZE = 264, 32, 2, 2, 1, 16
ORIGINAL_CONTEXT, CONTEXT = 128, 256
SPECIAL = ("endoftext", "endoftext10", "endoftext11", "system", "user", "assistant", "end", "tool")
END_OF_TEXT, IMAGE, AUDIO, END = (256 + SPECIAL.index(s) for s in ("endoftext", "endoftext10", "endoftext11", "end"))
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def write_toy_bundle(folder: Path, *, seed: int = 0, draft_rows: int = 1, kv_bits: int = 32) -> Path:
    """Write the bundle into ``folder`` and return it; the weights depend on the seed alone."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(_decoder(np.random.default_rng(seed), draft_rows, kv_bits), str(folder / "decoder.onnx"))
    decoder, text = _manifest({}, kv_bits).decoder, _manifest({}).processor.text
    (folder / "genai_config.json").write_text(json.dumps(genai_config(decoder, text)))
    (folder / "tokenizer.json").write_text(_tokenizer().to_str())
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    for name in ("vision.onnx", "audio.onnx"):  # never opened: FakeEncoders stand in
        (folder / name).write_bytes(b"no graph")
    files = {p.name: FileSpec(size_bytes=p.stat().st_size, sha256=sha256_of(p)) for p in sorted(folder.iterdir())}
    manifest = _manifest(files, kv_bits, draft_rows)
    (folder / "bundle.json").write_text(json.dumps(manifest.to_dict()))
    return folder


def _tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([f"<|{name}|>" for name in SPECIAL])
    return tokenizer


def _manifest(files: dict[str, FileSpec], kv_bits: int = 32, draft_rows: int = 1) -> Manifest:
    return Manifest(
        model="toy",
        architecture="phi4mm",
        source_sha256="0" * 64,
        adapter_mode="gated",
        processor=ProcessorSpec(
            text=TextSpec(
                bos_id=END_OF_TEXT,
                eos_ids=(END_OF_TEXT, END),
                end_of_turn_id=END,
                pad_id=END_OF_TEXT,
                adds_bos=False,
                image_placeholder="<|image_{n}|>",
                audio_placeholder="<|audio_{n}|>",
            ),
            image=DynamicHdSpec(
                token_id=IMAGE,
                crop_size=56,
                patch_size=14,
                max_tiles=36,
                mean=(0.5, 0.5, 0.5),
                std=(0.5, 0.5, 0.5),
            ),
            audio=replace(PHI_AUDIO, token_id=AUDIO),
        ),
        decoder=DecoderSpec(
            file="decoder.onnx",
            vocab_size=VOCAB,
            hidden_size=HIDDEN,
            num_layers=LAYERS,
            num_heads=HEADS,
            context_length=CONTEXT,
            original_context=ORIGINAL_CONTEXT,
            sampled_never=(IMAGE, AUDIO),
            draft_rows=draft_rows,
            states=kv_states(range(LAYERS), KV_HEADS, HEAD_SIZE, kv_bits),
        ),
        vision=EncoderSpec(file="vision.onnx", bytes_per_item=1000),
        audio=EncoderSpec(file="audio.onnx", bytes_per_item=1000),
        adapters=(
            AdapterSpec(name="vision", rank=4, alpha=8.0, gate=0, base_sha256="0" * 64),
            AdapterSpec(name="speech", rank=4, alpha=8.0, gate=1, base_sha256="0" * 64),
        ),
        routes={
            "text": Route(adapters={}, audio_projector="speech"),
            "image": Route(adapters={"vision": 1.0}, audio_projector="speech"),
            "audio": Route(adapters={"speech": 1.0}, audio_projector="speech"),
            "image+audio": Route(adapters={"vision": 1.0}, audio_projector="vision"),
        },
        parts=(PartSpec(name="decoder linears", bits=32, group=None, parameters=1000, size_bytes=4000),),
        recipe={"bits": 32},
        files=files,
        palmtop="0.1.0",
    )


class FakeEncoders:
    """Feature rows drawn from the content, and a count of how often each kind was encoded."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def encode_image(self, tiles: Any, *, should_stop: Callable[[], bool] | None = None) -> NDArray[np.float32]:
        self.calls.append("image")
        return _rows_from(tiles.pixels, tiles.rows)

    def encode_audio(
        self,
        sound: Any,
        vision_projector: bool,
        *,
        should_stop: Callable[[], bool] | None = None,
    ) -> NDArray[np.float32]:
        self.calls.append("audio:vision" if vision_projector else "audio:speech")
        return _rows_from(sound.frames, -(-len(sound.frames) // 8)) * (2 if vision_projector else 1)

    def close(self) -> None:
        self.calls.append("close")


def _rows_from(content: NDArray[np.float32], rows: int) -> NDArray[np.float32]:
    seed = int.from_bytes(hashlib.sha256(content.tobytes()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal((rows, HIDDEN)).astype(np.float32)


class _Graph:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def const(self, array: NDArray[np.generic]) -> str:
        name = f"c{len(self.weights)}"
        self.weights.append(nh.from_array(np.ascontiguousarray(array), name))
        return name

    def op(self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> str:
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(h.make_node(kind, list(inputs), names, domain=domain, **attributes))
        return names[0]


def _decoder(rng: np.random.Generator, draft_rows: int, kv_bits: int) -> onnx.ModelProto:
    g = _Graph()
    cache: dict[str, Any] = {
        "k_quant_type": "PER_CHANNEL",
        "v_quant_type": "PER_CHANNEL",
        "kv_cache_bit_width": kv_bits,
    }
    kind = {32: T.FLOAT, 8: T.INT8, 4: T.UINT8}[kv_bits]

    def weight(*shape: int) -> str:
        return g.const((rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32))

    one, zero = g.const(np.array([1])), g.const(np.array([0]))
    total = g.op("ReduceSum", "attention_mask", one, keepdims=0)  # [B]
    length = g.op("Gather", g.op("Shape", "input_ids"), one)  # [1]
    # onnxruntime 1.31.1 fuses Gather of a bare Range into a Slice that fails at run time: add the start to it
    count = g.op("Range", g.const(np.array(0)), g.op("Squeeze", length, zero), g.const(np.array(1)))
    places = g.op("Add", count, g.op("Sub", total, length))
    row = g.op("Gather", "media_index", places)  # [S]
    media = g.op("Gather", "media_features", g.op("Max", g.op("Sub", row, one), zero))  # [S, H]
    is_media = g.op("Unsqueeze", g.op("Greater", row, zero), g.const(np.array([0, 2])))
    text = g.op("Gather", g.const(rng.standard_normal((VOCAB, HIDDEN)).astype(np.float32)), "input_ids")
    x = g.op("Where", is_media, g.op("Unsqueeze", media, zero), text)
    seqlens = g.op("Cast", g.op("Sub", total, one), to=T.INT32)
    mask_length = g.op("Gather", g.op("Shape", "attention_mask"), g.const(np.array(1)))
    total_length = g.op("Cast", mask_length, to=T.INT32)
    angles = np.arange(CONTEXT)[:, None] / 10000 ** (np.arange(HEAD_SIZE // 2) / (HEAD_SIZE // 2))
    cos, sin = (
        g.op(
            "Where",
            "rope_long",
            g.const(f(angles / 3).astype(np.float32)),
            g.const(f(angles).astype(np.float32)),
        )
        for f in (np.cos, np.sin)
    )
    for layer in range(LAYERS):
        width = (HEADS + 2 * KV_HEADS) * HEAD_SIZE
        qkv = g.op("MatMul", x, weight(HIDDEN, width))
        for gate in range(2):
            strength = g.op("Gather", "adapter_gates", g.const(np.array(gate)))
            qkv = g.op("Add", qkv, g.op("Mul", strength, g.op("MatMul", x, weight(HIDDEN, width))))
        name = f"past_key_values.{layer}"
        attended = f"attended{layer}"
        scale = np.full((KV_HEADS, HEAD_SIZE), 16 / (1 << kv_bits) if kv_bits < 32 else 0, np.float32)
        scales = ["", "", "", g.const(scale), g.const(scale)] if kv_bits < 32 else []
        g.nodes.append(
            h.make_node(
                "GroupQueryAttention",
                [qkv, "", "", f"{name}.key", f"{name}.value", seqlens, total_length, cos, sin, *scales],
                [attended, f"present.{layer}.key", f"present.{layer}.value"],
                domain="com.microsoft",
                num_heads=HEADS,
                kv_num_heads=KV_HEADS,
                do_rotary=1,
                **(cache if kv_bits < 32 else {}),
            )
        )
        x = g.op("Add", x, g.op("MatMul", attended, weight(HEADS * HEAD_SIZE, HIDDEN)))
    final = g.op("Sub", length, one)
    last = g.op("Gather", x, final, axis=1)  # [B, 1, H]
    g.nodes.append(h.make_node("MatMul", [last, weight(HIDDEN, VOCAB)], ["logits"]))
    kv: list[str | int | None] = ["B", KV_HEADS, "P", HEAD_SIZE // 2 if kv_bits == 4 else HEAD_SIZE]
    info = h.make_tensor_value_info
    inputs = [
        info("input_ids", T.INT64, ["B", "S"]),
        info("attention_mask", T.INT64, ["B", "T"]),
        info("media_index", T.INT64, ["L"]),
        info("media_features", T.FLOAT, ["M", HIDDEN]),
        info("adapter_gates", T.FLOAT, [2]),
        info("rope_long", T.BOOL, [1]),
    ]
    outputs = [info("logits", T.FLOAT, ["B", 1, VOCAB])]
    if draft_rows > 1:  # every position here, however long the step; the exporter's graph is tested with it
        outputs.append(info("draft_logits", T.FLOAT, ["B", "S", VOCAB]))
        g.nodes.append(h.make_node("MatMul", [x, g.nodes[-1].input[1]], ["draft_logits"]))
    for layer in range(LAYERS):
        inputs += [info(f"past_key_values.{layer}.{part}", kind, kv) for part in ("key", "value")]
        outputs += [info(f"present.{layer}.{part}", kind, kv) for part in ("key", "value")]
    graph = h.make_graph(g.nodes, "toy", inputs, outputs, g.weights)
    opsets = [h.make_opsetid("", 17), h.make_opsetid("com.microsoft", 1)]
    return h.make_model(graph, opset_imports=opsets, ir_version=10)
