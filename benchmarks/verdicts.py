"""Verdicts on correct bundles: five kinds of checkpoint, ten seeds each, in the default recipe.

    python -m benchmarks.verdicts [--seeds 10] [--first 100] [--smollm2 FOLDER] [--only NAME]

Weights are drawn anew by seed; where they are trained the questions are. A correct bundle must never fail, and it is
lossy where and only where its mean KL is above the limit. ``--smollm2`` is SmolLM2-135M-Instruct as a text checkpoint.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import click
import numpy as np

from benchmarks.full_size import Dimensions
from benchmarks.make_checkpoint import make_checkpoint
from palmtop.export.checkpoint.opening import open_checkpoint
from palmtop.export.convert import export_model
from palmtop.export.recipe import Recipe
from palmtop.export.verify import verify
from palmtop.export.verify.quality import Quality
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.reference import checkpoint_path
from tests.export.test_decoder import SMALL_TOWERS
from tests.export.test_phi3 import write_phi3
from tests.reference.port import random_checkpoint

CONTEXT = 1024
TEXT_CONTEXT = 256  # of the random text models
TRUE_VOCABULARY = Dimensions(
    hidden=96,
    intermediate=192,
    layers=2,
    heads=3,
    kv_heads=1,
    vision_rank=4,
    speech_rank=8,
    vision_hidden=16,
    vision_intermediate=24,
    vision_layers=3,
    vision_heads=2,
    crop=56,
    audio_hidden=16,
    audio_intermediate=16,
    audio_blocks=1,
    audio_heads=2,
    conv_channels=4,
    bias_distance=10,
)
SEED = "palmtop.export.measure.decoder_prompts.SEED"


def _odd(folder: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    heads, size = int(rng.integers(2, 5)), int(rng.choice([16, 24, 32]))
    random_checkpoint(
        folder,
        seed,
        num_hidden_layers=int(rng.integers(1, 4)),
        hidden_size=int(rng.choice([40, 72, 96])),
        num_attention_heads=heads,
        num_key_value_heads=1,
        head_dim=size,
        tie_word_embeddings=bool(seed % 2),
        **SMALL_TOWERS,
    )


def _text(folder: Path, seed: int) -> None:
    write_phi3(folder, seed, num_hidden_layers=2 + seed % 3, vocab_size=(517, 493, 544)[seed % 3])


RANDOM: dict[str, Callable[[Path, int], None]] = {
    "odd-shaped": _odd,
    "text": _text,
    "true vocabulary": lambda folder, seed: make_checkpoint(folder, TRUE_VOCABULARY, seed=seed),
}


def _questions(file: Path, seed: int) -> Path:
    """16 requests about passages of Python's documentation."""
    from pydoc_data.topics import topics

    names = sorted(name for name, text in topics.items() if len(text) > 400)
    lines = []
    for name in np.random.default_rng(seed).choice(names, 16, replace=False):
        text = " ".join(topics[str(name)].split())[:200]
        lines.append({"messages": [{"role": "user", "content": f"Explain in one sentence: {text}"}]})
    file.write_text("\n".join(map(json.dumps, lines)), "utf-8")
    return file


def _line(quality: Quality) -> dict[str, object]:
    losses = {c.name: c for c in quality.checks if c.name.endswith(": logits")}
    plain = [float(found[1]) for c in losses.values() if (found := re.search(r"groups of 32 loses ([\d.]+)", c.detail))]
    rounded = [c.value for c in quality.checks if c.name.endswith("logits that the rounded weights give")]
    return {
        "kl": {name.split(":")[0]: round(mode.mean_kl, 4) for name, mode in quality.modes.items()},
        "plain": plain,
        "rounded": max(rounded),
        "verdict": quality.verdict,
        "failed": [c.name for c in quality.checks if not c.passed and not c.is_loss],
        "seconds": quality.seconds,
    }


@click.command(help=__doc__)
@click.option("--seeds", default=10, show_default=True)
@click.option("--first", default=100, show_default=True, help="First seed.")
@click.option("--smollm2", type=click.Path(path_type=Path), help="Folder of a text checkpoint with trained weights.")
@click.option("--only", multiple=True, help="Checkpoints to try; repeatable.")
def main(seeds: int, first: int, smollm2: Path | None, only: tuple[str, ...]) -> None:
    """Print a line a bundle, then the table of docs/verify.md."""
    trained = {"packaged": checkpoint_path()} | ({} if smollm2 is None else {"SmolLM2": smollm2})
    rows = []
    for name in [n for n in (*trained, *RANDOM) if not only or n in only]:
        found = []
        with tempfile.TemporaryDirectory() as temporary:
            work = Path(temporary)
            if name in trained:
                bundle = export_model(trained[name], work / "bundle", Recipe(context=CONTEXT))
            for seed in range(first, first + seeds):
                started = time.perf_counter()
                checkpoint, samples = trained.get(name, work / f"c{seed}"), None
                if name in RANDOM:
                    RANDOM[name](checkpoint, seed)
                    bundle = export_model(
                        checkpoint, work / f"b{seed}", Recipe(context=TEXT_CONTEXT if name == "text" else CONTEXT)
                    )
                elif name != "packaged":
                    samples = _questions(work / f"{seed}.jsonl", seed)
                with mock.patch(SEED, seed):
                    quality = verify(open_bundle(bundle), open_checkpoint(checkpoint), samples=samples)
                found.append(_line(quality))
                click.echo(json.dumps({"name": name, "seed": seed, **found[-1]}))
                click.echo(f"{time.perf_counter() - started:.0f} s", err=True)
        rows.append(_row(name, found))
    click.echo("| checkpoint | KL, worst mode | of plain rounding, where it was asked | rounded weights | verdicts |")
    click.echo("|---|---|---|---|---|\n" + "\n".join(rows))


def _row(name: str, found: list[dict[str, object]]) -> str:
    worst = [max(line["kl"].values()) for line in found]  # type: ignore[attr-defined]
    plain = [value for line in found for value in line["plain"]]  # type: ignore[attr-defined]
    between = f"{min(plain):.3f} - {max(plain):.3f}" if plain else "-"
    rounded = max(float(line["rounded"]) for line in found)  # type: ignore[arg-type]
    verdicts = ", ".join(f"{count} {name}" for name, count in Counter(line["verdict"] for line in found).items())
    return f"| {name} | {min(worst):.4f} - {max(worst):.4f} | {between} | {rounded:.1g} | {verdicts} |"


if __name__ == "__main__":
    main()
