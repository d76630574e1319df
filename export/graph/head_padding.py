"""Heads of odd size are stored padded (``AttentionConfig``): so are the projections and deltas that belong to them."""

from __future__ import annotations

from palmtop.export.checkpoint.lazy_tensor import Weight, Weights
from palmtop.export.checkpoint.lora import LoraPair

from .attention import AttentionConfig


def attention_weights(weights: Weights, attention: AttentionConfig, hidden_size: int) -> tuple[Weight, Weight]:
    """A layer's qkv_proj and o_proj for the cache's head size.

    Raises:
        CheckpointError: one is missing, or of the wrong shape.
    """
    qkv = weights.get("self_attn.qkv_proj.weight", attention.qkv_size, hidden_size)
    o = weights.get("self_attn.o_proj.weight", hidden_size, attention.num_heads * attention.head_size)
    rows, columns = attention.padded_rows(), attention.padded_columns()
    return (
        qkv if rows is None else qkv.permuted_rows(rows),
        o if columns is None else o.permuted_columns(columns),
    )


def padded_pair(pair: LoraPair, linear: str, attention: AttentionConfig) -> LoraPair:
    """A linear's delta for the cache's head size; of another linear, or another shape, as it is."""
    rows, columns = attention.padded_rows(), attention.padded_columns()
    if rows is not None and linear.endswith(".qkv_proj") and pair.b.shape[0] == attention.qkv_size:
        return LoraPair(pair.a, pair.b.permuted_rows(rows))
    width = attention.num_heads * attention.head_size
    if columns is not None and linear.endswith(".o_proj") and pair.a.shape[1] == width:
        return LoraPair(pair.a.permuted_columns(columns), pair.b)
    return pair
