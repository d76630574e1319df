"""Entry of an architecture file in the journey test, and the comparisons that all entries share.

``tests/export/test_<name>.py`` offers ``FAMILY`` for ``export/arch/<name>.py``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

import palmtop
from palmtop.export.measure.onnx_decoder import DecoderPrompt, OnnxDecoder
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.decoding.generation_options import GenerationOptions
from tests.reference.vocabulary import build_tokenizer, write_tokenizer

CHATML = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MESSAGES = [{"role": "user", "content": "what is 12 plus 7?"}]
SMALL = {
    "vocab_size": 517,
    "hidden_size": 64,
    "intermediate_size": 72,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}


@dataclass(frozen=True, kw_only=True)
class Family:
    """How to make a tiny checkpoint of an architecture, and its shapes.

    Attributes:
        write: ``write(folder, seed, **changes)`` saves a checkpoint of random weights and gives back its model in
            float32: transformers' own, or one of equal formulas.
        shapes: changes of the config by name; together they have every multiplier, bias and norm of the architecture.
    """

    write: Callable[..., torch.nn.Module]
    shapes: Mapping[str, dict[str, Any]]


def tokenizer() -> Tokenizer:
    made = build_tokenizer()
    made.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return made


def ends() -> dict[str, int]:
    words = tokenizer()
    return {name: words.token_to_id("<|endoftext|>") for name in ("bos_token_id", "eos_token_id", "pad_token_id")}


def with_random_weights(model: Any, seed: int) -> Any:
    """Fill a model with random weights of a trained one's size, and give it back for evaluation."""
    model = model.eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, tensor in sorted(model.state_dict().items()):
            noise = torch.randn(tensor.shape, generator=generator)
            gain = 4.0 if key.endswith(("embed_tokens.weight", "lm_head.weight")) else 1.0
            values = 1.0 + 0.1 * noise if "norm" in key else noise * gain / math.sqrt(tensor.shape[-1])
            if not (model.config.tie_word_embeddings and key == "lm_head.weight"):
                tensor.copy_(values)
    return model


def add_words(writer: Any, size: int) -> None:
    """Put the tokenizer of these tests into a GGUF file, with unused tokens up to ``size``, and ChatML."""
    words = tokenizer()
    described = json.loads(words.to_str())
    special, count = {t["id"] for t in described["added_tokens"]}, words.get_vocab_size()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([words.id_to_token(i) if i < count else f"[PAD{i}]" for i in range(size)])
    writer.add_token_types([3 if i in special else 1 if i < count else 5 for i in range(size)])
    writer.add_token_merges([" ".join(merge) for merge in described["model"]["merges"]])
    writer.add_eos_token_id(words.token_to_id("<|im_end|>"))
    writer.add_chat_template(CHATML)


def write_model(folder: Path, seed: int, model: Any, template: str = CHATML) -> Any:
    """Save a model with random weights as transformers 5 does, with a ChatML template, and give it back in float32."""
    model = with_random_weights(model, seed)
    model.save_pretrained(folder)
    write_words(folder, template)
    return model


def write_words(folder: Path, template: str = CHATML) -> None:
    write_tokenizer(tokenizer(), folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": template, "eos_token": "<|im_end|>"}))


def expected_logits(model: Any, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """[S, V] of a full forward without cache."""
    with torch.no_grad():
        found: NDArray[np.float32] = model(torch.tensor(ids)[None], use_cache=False).logits[0].numpy()
    return found


def logits_of(folder: Path, ids: NDArray[np.int64], split: int, gates: tuple[float, ...] = ()) -> NDArray[np.float32]:
    """Behind a prompt of ``split`` tokens, then token by token."""
    bundle = open_bundle(folder)
    decoder = bundle.manifest.decoder
    probe = OnnxDecoder(bundle.file("decoder.onnx"), decoder, threads=1)
    empty = np.zeros((1, decoder.hidden_size), np.float32)
    prompt = DecoderPrompt(mode="text", input_ids=ids[:split], media_places=np.zeros(split, np.int64), features=empty)
    is_long = decoder.original_context is not None and len(ids) > decoder.original_context
    found: NDArray[np.float32] = probe.logits(prompt, np.array(gates, np.float32), ids[split:], is_long=is_long)
    return found


def difference(folder: Path, model: Any, tokens: int = 80) -> float:
    """Largest difference of logits as a share of their range, over the last quarter of random ids."""
    ids, split = np.random.default_rng(3).integers(0, 480, tokens), tokens * 3 // 4
    expected = expected_logits(model, ids[:-1])[split - 1 :]
    gates = (0.0,) * len(open_bundle(folder).manifest.adapters)
    return float(np.abs(logits_of(folder, ids, split, gates) - expected).max() / np.ptp(expected))


def greedy(model: Any, ids: list[int], ends: tuple[int, ...], count: int) -> list[int]:
    said: list[int] = []
    while len(said) < count and not (said and said[-1] in ends):
        said.append(int(expected_logits(model, np.array(ids + said))[-1].argmax()))
    return said


def answers_alike(folder: Path, model: Any, count: int = 16) -> bool:
    """Whether a chat's greedy answer is the model's, token for token."""
    with palmtop.load(folder, threads=1) as session:
        prompt = session._processor.prompt(MESSAGES).ids.tolist()
        reply = session.answer(MESSAGES, options=GenerationOptions(max_tokens=count))
    ends = open_bundle(folder).manifest.processor.text.eos_ids
    said = greedy(model, prompt, ends, count)
    assert len(said) > 2
    return list(reply.token_ids) == [i for i in said if i not in ends]
