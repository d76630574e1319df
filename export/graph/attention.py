"""Grouped-query attention over a KV cache: by one fused operator on genai's cache, and in plain operators.

With fixed shapes the new keys and values are appended to the cache for a run and are also outputs; the caller writes
them into its cache. The additive bias alone determines which columns a row attends to.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from palmtop.export.checkpoint.lazy_tensor import StateDict
from palmtop.export.graph.building.builder import MICROSOFT, GraphBuilder
from palmtop.export.graph.building.mark import HEAD_SIZE, MIXER
from palmtop.export.graph.building.run import Run, StaticRun

from .head_norm import HeadNorm
from .head_padding import HEAD_STEP, Heads
from .rope import RopeConfig, rotate, rotate_halves

NORM_OF = {"query": "q_norm", "key": "k_norm"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention(Heads):
    """Attention layer with rotary positions.

    Attributes:
        window: keys that a query attends to, itself included; None for all.
        has_bias: whether the fused projection of queries, keys and values has a bias.
        has_output_bias: whether the output projection has a bias.
        scale: factor of the scores; None for ``head_size ** -0.5``.
        norm_eps: number added to the mean in the norms of each head's query and key, before the rotation; None for no
            such norms.
    """

    window: int | None = None
    has_bias: bool = False
    has_output_bias: bool = False
    scale: float | None = None
    norm_eps: float | None = None

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of its tensors inside a layer."""
        linears = {"qkv_proj": self.has_bias, "o_proj": self.has_output_bias}
        biases = [f"self_attn.{name}.bias" for name, has_bias in linears.items() if has_bias]
        norms = [] if self.norm_eps is None else [f"self_attn.{norm}.weight" for norm in NORM_OF.values()]
        return (*(f"self_attn.{name}.weight" for name in linears), *biases, *norms)

    @property
    def score_scale(self) -> float:
        """Factor of the scores."""
        return float(self.head_size**-0.5 if self.scale is None else self.scale)

    def window_in(self, tokens: int) -> int | None:
        """Return the window; None if sequences of at most ``tokens`` tokens never exceed it."""
        return self.window if self.window is not None and self.window < tokens else None

    def fuses_rotary(self, rope: RopeConfig) -> bool:
        """Return whether the fused operator can rotate these sizes."""
        half = rope.rotary_size // 2
        return half % HEAD_STEP == 0 and half <= self.cache_head_size // (2 * HEAD_STEP) * HEAD_STEP

    def emit(self, g: GraphBuilder, run: Run, prefix: str, x: ir.Value) -> ir.Value:
        """Add the layer, [B, S, H] -> [B, S, H], and append to its KV cache."""
        layer, name = len(run.present), f"{prefix}self_attn"
        weights = run.weights.within(f"{name}.")
        qkv = self._project(g, run, name, weights, x)
        is_fused = self.fuses_rotary(run.rope)
        is_whole = is_fused and self.norm_eps is None
        query, new_key, new_value = (qkv, None, None) if is_whole else self._parts(g, name, qkv, run, is_fused=is_fused)
        window = self.window_in(run.tokens)
        mixed, key, value = g.ops(
            "GroupQueryAttention",
            query,
            new_key,
            new_value,
            *run.past[layer],
            run.last_index,
            run.total_length,
            *(run.tables if is_fused else (None, None)),
            *run.cache.inputs(g, layer),
            outputs=3,
            domain=MICROSOFT,
            name=f"{name}/attention",
            num_heads=self.num_heads,
            kv_num_heads=self.num_kv_heads,
            scale=self.score_scale,
            do_rotary=int(is_fused),
            rotary_interleaved=0,
            local_window_size=-1 if window is None else window,
            **run.cache.attributes(),
        )
        node = mixed.producer()
        if self.scale is not None and node is not None:
            node.metadata_props[HEAD_SIZE] = str(self.head_size)
        run.present.append((key, value))
        return self._output(g, run, name, weights, mixed)

    def emit_static(self, g: GraphBuilder, run: StaticRun, prefix: str, x: ir.Value) -> ir.Value:
        """Add the layer with fixed shapes, [1, S, H] -> [1, S, H]; return new keys and values, [1, KV, S, D]."""
        layer, name, shape = len(run.present), f"{prefix}self_attn", run.shape
        weights = run.weights.within(f"{name}.")
        qkv = self._project(g, run, name, weights, x)
        size, heads, kv_heads, rows = self.cache_head_size, self.num_heads, self.num_kv_heads, shape.rows
        group, columns = heads // kv_heads, shape.context + rows
        parts = self._split(g, name, qkv)

        def by_head(part: ir.Value, count: int) -> ir.Value:  # [1, S, N * D] -> [1, N, S, D]
            return g.op("Transpose", g.op("Reshape", part, g.constant([1, rows, count, size])), perm=[0, 2, 1, 3])

        query, key, value = (by_head(*each) for each in zip(parts, (heads, kv_heads, kv_heads), strict=True))
        tables, rotary_size = (run.cos, run.sin), run.rope.rotary_size
        query, key = (self._normed(g, run, name, *each) for each in (("query", query), ("key", key)))
        query = rotate_halves(g, f"{name}/query", query, tables, rotary_size, size)
        key = rotate_halves(g, f"{name}/key", key, tables, rotary_size, size)

        # Heads that share a key are rows of one product: no key is copied for each of them.
        scaled = g.op("Mul", query, g.constant(self.score_scale), name=f"{name}/scale")
        stacked = g.op("Reshape", scaled, g.constant([1, kv_heads, group * rows, size]))
        past_key, past_value = run.past[layer]
        if shape.is_apart:
            scores = g.op("Concat", *(_products(g, stacked, keys) for keys in (past_key, key)), axis=3)
        else:
            keys = g.op("Concat", past_key, key, axis=2, name=f"{name}/keys")
            scores = _products(g, stacked, keys, f"{name}/scores")  # [1, KV, G * S, C + S]
        apart = g.op("Reshape", scores, g.constant([1, heads, rows, columns]))
        seen = g.op("Softmax", g.op("Add", apart, run.bias, name=f"{name}/mask"), axis=-1, name=f"{name}/softmax")
        together = g.op("Reshape", seen, g.constant([1, kv_heads, group * rows, columns]))
        if shape.is_apart:
            old, new = g.ops("Split", together, g.constant([shape.context, rows]), outputs=2, axis=-1)
            mixed = g.op("Add", g.op("MatMul", old, past_value), g.op("MatMul", new, value), name=f"{name}/mix")
        else:
            values = g.op("Concat", past_value, value, axis=2, name=f"{name}/values")
            mixed = g.op("MatMul", together, values, name=f"{name}/mix")  # [1, KV, G * S, D]
        mixed = g.op("Reshape", mixed, g.constant([1, heads, rows, size]))
        mixed = g.op("Transpose", mixed, perm=[0, 2, 1, 3])
        joined = g.op("Reshape", mixed, g.constant([1, rows, heads * size]), name=f"{name}/joined")
        run.present.append((key, value))
        return self._output(g, run, name, weights, joined)

    def _project(self, g: GraphBuilder, run: Run | StaticRun, name: str, weights: StateDict, x: ir.Value) -> ir.Value:
        """Fused projection, [..., H] -> [..., (heads + 2 kv heads) * D]."""
        weight = self.rows(weights.get("qkv_proj.weight", self.qkv_size, run.hidden_size))
        bias = self.rows(weights.get("qkv_proj.bias", self.qkv_size)) if self.has_bias else None
        return run.linears.add(g, f"{name}.qkv_proj", x, weight, MIXER, bias=bias, fit=self.row_pair)

    def _output(self, g: GraphBuilder, run: Run | StaticRun, name: str, weights: StateDict, x: ir.Value) -> ir.Value:
        """Output projection, [..., heads * D] -> [..., H]."""
        weight = self.columns(weights.get("o_proj.weight", run.hidden_size, self.num_heads * self.head_size))
        bias = weights.get("o_proj.bias", run.hidden_size) if self.has_output_bias else None
        return run.linears.add(g, f"{name}.o_proj", x, weight, MIXER, bias=bias, fit=self.column_pair)

    def _split(self, g: GraphBuilder, name: str, qkv: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        size = self.cache_head_size
        widths = g.constant([self.num_heads * size, self.num_kv_heads * size, self.num_kv_heads * size])
        query, key, value = g.ops("Split", qkv, widths, outputs=3, axis=-1, name=f"{name}/split")
        return query, key, value

    def _parts(
        self, g: GraphBuilder, name: str, qkv: ir.Value, run: Run, *, is_fused: bool
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Queries, keys and values; the first two normalised, and rotated unless the fused operator does that."""
        query, key, value = self._split(g, name, qkv)
        size = self.cache_head_size

        def turned(x: ir.Value, count: int, which: str) -> ir.Value:
            x = g.op("Reshape", x, g.constant([0, 0, count, size]))  # [B, S, N, D]
            x = self._normed(g, run, name, which, x)
            if not is_fused:
                x = rotate(g, f"{name}/{which}", x, run.positions, run.tables, run.rope.rotary_size)
            return g.op("Reshape", x, g.constant([0, 0, count * size]))

        return turned(query, self.num_heads, "query"), turned(key, self.num_kv_heads, "key"), value

    def _normed(self, g: GraphBuilder, run: Run | StaticRun, name: str, which: str, x: ir.Value) -> ir.Value:
        """Queries or keys behind the norm of each head, [..., D] -> [..., D]."""
        if self.norm_eps is None:
            return x
        norm = HeadNorm(NORM_OF[which], self.head_size, self.cache_head_size, self.norm_eps)
        emit = norm.emit_static if isinstance(run, StaticRun) else norm.emit
        return emit(g, f"{name}.", run.weights.within(f"{name}."), x)


def _products(g: GraphBuilder, queries: ir.Value, keys: ir.Value, name: str = "") -> ir.Value:
    """Products of queries and keys, [1, KV, G * S, D] and [1, KV, C, D] -> [1, KV, G * S, C]."""
    return g.op("MatMul", queries, g.op("Transpose", keys, perm=[0, 1, 3, 2]), name=name)
