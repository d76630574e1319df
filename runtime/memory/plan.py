"""What a session will need, and the largest context that fits: arithmetic on the manifest, nothing else.

The constants were measured with onnxruntime 1.31 on x86-64 (``benchmarks/full_size.py`` compares plan and process).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from palmtop.errors import MemoryPlanError
from palmtop.runtime.bundle.manifest import Manifest, PartSpec
from palmtop.runtime.bundle.states import StateSpec

BASE_BYTES = 176 << 20  # Python, numpy, OpenCV, soxr, onnxruntime and genai; the tokenizer comes on top
TOKENIZER_COPIES = 6  # tokenizer.json as the objects of two libraries
ENCODER_PARTS = ("vision encoder", "audio encoder")  # every other part belongs to the decoder's graph
UNPACKED_PARTS = ("norms and tables",)  # no MatMul reads them
TOKENIZER_FILE = "tokenizer.json"
ACTIVATION_WIDTHS = 16  # float32 vectors of the hidden size alive at once for each token of a prefill chunk
MINIMUM_CONTEXT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Bytes by purpose, for one conversation.

    Attributes:
        context: tokens the KV cache holds.
        media_rows: rows of image and sound features it holds.
        weights: of the decoder's files, those pages that loading leaves mapped until they are released.
        used_weights: of those, what the kernels go on reading.
        prepacked: copies of the decoder's weights in the kernels' own layout, quantised or float.
        kv_cache: the decoder's states for the whole context, keys and values mostly, allocated at the start.
        media: rows of image and sound features.
        encoders: weights and activations of the larger encoder (of both when they are kept loaded).
        activations: of one prefill chunk.
        base: the process itself, and the tokenizer.
    """

    context: int
    media_rows: int
    weights: int
    used_weights: int
    prepacked: int
    kv_cache: int
    media: int
    encoders: int
    activations: int
    base: int

    @property
    def loading(self) -> int:
        """Peak while the decoder is loaded."""
        return self.weights + self.prepacked + self.base

    @property
    def talking(self) -> int:
        """Peak of text turns, once loaded."""
        return self.prepacked + self.used_weights + self.conversation + self.activations + self.base

    @property
    def text(self) -> int:
        """Peak of a session that never reads media."""
        return max(self.loading, self.talking)

    @property
    def total(self) -> int:
        """Peak of a session that reads images or sounds while a conversation is open."""
        return max(self.loading, self.talking + self.encoders)

    @property
    def conversation(self) -> int:
        """Of what every conversation allocates for itself."""
        return self.kv_cache + self.media


def plan_memory(
    manifest: Manifest,
    *,
    context: int,
    media_rows: int | None = None,
    chunk: int = 128,
    keep_encoders: bool = False,
    encoder_items: int = 1,
    encoder: str | None = None,
) -> MemoryPlan:
    """The plan for a context.

    Args:
        manifest: of the bundle.
        context: tokens a conversation holds.
        media_rows: None reserves as many as the context could hold.
        chunk: tokens of a prefill step.
        keep_encoders: both encoders stay loaded.
        encoder_items: tiles or windows of a run.
        encoder: "vision" or "audio" for that one alone; None for the larger.
    """
    decoder = manifest.decoder
    has_media = manifest.vision is not None or manifest.audio is not None
    rows = (context if media_rows is None else media_rows) if has_media else 0
    needs = {
        name: _graph_bytes(manifest, spec.file)
        + spec.bytes_per_item * encoder_items
        + _input_bytes(manifest, name, rows)
        for name, spec in (("vision", manifest.vision), ("audio", manifest.audio))
        if spec is not None and encoder in (None, name)
    }
    loaded = [_loaded(part, _accuracy_level(manifest)) for part in manifest.parts if part.name not in ENCODER_PARTS]
    tokenizer = manifest.files.get(TOKENIZER_FILE)
    return MemoryPlan(
        context=context,
        media_rows=rows,
        weights=sum(each.mapped for each in loaded),
        used_weights=sum(each.used for each in loaded),
        prepacked=sum(each.packed for each in loaded),
        kv_cache=state_bytes(manifest.decoder.states, context),
        media=rows * decoder.hidden_size * 4 + context * 8,
        encoders=sum(needs.values()) if keep_encoders else max(needs.values(), default=0),
        activations=4
        * (min(chunk, context) * decoder.hidden_size * ACTIVATION_WIDTHS + logit_rows(manifest) * decoder.vocab_size),
        base=BASE_BYTES + (tokenizer.size_bytes * TOKENIZER_COPIES if tokenizer else 0),
    )


def with_copies(manifest: Manifest, plan: MemoryPlan, copies: float) -> MemoryPlan:
    """The plan where a provider holds the decoder's weights in copies of its own, one mix of adapters at a time.

    Args:
        manifest: of the bundle.
        plan: for onnxruntime's CPU kernels.
        copies: memory of the open graphs, in sizes of their weights.
    """
    own = {part.name: part.size_bytes for part in manifest.parts if part.name not in ENCODER_PARTS}
    adapters = [size for name, size in own.items() if name.startswith("adapter ")]
    weights = sum(own.values()) - sum(adapters) + max(adapters, default=0)
    states = [replace(state, dtype="float32") for state in manifest.decoder.states]  # whatever the bundle's own stores
    cache = state_bytes(states, plan.context)
    return replace(plan, weights=0, used_weights=0, prepacked=int(copies * weights), kv_cache=cache)


def logit_rows(manifest: Manifest) -> int:
    """Rows of logits alive at once: the last position's twice; in speculation those of a step, and their copy."""
    rows = manifest.decoder.draft_rows
    return 2 if rows == 1 else 2 + 2 * rows


def kv_bytes_per_token(manifest: Manifest) -> int:
    """Of the states that grow with the sequence, for one token."""
    return sum(state.size_bytes for state in manifest.decoder.states if state.is_per_token)


def state_bytes(states: Iterable[StateSpec], tokens: int) -> int:
    """Of a decoder's states for one sequence of so many tokens."""
    return sum(state.size_bytes * (tokens if state.is_per_token else 1) for state in states)


def largest_context(manifest: Manifest, plan: MemoryPlan, available_bytes: int) -> int:
    """The longest context for which ``plan``, otherwise unchanged, fits; 0 when none of any use does."""
    if plan.loading > available_bytes:
        return 0
    per_token = kv_bytes_per_token(manifest) + 8
    if plan.media_rows == plan.context:
        per_token += manifest.decoder.hidden_size * 4
    fixed = plan.talking - plan.context * per_token
    fits = min((available_bytes - fixed) // per_token, manifest.decoder.context_length)
    return int(fits) if fits >= MINIMUM_CONTEXT else 0


def check_plan(manifest: Manifest, plan: MemoryPlan, available_bytes: int | None) -> None:
    """Refuse to load what needs more than there is; encoders are checked when they are about to be loaded.

    Args:
        manifest: of the bundle.
        plan: what is asked for.
        available_bytes: None when the system does not tell, which passes.

    Raises:
        MemoryPlanError: with the numbers and the largest context that would fit.
    """
    if available_bytes is None or plan.text <= available_bytes:
        return
    largest = largest_context(manifest, plan, available_bytes)
    way_out = f"a context of at most {largest} tokens would fit" if largest else "no context would fit"
    raise MemoryPlanError(
        f"{manifest.model} with a context of {plan.context} tokens needs {megabytes(plan.text)} "
        f"(weights {megabytes(plan.prepacked + plan.used_weights)}, while loading {megabytes(plan.weights)} more, "
        f"KV cache {megabytes(plan.kv_cache)}, media {megabytes(plan.media)}, "
        f"the rest {megabytes(plan.activations + plan.base)}), there are {megabytes(available_bytes)}; "
        f"{way_out}"
    )


def check_encoder(plan: MemoryPlan, available_bytes: int | None) -> None:
    """Refuse to load an encoder that does not fit beside what is loaded already.

    Raises:
        MemoryPlanError: with the numbers.
    """
    if available_bytes is not None and plan.encoders > available_bytes:
        raise MemoryPlanError(
            f"reading images or sounds needs {megabytes(plan.encoders)} for the encoder, "
            f"there are {megabytes(max(0, available_bytes))}; a session with a smaller context leaves more"
        )


def megabytes(size_bytes: int) -> str:
    """For people: "12.3 MB" or "4.56 GB"."""
    return f"{size_bytes / 1e9:.2f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.1f} MB"


@dataclass(frozen=True, slots=True)
class _Loaded:
    """Bytes of a part once it is loaded: mapped pages, those still read, and copies."""

    mapped: int
    used: int
    packed: int


def _loaded(part: PartSpec, accuracy_level: int) -> _Loaded:
    """What loading makes of a part of the decoder.

    A MatMul's weights are copied into the kernel's layout, and their own pages given back; scales and zero points
    stay mapped, as do the codes of adapters, whose initialisers belong to a branch. At accuracy level 4 the copy
    holds the scales and a sum for each group, and only the zero points are read again.
    """
    size = part.size_bytes
    if part.bits >= 16 or part.group is None:
        return _Loaded(size, size, 0) if part.name in UNPACKED_PARTS else _Loaded(size, 0, size)
    codes = min(size, part.parameters * part.bits // 8)
    scales = min(size - codes, part.parameters // part.group * 4)
    mapped = size if part.name.startswith("adapter ") else size - codes
    if accuracy_level == 4:
        return _Loaded(mapped, size - codes - scales, codes + 2 * scales)
    return _Loaded(mapped, size - codes, codes)


def _accuracy_level(manifest: Manifest) -> int:
    level = manifest.recipe.get("accuracy_level", 4)
    return level if isinstance(level, int) else 4


def _input_bytes(manifest: Manifest, encoder: str, rows: int) -> int:
    """Pixels of the tiles, and feature rows on their way: as made, joined and put into order."""
    image, width = manifest.processor.image, manifest.decoder.hidden_size * 4
    if encoder != "vision" or image is None:
        return rows * width
    tiles = min(1 + image.max_tiles, 1 + rows // max(1, image.pooled**2))
    return tiles * 3 * image.crop_size**2 * 4 + min(rows, tiles * (image.pooled + 1) ** 2) * width * 2


def _graph_bytes(manifest: Manifest, file: str) -> int:
    """Of an .onnx file and of the external data file that has its name."""
    stem = PurePosixPath(file).stem
    return sum(f.size_bytes for name, f in manifest.files.items() if PurePosixPath(name).stem == stem)
