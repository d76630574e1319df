"""Rule for the tensors of every checkpoint: each is read, known to be unused, or refused by name.

An architecture lists the names that its graphs read (``decoder_names``, ``vision_names``, ``audio_names``); a test
compares the lists with what an export reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from palmtop.errors import CheckpointError
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.checkpoint.lazy_tensor import LazyTensor, StateDict, stacked
from palmtop.export.graph.encoders.audio_config import AudioConfig
from palmtop.export.graph.encoders.vision_config import VisionConfig

LINEARS = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
# Fused linears, and the separate ones they are stacked from in other checkpoints.
PARTS = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}
NORMS = ("input_layernorm", "post_attention_layernorm")
HEAD, HEAD_BIAS = "lm_head.weight", "lm_head.bias"
TABLE = "embed_tokens.weight"
# Buffers that follow from the config, so that their values are not needed.
DERIVED = (
    r"(?:.*\.)?rotary_emb\.(?:inv_freq|original_inv_freq|cos_cached|sin_cached|(?:short|long)_inv_freq)",
    r"(?:.*\.)?position_ids",
    r"(?:.*\.)?(?:attn|self_attn|attention)\.(?:masked_bias|causal_mask)",
    r"(?:.*\.)?num_batches_tracked",
)
VISION, AUDIO = "embed_tokens_extend.image_embed.", "embed_tokens_extend.audio_embed."


def decoder_names(num_layers: int) -> set[str]:
    """Return the canonical names of the tensors of a dense decoder without biases, without the head's."""
    tensors = [f"{name}.weight" for name in (*NORMS, *LINEARS)]
    return {TABLE, "norm.weight"} | {f"layers.{i}.{tensor}" for i in range(num_layers) for tensor in tensors}


def parts_of(name: str, parts: Mapping[str, Sequence[str]] = PARTS) -> list[str]:
    """Return the checkpoint's names of the tensors that a tensor is stacked from: its own if it is not in ``parts``."""
    module, _, kind = name.rpartition(".")
    for fused, others in parts.items():
        if module.endswith(f".{fused}"):
            return [f"{module.removesuffix(fused)}{part}.{kind}" for part in others]
    return [name]


def stacked_weights(checkpoint: Checkpoint, head: Head, parts: Mapping[str, Sequence[str]]) -> StateDict:
    """Return the tensors of a checkpoint below ``model.``, by canonical name."""

    def find(name: str) -> LazyTensor:
        found = [checkpoint.weight(head.place(part, f"model.{part}")) for part in parts_of(name, parts)]
        return found[0] if len(found) == 1 else stacked(name, found)

    return StateDict(find)


def vision_names(config: VisionConfig) -> set[str]:
    """Return the canonical names of the tensors that the vision graph reads."""
    layer = (
        "layer_norm1",
        "layer_norm2",
        "mlp.fc1",
        "mlp.fc2",
        *(f"self_attn.{p}_proj" for p in ("q", "k", "v", "out")),
    )
    modules = [f"img_processor.encoder.layers.{i}.{name}" for i in range(config.layers_run) for name in layer]
    modules += ["img_processor.embeddings.patch_embedding", "img_projection_up", "img_projection_down"]
    single = (
        "img_processor.embeddings.position_embedding.weight",
        "sub_img_feature_extensor",
        "global_img_feature_extensor",
    )
    return {VISION + name for name in (*_with_bias(modules), *single)}


def unused_vision(config: VisionConfig) -> tuple[str, ...]:
    """Return patterns of the tower's unused tensors: layers behind ``feature_layer``, norm and pooling."""
    behind = "|".join(str(i) for i in range(config.layers_run, config.num_hidden_layers))
    tower = re.escape(f"model.{VISION}img_processor.")
    layers = (rf"{tower}encoder\.layers\.(?:{behind})\..*",) if behind else ()
    return (*layers, rf"{tower}post_layernorm\.(?:weight|bias)", rf"{tower}head\..*")


def audio_names(config: AudioConfig) -> set[str]:
    """Return the canonical names of the tensors that the audio graph reads."""
    block = [f"feed_forward_{s}.{name}" for s in ("in", "out") for name in ("layer_norm", "gate_up_proj", "down_proj")]
    block += ["layer_norm_att", "layer_norm", *(f"self_attn.{p}_proj" for p in "qkvo")]
    block += [f"conv.{name}" for name in ("layer_norm", "glu.ext_pw_conv_1d", "ext_pw_conv_1d")]
    block += [f"conv.dw_sep_conv_1d.{name}" for name in ("dw_conv", "pw_conv")]
    modules = [f"encoder.encoders.{i}.{name}" for i in range(config.num_blocks) for name in block]
    places = [0, *(place for n in range(1, config.reductions) for place in (3 * n - 1, 3 * n))]
    modules += [f"encoder.embed.conv.{place}" for place in places] + ["encoder.embed.out"]
    modules += [f"{way}_proj_for_{name}" for way in ("up", "down") for name in ("speech", "vision_speech")]
    single = [f"encoder.encoders.{i}.conv.glu.{name}" for i in range(config.num_blocks) for name in ("b1", "b2")]
    single += [f"encoder.encoder_embedding.global_{name}" for name in ("mean", "invstd")]
    single += ["encoder.relative_attention_bias_layer.bias_values.weight"]
    return {AUDIO + name for name in (*_with_bias(modules), *single)}


def refuse_other_tensors(
    checkpoint: Checkpoint, read: Iterable[str], model: str, *, unused: Iterable[str] = ()
) -> None:
    """Refuse a checkpoint that lacks a tensor which is read, or has one that is not.

    Args:
        checkpoint: checkpoint whose names are checked.
        read: names that are read, in its spelling.
        model: description for the error, such as "a phi3 model of 32 layers".
        unused: patterns of names that may exist unread, in addition to ``DERIVED``.

    Raises:
        CheckpointError: names the tensor.
    """
    read = set(read)
    patterns = re.compile("|".join((*DERIVED, *unused)))
    names = checkpoint.names
    for name in sorted(read, key=_in_order):
        checkpoint.weight(name)
    for name in sorted(set(names) - read, key=_in_order):
        if not patterns.fullmatch(name):
            raise CheckpointError(
                f"{checkpoint.path}: tensor '{name}' has no place in {model}, expected none beside the model's own"
            )


@dataclass(frozen=True, slots=True)
class Head:
    """Names of a checkpoint's embedding and head.

    Attributes:
        table: name of the embedding in the checkpoint.
        is_tied: whether the head is the embedding.
        names: names of the tensors that are read for both, copies included.
        notes: sentences on the head for the user.
    """

    table: str
    is_tied: bool
    names: frozenset[str]
    notes: tuple[str, ...] = ()

    def place(self, name: str, otherwise: str) -> str:
        """Return the checkpoint's name of a canonical name; ``otherwise`` for other tensors than the two."""
        return {TABLE: self.table, HEAD: HEAD, HEAD_BIAS: HEAD_BIAS}.get(name, otherwise)


def read_head(checkpoint: Checkpoint, table: str, *, is_tied: bool) -> Head:
    """Find embedding and head as transformers 5 does (modeling_utils.tie_weights).

    With ``tie_word_embeddings``, a head beside the table is a copy of it, or else the config is wrong and the head is
    used. A head alone is the table too.

    Args:
        checkpoint: checkpoint; both tensors are read, a few rows at a time, if both are there.
        table: name of the embedding in the checkpoint.
        is_tied: ``tie_word_embeddings``.

    Raises:
        CheckpointError: a matrix cannot be read.
    """
    if not is_tied:
        return Head(table, False, frozenset({table, HEAD}))
    if checkpoint.shape(HEAD) is None:
        return Head(table, True, frozenset({table}))
    if checkpoint.shape(table) is None:
        return Head(HEAD, True, frozenset({HEAD}))
    if _are_equal(checkpoint.weight(table), checkpoint.weight(HEAD)):
        return Head(table, True, frozenset({table, HEAD}))
    note = (
        f"config.json: tie_word_embeddings is true, but {HEAD} is not {table}: exported with the head of its own, as"
        " transformers 5 loads it"
    )
    return Head(table, False, frozenset({table, HEAD}), (note,))


def _are_equal(one: LazyTensor, other: LazyTensor) -> bool:
    if one.shape != other.shape:
        return False
    return all(bool((one.rows(*each) == other.rows(*each)).all()) for each in one.ranges())


def _with_bias(modules: Iterable[str]) -> list[str]:
    return [f"{name}.{part}" for name in modules for part in ("weight", "bias")]


def _in_order(name: str) -> tuple[object, ...]:
    """Sort layer 2 before layer 10, so that an error names the first one."""
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in name.split("."))
