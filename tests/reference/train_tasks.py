"""Train one LoRA with PEFT for each task of ``task_adapters`` on the frozen reference model.

    python -m tests.reference.train_tasks            # writes runtime/reference/adapters/{sort,next,vowels}

A few minutes each on one core. What is written is what PEFT's ``save_pretrained`` writes, in bfloat16.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from palmtop.runtime.reference import adapters_path, checkpoint_path
from tests.reference.learning import Group, Prompts, logger, train
from tests.reference.plain import language_targets, plain_port
from tests.reference.task_adapters import TASKS, draw
from tests.reference.train_text import text_loss

RANK, ALPHA = 8, 16
BATCH, STEPS, LEARNING_RATE = 24, 450, 4e-3


def train_task(name: str, target: Path, *, steps: int = STEPS, seed: int = 0) -> float:
    """Train one adapter and write its PEFT folder; gives the share of held-out tasks without a mistake."""
    torch.manual_seed(seed)
    tokenizer = Tokenizer.from_file(str(checkpoint_path() / "tokenizer.json"))
    prompts = Prompts(tokenizer)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=language_targets(), lora_dropout=0.0)
    wrapped = get_peft_model(plain_port(checkpoint_path()), config)
    model = wrapped.get_base_model()
    rng = np.random.default_rng(seed)

    def step_loss(step: int) -> tuple[Tensor, float]:
        return text_loss(model, prompts, [draw(name, rng, held_out=False) for _ in range(BATCH)])

    parameters = [p for p in wrapped.parameters() if p.requires_grad]
    train(name, [Group(parameters, lr=LEARNING_RATE)], step_loss, steps=steps, warmup=40, weight_decay=0.0)
    held = [draw(name, np.random.default_rng(10**6 + n), held_out=True) for n in range(400)]
    with torch.no_grad():
        loss, right = text_loss(model, prompts, held)
    logger.info("%s: held-out (teacher forced) loss %.4f right %.3f", name, loss.item(), right)
    wrapped.save_pretrained(target)
    (target / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    tensors = target / "adapter_model.safetensors"
    half = {key: value.to(torch.bfloat16).contiguous() for key, value in load_file(tensors).items()}
    save_file(half, tensors, metadata={"format": "pt"})
    return right


def main() -> None:
    """Train all tasks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=adapters_path())
    parser.add_argument("--task", choices=list(TASKS), action="append", help="only this one; repeatable")
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for name in arguments.task or TASKS:
        train_task(name, arguments.out / name, steps=arguments.steps)


if __name__ == "__main__":
    main()
