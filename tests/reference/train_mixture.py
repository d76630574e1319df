"""Train the text tasks as a small mixture of experts: ``python -m tests.reference.train_mixture --out DIR``.

A ``phimoe`` of 16 experts, of which each token meets two, so that a wrong routing gives wrong answers. About five
minutes of a processor; the checkpoint is for tests only.
"""

from __future__ import annotations

import argparse
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PhimoeConfig, PhimoeForCausalLM

from palmtop.runtime.reference.text_tasks import draw_task
from tests.reference.learning import Group, Prompts, logger, train
from tests.reference.train_text import text_loss
from tests.reference.vocabulary import build_tokenizer, token_ids, write_tokenizer

BATCH, STEPS = 32, 600
SIZES: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 16,
    "max_position_embeddings": 4096,
    "sliding_window": 2047,
    "attention_bias": True,
    "lm_head_bias": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
HEAD_DIM = 40  # as in Phi-tiny-MoE not the quotient of the other two


def mixture(seed: int) -> PhimoeForCausalLM:
    """An untrained model with fan-in scaled weights."""
    ids = token_ids(build_tokenizer())
    config = PhimoeConfig(**SIZES, bos_token_id=None, eos_token_id=ids["<|end|>"], pad_token_id=ids["<|endoftext|>"])
    config.head_dim = HEAD_DIM
    config._experts_implementation = "eager"
    model = PhimoeForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.dim() >= 2:
                std = 0.05 if "embed_tokens" in name else 1 / math.sqrt(tensor.shape[-1])
                std *= 0.35 if name.endswith(("o_proj.weight", "down_proj")) else 1.0
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * std)
    return model


def learn(model: PhimoeForCausalLM, seed: int, steps: int) -> None:
    """Train all weights, routing as in training, and log the share of held-out tasks that are right."""
    prompts, rng = Prompts(build_tokenizer()), np.random.default_rng(seed)
    torch.manual_seed(seed)  # the routing in training is sampled
    model.train()

    def step_loss(step: int) -> tuple[Tensor, float]:
        return text_loss(model, prompts, [draw_task(rng, held_out=False)[1:] for _ in range(BATCH)])

    def check() -> None:
        model.eval()
        held = [draw_task(np.random.default_rng(10**6 + n), held_out=True)[1:] for n in range(200)]
        with torch.no_grad():
            loss, right = text_loss(model, prompts, held)
        logger.info("mixture held-out loss %.4f right %.3f", loss.item(), right)
        model.train()

    train("mixture", [Group(list(model.parameters()), lr=3e-3, muon=True)], step_loss, steps=steps, on_pause=check)
    check()
    model.eval()


def write(model: PhimoeForCausalLM, folder: Path) -> None:
    """Save in bfloat16, the names of the published files, with tokenizer and chat template."""
    model.to(torch.bfloat16).save_pretrained(folder)
    write_tokenizer(build_tokenizer(), folder)


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("mixture"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)  # its matrices are small
    model = mixture(arguments.seed)
    learn(model, arguments.seed, arguments.steps)
    write(model, arguments.out)


if __name__ == "__main__":
    main()
