"""Objects of the manifest: the decoder, encoders, adapters, routes, storage and files of a bundle."""

from __future__ import annotations

from dataclasses import dataclass, field

from .json_fields import limited, one_of, refuse
from .states import MAX_LAYERS, StateSpec

COMBINE = ("replace", "add")
AUDIO_PROJECTORS = ("speech", "vision")

MAX_DRAFT_ROWS = 15  # longer steps gain nothing, and a prompt's chunks must be longer (``loading.chunk_for``)
MAX_CONTEXT = 1 << 24
MAX_SIZE_BYTES = 1 << 48


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSpec:
    """The decoder graph's sizes, as genai and the memory plan need them.

    Attributes:
        file: path inside the bundle.
        vocab_size: V, width of the logits.
        hidden_size: width of embeddings and of media feature rows.
        num_layers: decoder layers.
        num_heads: query heads.
        context_length: longest sequence the bundle serves, in tokens.
        original_context: beyond this many tokens the long LongRoPE factors apply; None without LongRoPE.
        sampled_never: ids that must not be sampled or come from user text: the media placeholders.
        draft_rows: longest step whose positions all get logits; 1 where the bundle was not exported for speculation.
        states: what its graph carries from one run to the next.
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
        """The state of this name.

        Raises:
            BundleError: there is none.
        """
        for state in self.states:
            if state.name == name:
                return state
        raise refuse("decoder.states", ", ".join(s.name for s in self.states), f"'{name}' among them")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """One encoder graph: its file and what a pass through it costs, for the memory plan.

    Attributes:
        file: path inside the bundle.
        bytes_per_item: float32 activations alive at the peak for one tile (vision) or one window (audio).
    """

    file: str
    bytes_per_item: int = limited(1, MAX_SIZE_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSpec:
    """One LoRA adapter inside the decoder graph.

    Attributes:
        name: as users write it.
        rank: r.
        alpha: LoRA's alpha; alpha / r is folded into the stored B.
        gate: index into the graph's ``adapter_gates`` input.
        base_sha256: hash of the base weights it was trained for.
        file: its own external data file, None where its weights came with the checkpoint and lie among the decoder's.
        combine: what naming it in a request does to the route's adapters: "replace" switches them off, "add" leaves
            them on.
        merged_from: what ``palmtop adapter merge`` made it of, with the coefficients; empty for a trained one.
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
    """What a mode of input, or a task that a request names, switches on; held for the whole generation.

    Attributes:
        adapters: adapter name to gate weight; empty means the base alone.
        audio_projector: "speech" or "vision"; meaningless without audio.
    """

    adapters: dict[str, float]
    audio_projector: str = one_of(*AUDIO_PROJECTORS)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartSpec:
    """One class of tensors and how it is stored, for ``palmtop inspect`` and the reader's trust.

    Attributes:
        name: e.g. "decoder linears", "adapter vision".
        bits: 4, 8 or 32.
        group: weights that share a scale; None for float.
        parameters: number of weights.
        size_bytes: on disk, scales counted.
    """

    name: str
    bits: int = limited(1, 64)
    group: int | None = limited(1, 1 << 24)
    parameters: int = limited(0, MAX_SIZE_BYTES)
    size_bytes: int = limited(0, MAX_SIZE_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSpec:
    """Size and hash of one file of the bundle.

    Attributes:
        size_bytes: exact size.
        sha256: of the content, 64 lower-case hexadecimal digits.
    """

    size_bytes: int = limited(0, MAX_SIZE_BYTES)
    sha256: str
