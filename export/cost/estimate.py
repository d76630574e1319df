"""Estimate of an export's time, memory and disk from the sizes of its checkpoint and the speed of this machine.

Nothing of the checkpoint is read but the shapes of its tensors. The estimate is of the order of the real cost, not a
limit: other work on the machine, and how much of the checkpoint is in the page cache, change it.
"""

from __future__ import annotations

import math
import re
import shutil
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palmtop.errors import InputError
from palmtop.export.recipe import CALIBRATED, METHODS, Recipe
from palmtop.quantize.scheme import Scheme
from palmtop.quantize.workers import BLOCK_BYTES, WORKING_COPIES, usable_cores
from palmtop.runtime.memory.machine import available_memory

from .rates import FACTORS, OVERHEAD, PASSES, Rates, measure_rates

if TYPE_CHECKING:
    from palmtop.export.arch import Model
    from palmtop.export.checkpoint.folder import Checkpoint
    from palmtop.export.mixed_precision.budget import Request

LAYER = re.compile(r"(.*?(?:layers|blocks|blk|h)\.\d+\.)")
ENDS = re.compile(r"embed_tokens\.weight|lm_head\.weight|token_embd\.weight|^output\.weight|wte\.weight")
ENCODER = re.compile(r"vision|image|audio|visual|^vpm|^resampler")
ADAPTER = re.compile(r"\.lora_[AB]\.")
TEXT_TOKENS, SOUND_TOKENS, PROSE_TOKENS = 40, 60, 400  # of a packaged question, and of a passage of prose
QUESTIONS = 4  # of each mode, in a comparison
BASE_BYTES = 180e6  # the process without weights
FLOAT_COPIES = 3  # of a layer in float32: read, made, and prepacked by onnxruntime
SMALL = 250e6  # parameters of a model whose float layers all stay loaded (``verify.questions``)
LEAST = 0.9  # share of the estimated disk below which an export is refused: sizes are known, graphs are estimated
PLANNED_BITS = (2.3, 8.5)  # bits of a weight in the smallest and the largest plan, scales included


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Estimated cost of an export.

    Attributes:
        weights: parameters of the checkpoint that the bundle holds.
        prepare_s: seconds of calibration and planning; 0 without.
        write_s: seconds of writing the bundle.
        verify_s: seconds of the comparison with the checkpoint; 0 without.
        memory_bytes: highest memory of the process.
        disk_bytes: bytes of the bundle, and of what is written beside it.
        free_memory_bytes: memory that is left; None where the system does not report it.
        free_disk_bytes: bytes that are free where the bundle goes; None before an output is named.
        note: what is not in these numbers.
    """

    weights: int
    prepare_s: float
    write_s: float
    verify_s: float
    memory_bytes: int
    disk_bytes: int
    free_memory_bytes: int | None
    free_disk_bytes: int | None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the cost as plain JSON types."""
        return {name: round(value, 1) if isinstance(value, float) else value for name, value in asdict(self).items()}

    def sentence(self) -> str:
        """Return the cost in one line."""
        parts = [f"about {duration(self.write_s)}"]
        if self.prepare_s:
            parts.insert(0, f"about {duration(self.prepare_s)} of calibration and planning")
        if self.verify_s:
            parts.append(f"{duration(self.verify_s)} to compare (--no-verify)")
        memory = f"{size(self.memory_bytes)} of memory" + _free(self.free_memory_bytes)
        disk = f"{size(self.disk_bytes)} of disk" + _free(self.free_disk_bytes)
        if not self.disk_bytes:
            return f"{_count(self.weights)} weights: {parts[0]}; {memory}"
        return f"{_count(self.weights)} weights: {', '.join(parts)}; {memory}, {disk}{self.note}"


def estimate(
    checkpoint: Checkpoint,
    model: Model,
    recipe: Recipe,
    request: Request | None,
    *,
    target: Path | None,
    verify: bool,
    threads: int | None = None,
    rates: Rates | None = None,
) -> Cost:
    """Estimate an export.

    Args:
        checkpoint: checkpoint of the model.
        model: its model.
        recipe: recipe of the bundle.
        request: request for a plan, or samples.
        target: path of the bundle; None if none is written.
        verify: whether the bundle is compared with the checkpoint.
        threads: number of threads; None takes every core.
        rates: speed of the machine; None measures it.
    """
    sizes = _Sizes.of(checkpoint, recipe)
    is_solved = request is not None and request.is_solved
    scheme = recipe.decoder_scheme
    speed = rates or measure_rates(None if recipe.method in CALIBRATED else METHODS[recipe.method], scheme)
    count = threads or usable_cores()
    again_s = sizes.weights / speed.quantized_per_s / count * FACTORS["write"]
    write_s = again_s + len(model.graphs) * OVERHEAD["graph"] / speed.share
    tokens, adapters = _tokens(model), len(model.adapters) if recipe.adapter_mode == "gated" else 0
    prepare_s = _prepare_seconds(sizes, model, recipe, request, speed)
    verify_s = 0.0
    if verify and target is not None:
        from palmtop.export.verify.questions import MOST_WORK

        round_work = sizes.weights * (1 + adapters) * tokens
        rounds = min(QUESTIONS, max(1, int(MOST_WORK // max(round_work, 1))))
        walks = 7 if rounds < QUESTIONS else 5 + 4 * adapters
        passes = sizes.weights / speed.rounded_per_s / count * PASSES * FACTORS["pass"]
        again = again_s if adapters else 0.0  # the decoder without adapters is quantised anew
        calls = model.decoder.num_layers * len(model.routes) * walks * rounds / QUESTIONS
        verify_s = passes + again + _walked(sizes, walks * rounds * tokens, speed)
        if recipe.kv != 32:
            calls += model.decoder.num_layers * len(model.routes) * 2
            verify_s += _walked(sizes, 2 * (QUESTIONS * tokens + _long_tokens(recipe, model)), speed)
        verify_s += calls * OVERHEAD["layer"] / speed.share
    disk = sizes.disk_bytes
    if request is not None and request.size_bytes is not None:
        disk = request.size_bytes
    elif is_solved:
        disk = int(sizes.weights * PLANNED_BITS[1] / 8)
    if recipe.target == "qnn":  # graphs of each chip, and float graphs while they are made
        disk += 4 * sizes.weights + disk * len(recipe.socs)
    return Cost(
        weights=sizes.weights,
        prepare_s=prepare_s,
        write_s=write_s if target is not None else 0.0,
        verify_s=verify_s,
        memory_bytes=_memory(sizes, model, recipe, is_float_run=bool(verify_s or prepare_s), threads=count),
        disk_bytes=disk if target is not None else 0,
        free_memory_bytes=available_memory(),
        free_disk_bytes=None if target is None else _free_disk(target),
        note="; the compiler's time for qnn is not counted" if recipe.target == "qnn" else "",
    )


def refuse_full_disk(checkpoint: Checkpoint, recipe: Recipe, request: Request | None, target: Path) -> None:
    """Refuse an export whose bundle does not fit on the disk, before anything is computed.

    What an interrupted export has left beside the target is counted as free: the export goes on from it.

    Raises:
        InputError: says how much is free and how much is needed.
    """
    sizes = _Sizes.of(checkpoint, recipe)
    needed = sizes.disk_bytes
    if request is not None and (request.is_solved or request.plan is not None):
        needed = min(request.size_bytes or needed, int(sizes.weights * PLANNED_BITS[0] / 8))
    free = _free_disk(target)
    if free is not None and free + _left_over(target) < LEAST * needed:
        raise InputError(f"{target}: {size(free)} of disk are free there, expected about {size(needed)} for the bundle")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """Sizes of a bundle, from the shapes of a checkpoint.

    Attributes:
        weights: parameters.
        disk_bytes: bytes of the bundle.
        layer: parameters of the largest layer, its adapters twice: the comparison blends each with its twin.
        head: parameters of the embedding.
        mean_columns: mean number of columns of a matrix, by parameters.
        matrices: number of matrices.
    """

    weights: int
    disk_bytes: int
    layer: int
    head: int
    mean_columns: float
    matrices: int

    @classmethod
    def of(cls, checkpoint: Checkpoint, recipe: Recipe) -> _Sizes:
        weights = disk = head = matrices = 0
        columns = 0.0
        layers: Counter[str] = Counter()
        for name in checkpoint.names:
            shape = tuple(count for count in checkpoint.shape(name) or () if count != 1) or (
                1,
            )  # [N, K, 1] is a matrix
            is_adapter = ADAPTER.search(name) is not None
            if is_adapter and recipe.adapter_mode != "gated":
                continue
            count = math.prod(shape)
            is_end = ENDS.search(name) is not None
            scheme = recipe.decoder_scheme
            if is_end:
                head, scheme = max(head, count), recipe.head_scheme
            elif ENCODER.search(name) and not is_adapter:
                scheme = recipe.encoder_scheme
            weights += count
            if match := LAYER.match(name):
                layers[match[1]] += 2 * count if is_adapter else count
            if scheme is None or not (len(shape) == 2 or "experts" in name):  # convolutions stay float
                disk += 4 * count
                continue
            matrices += 1
            columns += count * shape[-1]
            disk += _stored(scheme, count // shape[-1], shape[-1])
        return cls(
            weights=weights,
            disk_bytes=disk + _beside(checkpoint),
            layer=max(layers.values(), default=weights),
            head=head,
            mean_columns=columns / max(weights, 1),
            matrices=matrices,
        )


def _stored(scheme: Scheme, rows: int, columns: int) -> int:
    return sum(scheme.tensor_bytes(rows, columns))


def _beside(checkpoint: Checkpoint) -> int:
    """Bytes of the tokenizer and other small files."""
    try:
        return (checkpoint.path / "tokenizer.json").stat().st_size
    except OSError:
        return 0


def _tokens(model: Model) -> int:
    """Tokens of one packaged question of each mode."""
    image = model.processor.image
    rows = 0 if image is None else image.small_rows
    of_mode = {"text": 0, "image": rows, "audio": SOUND_TOKENS, "image+audio": rows + SOUND_TOKENS}
    return sum(TEXT_TOKENS + of_mode.get(mode, 0) for mode in model.routes)


def _long_tokens(recipe: Recipe, model: Model) -> int:
    """Tokens of the text on which a quantised KV cache is compared with a float one."""
    from palmtop.export.verify.kv_loss import LONG_TOKENS, SHORTEST

    length = min(LONG_TOKENS, recipe.context or model.decoder.max_tokens)
    return length if length >= SHORTEST else 0


def _prepare_seconds(sizes: _Sizes, model: Model, recipe: Recipe, request: Request | None, speed: Rates) -> float:
    """Seconds of everything before the bundle is written."""
    from palmtop.export.kv.calibrate import ITEMS
    from palmtop.export.mixed_precision.budget import Request as Asked

    is_solved = request is not None and request.is_solved
    a_sample = _tokens(model) + PROSE_TOKENS
    seconds = _walked(sizes, ITEMS * a_sample, speed) if recipe.kv != 32 else 0.0
    is_replayed = request is not None and request.plan is not None
    if (recipe.method in CALIBRATED and not is_replayed) or is_solved:
        items = (request or Asked()).items
        seconds += _walked(sizes, items * a_sample, speed) * FACTORS["statistics"]
        if recipe.method in CALIBRATED:  # the rounding error of each column is spread over those behind it
            seconds += sizes.weights * sizes.mean_columns / speed.macs_per_s * FACTORS["statistics"]
    if is_solved:
        from palmtop.export.mixed_precision.splits import JUDGED_ALONE

        runs = 2 * sizes.matrices / 2  # two schemes of each matrix, from its own layer to the last
        seconds += _walked(sizes, int(runs * JUDGED_ALONE * a_sample), speed)
    return seconds


def _walked(sizes: _Sizes, tokens: int, speed: Rates) -> float:
    """Seconds of this many tokens through all layers in float32."""
    return (sizes.weights - sizes.head) * tokens / speed.macs_per_s * FACTORS["layers"]


def _memory(sizes: _Sizes, model: Model, recipe: Recipe, *, is_float_run: bool, threads: int) -> int:
    base = BASE_BYTES + threads * WORKING_COPIES * BLOCK_BYTES
    if not is_float_run:
        return int(base)
    layers = 4 * sizes.weights * 2 if sizes.weights <= SMALL else 4 * sizes.layer * FLOAT_COPIES
    from palmtop.export.verify.comparison import GENERAL_STEPS
    from palmtop.export.verify.questions import KEPT, MOST_LOGITS_BYTES

    sets = 4 * GENERAL_STEPS * len(model.routes) * KEPT * (1 + len(model.adapters))
    return int(base + layers + min(4 * model.decoder.vocab_size * sets, MOST_LOGITS_BYTES))


def _free_disk(target: Path) -> int | None:
    there = next((folder for folder in target.absolute().parents if folder.is_dir()), None)
    try:
        return None if there is None else shutil.disk_usage(there).free
    except OSError:
        return None


def _left_over(target: Path) -> int:
    """Bytes of interrupted exports to this target."""
    place = target.absolute()
    try:
        folders = list(place.parent.glob(f".{place.name}.partial-*"))
        return sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())
    except OSError:
        return 0


def duration(seconds: float) -> str:
    """Return a duration in the largest unit that leaves a whole number of two digits or less.

    >>> duration(42), duration(600), duration(9000), duration(400000)
    ('42 s', '10 min', '2.5 h', '4.6 days')
    """
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def size(count: float) -> str:
    """Return bytes in MB or GB.

    >>> size(3_600_000), size(3_600_000_000)
    ('4 MB', '3.6 GB')
    """
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, round(count / 1e6))} MB"


def _count(weights: int) -> str:
    return f"{weights / 1e9:.1f} billion" if weights >= 1e9 else f"{weights / 1e6:.2g} million"


def _free(count: int | None) -> str:
    return "" if count is None else f" ({size(count)} free)"
