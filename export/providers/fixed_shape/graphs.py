"""Graphs of a static decoder: one for each route and role, all on one set of weights, and the embedding's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from palmtop.export.arch import Model
from palmtop.export.bundle.external_data import ExternalData
from palmtop.export.bundle.shared_weights import SharedWeights
from palmtop.export.checkpoint.lazy_tensor import LazyTensor, StateDict
from palmtop.export.checkpoint.lora import Adapter
from palmtop.export.graph.building.builder import OPSET, GraphBuilder, WeightSink, remove_unused
from palmtop.export.graph.building.mark import HEAD
from palmtop.export.graph.building.run import StaticShape
from palmtop.export.graph.building.source import StaticContext
from palmtop.export.graph.embedding import add_table
from palmtop.export.graph.linear import FLOAT, FLOAT_GRAPH, GraphPrecision, Precisions, StaticLinear, linear
from palmtop.runtime.bundle.manifest import Route
from palmtop.runtime.bundle.targets import BASE_ROUTE, RopeSpec, StaticRoute, StaticSpec

MASK = -1e4  # float16, in which NPUs compute, can represent it
EMBEDDING_GRAPH = "embedding"
WEIGHTS_FILE = "weights/static.bin"


def mixes(routes: Mapping[str, Route], adapters: tuple[Adapter, ...]) -> dict[str, dict[str, float]]:
    """Return the different mixes of adapters of the routes, by name: "none", "vision", "a+b"."""
    gated = {adapter.name for adapter in adapters}
    found: dict[str, dict[str, float]] = {}
    for route in routes.values():
        mix = {name: weight for name, weight in route.adapters.items() if weight and name in gated}
        if mix not in found.values():
            name = "+".join(n if w == 1 else f"{n}={w:g}" for n, w in mix.items()) or BASE_ROUTE
            found[name] = mix
    return found


def write_graphs(
    folder: Path,
    model: Model,
    weights: StateDict,
    sink: WeightSink,
    linears: StaticLinear,
    table: Precisions,
    wanted: Mapping[str, Mapping[str, float]],
    *,
    context: int,
    chunk: int,
    prefix: str = "",
    opset: int = OPSET,
    is_apart: bool = False,
) -> StaticSpec:
    """Write the graphs of a decoder one after the other, and the embedding's.

    Args:
        folder: folder for ``prefill_none.onnx``, ..., ``embedding.onnx``.
        model: the model to export.
        weights: weights of the model, or with adapters merged into them.
        sink: weight sink that gets every weight once (``SharedWeights``).
        linears: function that stores a route's matrices.
        table: precision of the embedding.
        wanted: adapters of each route by name (``mixes``).
        context: C, positions of the cache.
        chunk: S of the prefill graphs, at most C.
        prefix: prefix of the files' names.
        opset: opset of the graphs.
        is_apart: split of their attention (``StaticShape``).

    Returns:
        Description of the graphs for ``runtime.providers.static_decoder``.

    Raises:
        CheckpointError: a tensor is missing, of the wrong shape, or not finite.
    """
    chunk = min(chunk, context)
    embedding = f"{prefix}{EMBEDDING_GRAPH}.onnx"
    ir.save(embedding_graph(model, weights, sink, table), folder / embedding)
    by_name = {adapter.name: adapter for adapter in model.adapters}
    routes = []
    for route, mix in wanted.items():
        on = [(by_name[name], weight) for name, weight in mix.items()]
        files = {}
        for role, rows in (("prefill", chunk), ("decode", 1)):
            g = GraphBuilder(f"{role}_{route}", sink, opset)
            shape = StaticShape(context, rows, is_apart)
            model.decoder.build_static(g, StaticContext(weights=weights, shape=shape, linear=linears, on=on))
            files[role] = f"{prefix}{role}_{re.sub(r'[^A-Za-z0-9._-]', '_', route)}.onnx"
            ir.save(g.model(), folder / files[role])
        routes.append(StaticRoute(adapters=dict(mix), **files))
    rope = model.decoder.rope
    return StaticSpec(
        context=context,
        chunk=chunk,
        masked=MASK,
        window=model.decoder.attention.window_in(context),
        rope=RopeSpec(
            theta=rope.theta,
            rotary_size=rope.rotary_size,
            attention_factor=rope.attention_factor,
            short_factor=rope.short_factor or (),
            long_factor=rope.long_factor or (),
        ),
        embedding=embedding,
        routes=tuple(routes),
    )


def embedding_graph(model: Model, weights: StateDict, sink: WeightSink, precision: Precisions) -> ir.Model:
    """Return the embedding graph for the CPU, on the decoder's table: ids [1, S] -> rows [1, S, H] float32."""
    decoder = model.decoder
    g = GraphBuilder(EMBEDDING_GRAPH, sink)
    table = add_table(g, weights, decoder.vocab_size, decoder.hidden_size, decoder.is_tied, precision)
    ids = g.input("input_ids", ir.DataType.INT64, [1, "sequence"])
    g.output(table.rows(g, ids), "rows", ir.DataType.FLOAT, [1, "sequence", decoder.hidden_size])
    built = g.model()
    remove_unused(built)  # the head's initialiser on the table
    return built


def stored_linear(precision: GraphPrecision) -> StaticLinear:
    """Return a function that stores matrices as the gated graph does, under its names: one sink stores them once."""

    def build(g: GraphBuilder, name: str, x: ir.Value, weight: LazyTensor, role: str) -> ir.Value:
        own = precision.of(role).of(name)
        # The gated graph reads a float table as [V, H]; a MatMul needs its transpose.
        name = "lm_head" if role == HEAD and own.scheme is None else name
        return linear(g, name, x, weight, own, role)

    return build


def write_float_graphs(folder: Path, model: Model, *, context: int, chunk: int) -> StaticSpec:
    """Write all graphs in float32, and ``weights/static.bin``: input of the quantisers of other targets."""
    wanted = mixes(model.routes, model.adapters)
    with ExternalData(folder, WEIGHTS_FILE) as file:
        linears, sink = stored_linear(FLOAT_GRAPH), SharedWeights(file)
        return write_graphs(folder, model, model.weights, sink, linears, FLOAT, wanted, context=context, chunk=chunk)
