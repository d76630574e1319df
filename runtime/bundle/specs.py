"""Objects of the manifest: the decoder, encoders, adapters, routes, storage and files of a bundle."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .json_fields import limited, one_of, refuse
from .states import MAX_LAYERS, StateSpec

COMBINE = ("replace", "add")
AUDIO_PROJECTORS = ("speech", "vision")

EXPERTS = "experts, {chosen} of {count} a token"  # name of the part that holds the experts of a mixture
EXPERTS_NAME = re.compile(EXPERTS.format(chosen=r"(\d{1,5})", count=r"(\d{1,5})"))
MAX_DRAFT_ROWS = 15  # longer steps gain nothing, and a prompt's chunks must be longer (``loading.chunk_for``)
MAX_CONTEXT = 1 << 24
MAX_SIZE_BYTES = 1 << 48


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSpec:
    """Sizes of the decoder graph, for genai and the memory plan.

    Attributes:
        file: path inside the bundle.
        vocab_size: V, width of the logits.
        hidden_size: width of embeddings and of media feature rows.
        num_layers: number of decoder layers.
        num_heads: number of query heads.
        context_length: longest sequence of the bundle, in tokens.
        original_context: beyond this many tokens the long LongRoPE factors apply; None without LongRoPE.
        sampled_never: ids that must not be sampled or come from user text: the media placeholders.
        draft_rows: longest step with logits of all positions; 1 without support for prompt lookup.
        states: states that its graph carries from one run to the next.
    """

    file: str
    vocab_size: int = limited(1, 1 << 24)
    hidden_size: int = limited(1, 1 << 16)
    num_layers: int = limited(1, MAX_LAYERS)
    num_heads: int = limited(1, 1 << 12)
    context_length: int = limited(1, MAX_CONTEXT)
    original_context: int | None = limited(1, MAX_CONTEXT)
    sampled_never: tuple[int, ...] = limited(0, (1 << 24) - 1)
    draft_rows: int = limited(1, MAX_DRAFT_ROWS)
    states: tuple[StateSpec, ...]

    @property
    def kv_bits(self) -> int:
        """Bits of an element of the states that grow with the sequence: 32 for float32, 8 or 4 for codes."""
        return max((state.bits for state in self.states if state.is_per_token), default=32)

    def state(self, name: str) -> StateSpec:
        """Return the state of this name.

        Raises:
            BundleError: there is no such state.
        """
        for state in self.states:
            if state.name == name:
                return state
        raise refuse("decoder.states", ", ".join(s.name for s in self.states), f"'{name}' among them")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """File and memory of one encoder graph.

    Attributes:
        file: path inside the bundle.
        bytes_per_item: bytes of float32 activations at the peak for one tile (vision) or one window (audio).
    """

    file: str
    bytes_per_item: int = limited(1, MAX_SIZE_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSpec:
    """One LoRA adapter inside the decoder graph.

    Attributes:
        name: name of the adapter.
        rank: r, the LoRA rank.
        alpha: LoRA's alpha; alpha / r is folded into the stored B.
        gate: index into the graph's ``adapter_gates`` input.
        base_sha256: hash of the base weights that it was trained for.
        file: its own external data file; None where its weights are part of the checkpoint, in the decoder's file.
        combine: effect on the route's adapters of a request that names it: "replace" switches them off, "add" leaves
            them on.
        merged_from: adapters it was merged from, with the coefficients; empty for a trained one.
    """

    name: str
    rank: int = limited(1, 1 << 16)
    alpha: float
    gate: int = limited(0, 1 << 16)
    base_sha256: str
    file: str | None = None
    combine: str = one_of(*COMBINE, default="replace")
    merged_from: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Adapters and projector of a mode of input, or of a task, for a whole answer.

    Attributes:
        adapters: gate weights by adapter name; empty for the base alone.
        audio_projector: "speech" or "vision"; not used without audio.
    """

    adapters: dict[str, float]
    audio_projector: str = one_of(*AUDIO_PROJECTORS)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartSpec:
    """Storage of one class of tensors, for ``palmtop inspect``.

    Attributes:
        name: name, such as "decoder linears", "adapter vision", "experts, 2 of 16 a token".
        bits: bits of a weight: 4, 8 or 32.
        group: number of weights that share a scale; None for float.
        parameters: number of weights.
        size_bytes: bytes on disk, scales included.
    """

    name: str
    bits: int = limited(1, 64)
    group: int | None = limited(1, 1 << 24)
    parameters: int = limited(0, MAX_SIZE_BYTES)
    size_bytes: int = limited(0, MAX_SIZE_BYTES)

    @property
    def active_share(self) -> float:
        """Share of the weights that one token is multiplied with: below 1 for the experts of a mixture."""
        found = EXPERTS_NAME.fullmatch(self.name)
        return min(1.0, int(found[1]) / int(found[2])) if found and int(found[2]) else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSpec:
    """Size and hash of one file of the bundle.

    Attributes:
        size_bytes: exact size in bytes.
        sha256: hash of the content, 64 lower-case hexadecimal digits.
    """

    size_bytes: int = limited(0, MAX_SIZE_BYTES)
    sha256: str
