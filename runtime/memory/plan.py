"""Memory plan of a session, and the largest context that fits, computed from the manifest alone.

The constants were measured with onnxruntime 1.31 on x86-64 (``benchmarks/full_size.py`` compares plan and process).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from palmtop.errors import MemoryPlanError
from palmtop.runtime.bundle.manifest import Manifest, PartSpec
from palmtop.runtime.bundle.states import StateSpec

BASE_BYTES = 176 << 20  # Python, numpy, OpenCV, soxr, onnxruntime and genai; the tokenizer is added to it
TOKENIZER_COPIES = 6  # tokenizer.json as objects of two libraries
ENCODER_PARTS = ("vision encoder", "audio encoder")  # all other parts belong to the decoder's graph
UNPACKED_PARTS = ("norms and tables",)  # no MatMul reads these parts
TOKENIZER_FILE = "tokenizer.json"
ACTIVATION_WIDTHS = 16  # float32 vectors of the hidden size in use at a time for each token of a prefill chunk
MINIMUM_CONTEXT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Bytes by purpose, for one conversation or for several that answer at the same time.

    Attributes:
        context: tokens the KV cache holds.
        media_rows: rows of image and sound features it holds.
        weights: bytes of the decoder's files: pages that stay mapped after loading until they are released.
        used_weights: bytes of those that the kernels keep reading.
        prepacked: copies of the decoder's weights in the kernels' own layout, quantised or float.
        kv_cache: the decoder's states for the whole context, keys and values mostly, allocated at the start.
        media: rows of image and sound features.
        encoders: weights and activations of the larger encoder (of both when they are kept loaded).
        activations: bytes of one prefill chunk.
        base: the process itself, and the tokenizer.
        conversations: conversations that answer at the same time; ``kv_cache``, ``media`` and ``activations`` are those
            of one.
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
    conversations: int = 1

    @property
    def loading(self) -> int:
        """Peak bytes while the decoder is loaded."""
        return self.weights + self.prepacked + self.base

    @property
    def talking(self) -> int:
        """Peak bytes of text turns after loading."""
        return self.prepacked + self.used_weights + self.base + self.conversations * self.answering

    @property
    def text(self) -> int:
        """Peak bytes of a session without media."""
        return max(self.loading, self.talking)

    @property
    def total(self) -> int:
        """Peak bytes of a session that reads images or sounds while a conversation is open."""
        return max(self.loading, self.talking + self.encoders)

    @property
    def conversation(self) -> int:
        """Bytes that every conversation allocates."""
        return self.kv_cache + self.media

    @property
    def answering(self) -> int:
        """Bytes of a conversation while it answers."""
        return self.conversation + self.activations


def active_parameters(manifest: Manifest) -> int:
    """Return the decoder's parameters that one token is multiplied with: of a mixture's experts the chosen ones."""
    return int(sum(part.parameters * part.active_share for part in _decoder_parts(manifest)))


def active_bytes(manifest: Manifest) -> int:
    """Return the stored bytes that one token reads of the decoder's weights; those of all adapters are counted."""
    return int(sum(part.size_bytes * part.active_share for part in _decoder_parts(manifest)))


def _decoder_parts(manifest: Manifest) -> list[PartSpec]:
    return [part for part in manifest.parts if part.name not in ENCODER_PARTS]


def plan_memory(
    manifest: Manifest,
    *,
    context: int,
    media_rows: int | None = None,
    chunk: int = 128,
    keep_encoders: bool = False,
    encoder: str | None = None,
    conversations: int = 1,
) -> MemoryPlan:
    """Compute the memory plan for a context.

    Args:
        manifest: manifest of the bundle.
        context: tokens of a conversation.
        media_rows: rows of media features; None reserves as many as the context could hold.
        chunk: tokens of a prefill step.
        keep_encoders: whether both encoders stay loaded.
        encoder: "vision" or "audio" for that encoder alone; None for the larger one.
        conversations: conversations that answer at the same time.
    """
    decoder = manifest.decoder
    has_media = manifest.vision is not None or manifest.audio is not None
    rows = (context if media_rows is None else media_rows) if has_media else 0
    needs = {
        name: _graph_bytes(manifest, spec.file) + spec.bytes_per_item + _input_bytes(manifest, name, rows)
        for name, spec in (("vision", manifest.vision), ("audio", manifest.audio))
        if spec is not None and encoder in (None, name)
    }
    loaded = [_loaded(part, _accuracy_level(manifest)) for part in _decoder_parts(manifest)]
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
        conversations=conversations,
    )


def with_copies(manifest: Manifest, plan: MemoryPlan, copies: float) -> MemoryPlan:
    """Return the plan for a provider that copies the decoder's weights, for one mix of adapters at a time.

    Args:
        manifest: manifest of the bundle.
        plan: plan for onnxruntime's CPU kernels.
        copies: memory of the open graphs, as a multiple of the size of their weights.
    """
    own = {part.name: part.size_bytes for part in manifest.parts if part.name not in ENCODER_PARTS}
    adapters = [size for name, size in own.items() if name.startswith("adapter ")]
    weights = sum(own.values()) - sum(adapters) + max(adapters, default=0)
    states = [replace(state, dtype="float32") for state in manifest.decoder.states]  # whatever the bundle's own stores
    cache = state_bytes(states, plan.context)
    return replace(plan, weights=0, used_weights=0, prepacked=int(copies * weights), kv_cache=cache)


def logit_rows(manifest: Manifest) -> int:
    """Return the rows of logits in use at a time: the last position's twice, with prompt lookup a step's twice."""
    rows = manifest.decoder.draft_rows
    return 2 if rows == 1 else 2 + 2 * rows


def kv_bytes_per_token(manifest: Manifest) -> int:
    """Return the bytes of one token in the states that grow with the sequence."""
    return sum(state.size_bytes for state in manifest.decoder.states if state.is_per_token)


def state_bytes(states: Iterable[StateSpec], tokens: int) -> int:
    """Return the bytes of a decoder's states for one sequence of ``tokens`` tokens."""
    return sum(state.size_bytes * (tokens if state.is_per_token else 1) for state in states)


def largest_context(manifest: Manifest, plan: MemoryPlan, available_bytes: int) -> int:
    """Return the longest context for which the otherwise unchanged plan fits; 0 if none does."""
    if plan.loading > available_bytes:
        return 0
    per_token = kv_bytes_per_token(manifest) + 8
    if plan.media_rows == plan.context:
        per_token += manifest.decoder.hidden_size * 4
    per_token *= plan.conversations
    fixed = plan.talking - plan.context * per_token
    fits = min((available_bytes - fixed) // per_token, manifest.decoder.context_length)
    return int(fits) if fits >= MINIMUM_CONTEXT else 0


def check_plan(manifest: Manifest, plan: MemoryPlan, available_bytes: int | None) -> None:
    """Refuse a plan that needs more memory than available; encoders are checked before they are loaded.

    Args:
        manifest: manifest of the bundle.
        plan: plan of the session.
        available_bytes: available memory; None where the system does not report it, which passes.

    Raises:
        MemoryPlanError: the plan does not fit; names the numbers and the largest context that would fit.
    """
    if available_bytes is None or plan.text <= available_bytes:
        return
    largest = largest_context(manifest, plan, available_bytes)
    way_out = f"a context of at most {largest} tokens would fit" if largest else "no context would fit"
    several = ""
    if plan.conversations > 1:
        several = f" and {plan.conversations} conversations at the same time"
        fitting = (available_bytes - plan.talking + plan.conversations * plan.answering) // plan.answering
        if plan.loading <= available_bytes and fitting > 0:
            way_out += f", or at most {fitting} conversation{'s' if fitting > 1 else ''}"
    count = plan.conversations
    raise MemoryPlanError(
        f"{manifest.model} with a context of {plan.context} tokens{several} needs {megabytes(plan.text)} "
        f"(weights {megabytes(plan.prepacked + plan.used_weights)}, while loading {megabytes(plan.weights)} more, "
        f"KV cache {megabytes(count * plan.kv_cache)}, media {megabytes(count * plan.media)}, "
        f"the rest {megabytes(count * plan.activations + plan.base)}), there are {megabytes(available_bytes)}; "
        f"{way_out}"
    )


def check_encoder(plan: MemoryPlan, available_bytes: int | None) -> None:
    """Refuse to load an encoder that does not fit into the remaining memory.

    Raises:
        MemoryPlanError: the encoder does not fit; names the numbers.
    """
    if available_bytes is not None and plan.encoders > available_bytes:
        raise MemoryPlanError(
            f"reading images or sounds needs {megabytes(plan.encoders)} for the encoder, "
            f"there are {megabytes(max(0, available_bytes))}; a session with a smaller context leaves more"
        )


def megabytes(size_bytes: int) -> str:
    """Format bytes for display: "12.3 MB" or "4.56 GB"."""
    return f"{size_bytes / 1e9:.2f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.1f} MB"


@dataclass(frozen=True, slots=True)
class _Loaded:
    """Bytes of a part of the decoder once it is loaded: mapped pages, pages still read, and copies."""

    mapped: int
    used: int
    packed: int


def _loaded(part: PartSpec, accuracy_level: int) -> _Loaded:
    """Return the loaded sizes of a part of the decoder.

    A MatMul's weights are copied into the kernel's layout, and their own pages are released. Scales and zero points
    stay mapped, as do the codes of adapters, whose initialisers belong to a branch. At accuracy level 4 the copy holds
    the scales and a sum for each group, and only the zero points are read again.
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
    """Bytes of an encoder's inputs and of the feature rows."""
    processor, row_bytes = manifest.processor, manifest.decoder.hidden_size * 4
    spec = processor.image if encoder == "vision" else processor.audio
    return rows * row_bytes if spec is None else spec.working_bytes(rows, row_bytes)


def _graph_bytes(manifest: Manifest, file: str) -> int:
    """Bytes of an .onnx file and of its external data file."""
    stem = PurePosixPath(file).stem
    return sum(f.size_bytes for name, f in manifest.files.items() if PurePosixPath(name).stem == stem)
