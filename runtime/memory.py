"""What a session will need, and the largest context that fits: arithmetic on the manifest, nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from palmtop.errors import MemoryPlanError

from .manifest import Manifest

BASE_BYTES = 128 << 20  # Python, numpy, OpenCV, librosa, onnxruntime and genai
PREPACKED_SHARE = 1.1  # bytes on the heap for each stored byte (accuracy_level 4 adds block sums)
ENCODER_PARTS = ("vision encoder", "audio encoder")  # every other part belongs to the decoder's graph
UNPACKED_PARTS = ("norms and tables",)  # no MatMul reads them
ACTIVATION_WIDTHS = 16  # float32 vectors of the hidden size alive at once for each token of a prefill chunk
MINIMUM_CONTEXT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Bytes by purpose, for one conversation.

    Attributes:
        context: tokens the KV cache holds.
        media_rows: rows of image and sound features it holds.
        weights: files of the decoder, mapped.
        prepacked: copies of the decoder's weights in the kernels' own layout, quantised or float.
        kv_cache: keys and values for the whole context, allocated at the start.
        media: rows of image and sound features.
        encoders: weights, their copies and activations of the largest encoder (of both when they are kept loaded).
        activations: of one prefill chunk.
        base: the process itself.
    """

    context: int
    media_rows: int
    weights: int
    prepacked: int
    kv_cache: int
    media: int
    encoders: int
    activations: int
    base: int

    @property
    def total(self) -> int:
        """Of everything."""
        return self.conversation + self.weights + self.prepacked + self.encoders + self.activations + self.base

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
) -> MemoryPlan:
    """The plan for a context; ``media_rows`` None reserves as many as the context could hold."""
    decoder = manifest.decoder
    has_media = manifest.vision is not None or manifest.audio is not None
    rows = (context if media_rows is None else media_rows) if has_media else 0
    towers = zip(ENCODER_PARTS, (manifest.vision, manifest.audio), strict=True)
    encoders, decoder_bytes = [], sum(f.size_bytes for f in manifest.files.values())
    for part, spec in towers:
        if spec is not None:
            stored = _graph_bytes(manifest, spec.file)
            decoder_bytes -= stored
            encoders.append(stored + _prepacked(manifest, part, stored) + spec.bytes_per_item * encoder_items)
    return MemoryPlan(
        context=context,
        media_rows=rows,
        weights=decoder_bytes,
        prepacked=_prepacked(manifest, None, decoder_bytes),
        kv_cache=context * kv_bytes_per_token(manifest),
        media=rows * decoder.hidden_size * 4 + context * 8,
        encoders=sum(encoders) if keep_encoders else max(encoders, default=0),
        activations=4 * (min(chunk, context) * decoder.hidden_size * ACTIVATION_WIDTHS + 2 * decoder.vocab_size),
        base=BASE_BYTES,
    )


def kv_bytes_per_token(manifest: Manifest) -> int:
    """Float32 keys and values of one token."""
    decoder = manifest.decoder
    return 2 * decoder.num_layers * decoder.num_kv_heads * decoder.head_size * 4


def largest_context(manifest: Manifest, plan: MemoryPlan, available_bytes: int) -> int:
    """The longest context for which ``plan``, otherwise unchanged, fits; 0 when none of any use does."""
    per_token = kv_bytes_per_token(manifest) + 8
    if plan.media_rows == plan.context:
        per_token += manifest.decoder.hidden_size * 4
    fixed = plan.total - plan.context * per_token
    fits = min((available_bytes - fixed) // per_token, manifest.decoder.context_length)
    return int(fits) if fits >= MINIMUM_CONTEXT else 0


def check_plan(manifest: Manifest, plan: MemoryPlan, available_bytes: int | None) -> None:
    """Refuse a plan that needs more than there is.

    Args:
        manifest: of the bundle.
        plan: what is asked for.
        available_bytes: None when the system does not tell, which passes.

    Raises:
        MemoryPlanError: with the numbers and the largest context that would fit.
    """
    if available_bytes is None or plan.total <= available_bytes:
        return
    largest = largest_context(manifest, plan, available_bytes)
    way_out = f"a context of at most {largest} tokens would fit" if largest else "no context would fit"
    raise MemoryPlanError(
        f"{manifest.model} with a context of {plan.context} tokens needs {megabytes(plan.total)} "
        f"(weights {megabytes(plan.weights + plan.prepacked)}, KV cache {megabytes(plan.kv_cache)}, "
        f"media {megabytes(plan.media)}, encoders {megabytes(plan.encoders)}, "
        f"the rest {megabytes(plan.activations + plan.base)}), there are {megabytes(available_bytes)}; "
        f"{way_out}"
    )


def megabytes(size_bytes: int) -> str:
    """For people: "12.3 MB" or "4.56 GB"."""
    return f"{size_bytes / 1e9:.2f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.1f} MB"


def _prepacked(manifest: Manifest, encoder: str | None, stored: int) -> int:
    """Copies that a graph's kernels make of its MatMul weights; ``encoder`` None is the decoder."""
    copied = 0.0
    for part in manifest.parts:
        tower = next((name for name in ENCODER_PARTS if part.name.startswith(name)), None)
        if tower == encoder and part.name not in UNPACKED_PARTS:
            copied += part.size_bytes * (PREPACKED_SHARE if part.bits < 16 else 1)
    return int(min(copied, stored * PREPACKED_SHARE))


def _graph_bytes(manifest: Manifest, file: str) -> int:
    """Of an .onnx file and of the external data file that has its name."""
    stem = PurePosixPath(file).stem
    return sum(f.size_bytes for name, f in manifest.files.items() if PurePosixPath(name).stem == stem)
