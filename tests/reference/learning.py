"""What all training stages share: fresh model, prompt ids, answer loss, schedule and saved states."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import Phi4MultimodalForCausalLM

from palmtop.runtime.reference.text_tasks import INSTRUCTION
from tests.reference.muon import Muon
from tests.reference.port import build_port
from tests.reference.sizes import Sizes, upstream_config
from tests.reference.vocabulary import token_ids

logger = logging.getLogger(__name__)
SIZES = Sizes()
SMALLEST_MUON_SIDE = 64
NOTHING = "none"
"""What the model answers when the active adapter (or its absence) does not fit what it is shown."""


def fresh_model(tokenizer: Tokenizer, seed: int) -> Phi4MultimodalForCausalLM:
    """An untrained model with fan-in scaled weights (the port's own start does not learn)."""
    model = build_port(upstream_config(SIZES, token_ids(tokenizer)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.dim() < 2 or name == "lm_head.weight" or "lora_B" in name:
                continue
            if name.endswith(("embed_tokens.weight", "position_embedding.weight", "bias_values.weight")):
                std = 0.05
            else:
                std = 1.0 / math.sqrt(math.prod(tensor.shape[1:]))
            if name.endswith(
                ("o_proj.base_layer.weight", "down_proj.base_layer.weight", "out_proj.weight", "fc2.weight")
            ):
                std *= 0.35
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * std)
        patches = model.model.embed_tokens_extend.image_embed.img_processor.embeddings.patch_embedding.weight
        patches.copy_(_contrast_filters(patches, generator))
    return model


def _contrast_filters(like: Tensor, generator: torch.Generator) -> Tensor:
    """Smooth grey patch filters without a mean: flat paper gives 0, so the layers see ink, not brightness."""
    coarse = torch.randn((like.shape[0], 1, 5, 5), generator=generator)
    filters = nn.functional.interpolate(coarse, like.shape[-2:], mode="bicubic")
    filters = filters - filters.mean((2, 3), keepdim=True)
    return (filters / filters.norm(dim=(2, 3), keepdim=True) / 3.0).expand_as(like) * 0.5


@dataclass(frozen=True, slots=True)
class Prompts:
    """Token ids of the fixed parts of every prompt."""

    tokenizer: Tokenizer

    def ids(self, text: str) -> list[int]:
        """Token ids of a text that may hold special tokens."""
        return list(self.tokenizer.encode(text).ids)

    @property
    def opening(self) -> list[int]:
        """What stands before the media rows."""
        return self.ids("<|user|>")

    @property
    def closing(self) -> list[int]:
        """What stands after the media rows."""
        return self.ids(f"{INSTRUCTION}<|end|><|assistant|>")

    def text(self, task: str) -> list[int]:
        """A text prompt."""
        return self.ids(f"<|user|>{task} {INSTRUCTION}<|end|><|assistant|>")

    def answer(self, text: str) -> list[int]:
        """An answer with its end."""
        return self.ids(f"{text}<|end|>")


def answer_loss(
    model: Phi4MultimodalForCausalLM, prompt: Tensor, answers: list[list[int]], *, smoothing: float = 0.0
) -> tuple[Tensor, float]:
    """Mean cross entropy of the answers after equally long prompts, and the share answered without a mistake.

    Args:
        model: adapters set as wanted.
        prompt: [B, T, hidden] embedded prompts, all of the same length, so that no mask is needed.
        answers: B lists of token ids, each with its end token.
        smoothing: label smoothing.
    """
    longest = max(map(len, answers))
    labels = torch.full((len(answers), longest), -100)
    for row, ids in enumerate(answers):
        labels[row, : len(ids)] = torch.tensor(ids)
    embedded = model.model.embed_tokens(labels.clamp(min=0)[:, :-1])  # [B, L-1, hidden]
    hidden = model.model(inputs_embeds=torch.cat([prompt, embedded], 1), use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[:, prompt.shape[1] - 1 :])  # [B, L, vocab]
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=smoothing)
    right = ((logits.argmax(-1) == labels) | (labels == -100)).all(1).float().mean().item()
    return loss, right


def media_prompt(model: Phi4MultimodalForCausalLM, prompts: Prompts, *rows: Tensor) -> Tensor:
    """Embedded `<|user|>` + media rows + instruction: [B, T, hidden] of rows [B, R, hidden]."""
    batch = rows[0].shape[0]
    embed = model.model.embed_tokens
    opening = embed(torch.tensor(prompts.opening)).expand(batch, -1, -1)
    closing = embed(torch.tensor(prompts.closing)).expand(batch, -1, -1)
    return torch.cat([opening, *rows, closing], 1)


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters that share a peak learning rate; with `muon`, their larger matrices are stepped by Muon."""

    parameters: list[nn.Parameter]
    lr: float
    muon: bool = False


def train(
    name: str,
    groups: list[Group],
    step_loss: Callable[[int], tuple[Tensor, float]],
    *,
    steps: int,
    minutes: float = math.inf,
    warmup: int = 60,
    weight_decay: float = 0.02,
    on_pause: Callable[[], None] | None = None,
) -> None:
    """Train with a warm-up and a cosine to zero over `steps` or `minutes`, whichever ends first.

    Larger matrices are stepped by Muon (a tower learns in far fewer steps), all else by AdamW.

    Args:
        name: for the log.
        groups: what to train, and how fast.
        step_loss: gives loss and training accuracy of one step.
        steps: step limit.
        minutes: wall clock limit; the learning rate follows the larger of the two progresses.
        warmup: steps of linear warm-up.
        weight_decay: AdamW's.
        on_pause: called every 200 steps (validation, snapshots).
    """
    optimizers = _optimizers(groups, weight_decay)
    stepped = [group for optimizer in optimizers for group in optimizer.param_groups]
    peaks = [float(group["lr"]) for group in stepped]
    parameters = [parameter for group in stepped for parameter in group["params"]]
    started = time.monotonic()
    loss_mean, right_mean = float("nan"), float("nan")
    for step in range(steps):
        progress = max(step / steps, (time.monotonic() - started) / (60 * minutes))
        if progress >= 1.0:
            break
        scale = min(1.0, (step + 1) / warmup) * (0.5 + 0.5 * math.cos(math.pi * progress))
        for group, peak in zip(stepped, peaks, strict=True):
            group["lr"] = peak * scale
        loss, right = step_loss(step)
        for parameter in parameters:
            parameter.grad = None
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        loss_mean = loss.item() if step == 0 else 0.97 * loss_mean + 0.03 * loss.item()
        right_mean = right if step == 0 else 0.97 * right_mean + 0.03 * right
        if step % 50 == 0:
            seconds = time.monotonic() - started
            logger.info("%s step %d %.0f s loss %.4f right %.3f", name, step, seconds, loss_mean, right_mean)
        if on_pause is not None and step % 200 == 199:
            on_pause()
    logger.info("%s done: %d steps, %.0f s", name, step, time.monotonic() - started)


def _optimizers(groups: list[Group], weight_decay: float) -> list[torch.optim.Optimizer]:
    muon: list[dict[str, Any]] = []
    adam: list[dict[str, Any]] = []
    for group in groups:
        square = [p for p in group.parameters if group.muon and p.dim() == 2 and min(p.shape) >= SMALLEST_MUON_SIDE]
        chosen = {id(parameter) for parameter in square}
        if square:
            muon.append({"params": square, "lr": group.lr})
        adam.append({"params": [p for p in group.parameters if id(p) not in chosen], "lr": group.lr})
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(adam, betas=(0.9, 0.98), weight_decay=weight_decay)]
    return [*optimizers, Muon(muon, weight_decay)] if muon else optimizers


def trainable(model: nn.Module, parts: Iterable[str], besides: Iterable[str] = ()) -> list[nn.Parameter]:
    """The parameters whose name contains one of `parts` and none of `besides`, made trainable.

    All others keep their state: call `model.requires_grad_(False)` first for a clean start.
    """
    wanted, unwanted = list(parts), list(besides)
    chosen = []
    for name, parameter in model.named_parameters():
        if any(part in name for part in wanted) and not any(part in name for part in unwanted):
            parameter.requires_grad_(True)
            chosen.append(parameter)
    return chosen


def save_part(model: nn.Module, path: Path, parts: Iterable[str]) -> None:
    """Save the tensors whose name contains one of `parts`."""
    wanted = list(parts)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items() if any(p in name for p in wanted)}
    temporary = path.with_suffix(".part")
    torch.save(state, temporary)
    temporary.rename(path)


def load_part(model: nn.Module, path: Path) -> None:
    """Load what `save_part` saved; tensors unknown to the model are an error."""
    result = model.load_state_dict(torch.load(path, weights_only=True), strict=False)
    if result.unexpected_keys:
        raise ValueError(f"{path}: unexpected tensors {result.unexpected_keys}")
