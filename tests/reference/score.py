"""Score a checkpoint in float32 with transformers + PEFT on the packaged held-out set, under every adapter.

`python -m tests.reference.score [--items 2000] [--json table.json]`. The port's own forward, greedy
decoding, one item at a time for everything with audio (the port's padding mask is not one); pictures of one
size share a batch.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import Phi4MultimodalFeatureExtractor, Phi4MultimodalForCausalLM

from palmtop.runtime.reference import checkpoint_path
from palmtop.runtime.reference.heldout import TASKS, Item, held_out_items
from tests.reference.pixels import tile
from tests.reference.port import load_port

logger = logging.getLogger(__name__)
ADAPTERS = ("none", "vision", "speech")
ROUTE = {"text": "none", "image": "vision", "audio": "speech", "image+audio": "vision"}
MAX_ANSWER_TOKENS = 24


@dataclass(slots=True)
class Reference:
    """The float32 reference model and what it needs to read items."""

    model: Phi4MultimodalForCausalLM
    tokenizer: Tokenizer
    config: dict[str, Any]
    dynamic_hd: int
    extractor: Phi4MultimodalFeatureExtractor = field(default_factory=Phi4MultimodalFeatureExtractor)

    @classmethod
    def load(cls, directory: Path) -> Reference:
        """Read a checkpoint in upstream's layout."""
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        processor = json.loads((directory / "preprocessor_config.json").read_text(encoding="utf-8"))
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        return cls(load_port(directory), tokenizer, config, processor["dynamic_hd"])

    def inputs(self, item: Item) -> dict[str, Tensor]:
        """The port's forward arguments for one item, made as upstream's processor makes them."""
        feeds: dict[str, Tensor] = {}
        prompt = "<|user|>"
        for part in item.messages[0]["content"]:
            if part["type"] == "image":
                tower = self.config["embd_layer"]["image_embd_layer"]
                crop, patch = tower["crop_size"], tower["vision_config"]["patch_size"]
                tiles = tile(part["image"][None], crop, patch, self.dynamic_hd)
                feeds["image_pixel_values"], feeds["image_sizes"] = tiles.pixel_values, tiles.sizes
                feeds["image_attention_mask"] = tiles.mask
                prompt += "<|endoftext10|>" * tiles.rows
            elif part["type"] == "audio":
                samples, rate = part["audio"]
                features = self.extractor(samples, sampling_rate=rate, return_tensors="pt")
                feeds["audio_input_features"] = features["audio_input_features"].float()
                feeds["audio_embed_sizes"] = features["audio_embed_sizes"]
                prompt += "<|endoftext11|>" * int(features["audio_embed_sizes"][0])
            else:
                prompt += part["text"]
        ids = self.tokenizer.encode(prompt + "<|end|><|assistant|>").ids
        return {"input_ids": torch.tensor([ids])} | feeds

    def use(self, adapter: str) -> None:
        """Activate one adapter, or none."""
        if adapter == "none":
            self.model.disable_adapters()
        else:
            self.model.enable_adapters()
            self.model.set_adapter(adapter)

    @torch.no_grad()
    def answer(self, feeds: dict[str, Tensor]) -> str:
        """Greedy answer, up to the first end token."""
        return self.answers([feeds])[0]

    @torch.no_grad()
    def answers(self, batch: list[dict[str, Tensor]]) -> list[str]:
        """Greedy answers to items whose inputs all have the same shapes."""
        joined = {key: torch.cat([feeds[key] for feeds in batch]) for key in batch[0]}
        ends = set(self.config["eos_token_id"])
        out = self.model(**joined, use_cache=True, logits_to_keep=1)
        said: list[list[int]] = [[] for _ in batch]
        done = [False] * len(batch)
        for _ in range(MAX_ANSWER_TOKENS):
            ids = out.logits[:, -1].argmax(-1)
            for row, token in enumerate(ids.tolist()):
                done[row] = done[row] or token in ends
                if not done[row]:
                    said[row].append(token)
            if all(done):
                break
            out = self.model(input_ids=ids[:, None], past_key_values=out.past_key_values, use_cache=True)
        return [self.tokenizer.decode(ids, skip_special_tokens=False) for ids in said]


@dataclass(frozen=True, slots=True)
class Score:
    """How many of `total` items were answered exactly."""

    right: int
    total: int

    @property
    def share(self) -> float:
        """Exact-match share."""
        return self.right / max(self.total, 1)

    def interval(self) -> tuple[float, float]:
        """95% Wilson interval."""
        z, n, p = 1.96, max(self.total, 1), self.share
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return middle - half, middle + half


def score(reference: Reference, items: Iterable[Item], adapter: str, batch: int = 32) -> dict[str, Score]:
    """Exact match over items, in all (`""`) and by group; items of equal shapes are run together."""
    reference.use(adapter)
    right: dict[str, int] = defaultdict(int)
    total: dict[str, int] = defaultdict(int)
    waiting: dict[tuple[Any, ...], list[tuple[Item, dict[str, Tensor]]]] = defaultdict(list)

    def settle(pairs: list[tuple[Item, dict[str, Tensor]]]) -> None:
        for (item, _), said in zip(pairs, reference.answers([feeds for _, feeds in pairs]), strict=True):
            for group in ("", item.group, *_wider_group(item)):
                total[group] += 1
                right[group] += said == item.expected
        pairs.clear()

    for item in items:
        feeds = reference.inputs(item)
        limit = 1 if "audio_input_features" in feeds else batch
        shape = tuple((key, tuple(value.shape)) for key, value in feeds.items())
        mask = feeds.get("image_attention_mask")
        key = (*shape, None if mask is None else mask.numpy().tobytes())
        waiting[key].append((item, feeds))
        if len(waiting[key]) >= limit:
            settle(waiting[key])
    for pairs in waiting.values():
        if pairs:
            settle(pairs)
    return {group: Score(right[group], total[group]) for group in sorted(total)}


def _wider_group(item: Item) -> tuple[str, ...]:
    if item.task != "audio":
        return ()
    return ("unseen synthesizer",) if item.group.startswith("flite/") else ("known synthesizers",)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=checkpoint_path())
    parser.add_argument("--items", type=int, help="items of each task (default: 1000 text, 2000 image, 1080, 1000)")
    parser.add_argument("--wrong-items", type=int, default=300, help="items of each task under the wrong adapters")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    reference = Reference.load(arguments.checkpoint)
    counts = {"text": 1000, "image": 2000, "audio": 1080, "image+audio": 1000}
    table: list[dict[str, Any]] = []
    print("| task | adapter | group | exact | 95% interval | items |\n|---|---|---|---|---|---|")
    for task in arguments.tasks:
        for adapter in ADAPTERS:
            routed = ROUTE[task] == adapter
            count = arguments.items or counts[task]
            count = count if routed else min(count, arguments.wrong_items)
            for group, result in score(reference, held_out_items(task, count, arguments.seed), adapter).items():
                if group and not routed:
                    continue
                low, high = result.interval()
                table.append(
                    {
                        "task": task,
                        "adapter": adapter,
                        "routed": routed,
                        "group": group,
                        "right": result.right,
                    }
                    | {"total": result.total, "share": result.share, "low": low, "high": high}
                )
                name = f"**{adapter}**" if routed else adapter
                print(
                    f"| {task} | {name} | {group or 'all'} | {100 * result.share:.1f}% "
                    f"| {100 * low:.1f} - {100 * high:.1f} | {result.total} |",
                    flush=True,
                )
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
