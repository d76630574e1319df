"""The graphs of a static decoder: one for each route and role, all on one set of weights, and the embedding's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from palmtop.export.arch import Model
from palmtop.export.bundle.external_data import WeightFile
from palmtop.export.bundle.shared_weights import SharedWeights
from palmtop.export.checkpoint.lazy_tensor import Weight, Weights
from palmtop.export.checkpoint.lora import Adapter
from palmtop.export.graph.builder import OPSET, GraphBuilder, WeightSink, remove_unused
from palmtop.export.graph.embedding import add_table
from palmtop.export.graph.linear import FLOAT, FLOAT_GRAPH, GraphPrecision, Precisions, StaticLinear, linear
from palmtop.export.graph.mark import HEAD
from palmtop.export.graph.run import StaticShape
from palmtop.export.graph.source import StaticContext
from palmtop.runtime.bundle.manifest import Route
from palmtop.runtime.bundle.targets import BASE_ROUTE, RopeSpec, StaticRoute, StaticSpec

ROLES = ("prefill", "decode")
FLOAT_MASK = -1e4
EMBEDDING_GRAPH = "embedding"
WEIGHTS_FILE = "weights/static.bin"


@dataclass(frozen=True, slots=True)
class StaticGraph:
    """One graph.

    Attributes:
        route: of ``mixes``.
        role: "prefill" or "decode".
        model: the graph itself.
    """

    route: str
    role: str
    model: ir.Model


def mixes(routes: Mapping[str, Route], adapters: tuple[Adapter, ...]) -> dict[str, dict[str, float]]:
    """The different mixes of adapters that routes switch on, each under a name: "none", "vision", "a+b"."""
    gated = {adapter.name for adapter in adapters}
    found: dict[str, dict[str, float]] = {}
    for route in routes.values():
        mix = {name: weight for name, weight in route.adapters.items() if weight and name in gated}
        if mix not in found.values():
            name = "+".join(n if w == 1 else f"{n}={w:g}" for n, w in mix.items()) or BASE_ROUTE
            found[name] = mix
    return found


def static_graphs(
    model: Model,
    weights: Weights,
    sink: WeightSink,
    linears: StaticLinear,
    wanted: Mapping[str, Mapping[str, float]],
    *,
    context: int,
    chunk: int,
    opset: int = OPSET,
    is_apart: bool = False,
) -> Iterator[StaticGraph]:
    """Build the graphs one after the other.

    Args:
        model: what is exported.
        weights: its own, or with adapters merged into them.
        sink: gets every weight once (``SharedWeights``).
        linears: how matrices are stored.
        wanted: by name the adapters of each route (``mixes``).
        context: C.
        chunk: S of the prefill graphs.
        opset: of the graphs.
        is_apart: of their attention (``StaticShape``).
    """
    by_name = {adapter.name: adapter for adapter in model.adapters}
    for route, mix in wanted.items():
        on = [(by_name[name], weight) for name, weight in mix.items()]
        for role in ROLES:
            g = GraphBuilder(f"{role}_{route}", sink, opset)
            shape = StaticShape(context, chunk if role == "prefill" else 1, is_apart)
            model.decoder.build_static(g, StaticContext(weights=weights, shape=shape, linear=linears, on=on))
            yield StaticGraph(route, role, g.model())


def embedding_graph(model: Model, weights: Weights, sink: WeightSink, precision: Precisions) -> ir.Model:
    """From ids [1, S] int64 to rows [1, S, H] float32, for the CPU: the decoder's table, its very bytes."""
    decoder = model.decoder
    g = GraphBuilder(EMBEDDING_GRAPH, sink)
    table = add_table(g, weights, decoder.vocab_size, decoder.hidden_size, decoder.is_tied, precision)
    ids = g.input("input_ids", ir.DataType.INT64, [1, "sequence"])
    g.output(table.rows(g, ids), "rows", ir.DataType.FLOAT, [1, "sequence", decoder.hidden_size])
    built = g.model()
    remove_unused(built)  # the head's view of the table
    return built


def stored_linear(precision: GraphPrecision) -> StaticLinear:
    """Matrices as the gated graph stores them, under its names: on one sink both have the same bytes."""

    def build(g: GraphBuilder, name: str, x: ir.Value, weight: Weight, role: str) -> ir.Value:
        own = precision.of(role).of(name)
        # The gated graph reads a float table as it lies, [V, H]; a MatMul wants it turned.
        name = "lm_head" if role == HEAD and own.scheme is None else name
        return linear(g, name, x, weight, own, role)

    return build


def rope_spec(model: Model) -> RopeSpec:
    """The rotary tables as data."""
    rope = model.decoder.rope
    return RopeSpec(
        theta=rope.theta,
        rotary_size=rope.rotary_size,
        attention_factor=rope.attention_factor,
        short_factor=rope.short_factor or (),
        long_factor=rope.long_factor or (),
    )


def write_float_graphs(folder: Path, model: Model, *, context: int, chunk: int) -> StaticSpec:
    """Write all float32 graphs of a model and their weights: what quantisers of other targets begin with.

    Args:
        folder: empty; gets ``prefill_none.onnx``, ..., ``embedding.onnx`` and ``weights/static.bin``.
        model: read by its architecture file.
        context: C.
        chunk: S of the prefill graphs.

    Returns:
        What ``runtime.static_decoder`` needs to run them.

    Raises:
        CheckpointError: a tensor is missing, of the wrong shape, or not finite.
    """
    routes = []
    wanted = mixes(model.routes, model.adapters)
    with WeightFile(folder, WEIGHTS_FILE) as file:
        sink = SharedWeights(file)
        table = embedding_graph(model, model.weights, sink, FLOAT)
        ir.save(table, folder / f"{EMBEDDING_GRAPH}.onnx")
        linears = stored_linear(FLOAT_GRAPH)
        for graph in static_graphs(model, model.weights, sink, linears, wanted, context=context, chunk=chunk):
            ir.save(graph.model, folder / f"{graph.role}_{graph.route}.onnx")
    for route, mix in wanted.items():
        routes.append(StaticRoute(adapters=dict(mix), prefill=f"prefill_{route}.onnx", decode=f"decode_{route}.onnx"))
    return StaticSpec(
        context=context,
        chunk=chunk,
        masked=FLOAT_MASK,
        window=model.decoder.attention.window_in(context),
        rope=rope_spec(model),
        embedding=f"{EMBEDDING_GRAPH}.onnx",
        routes=tuple(routes),
    )
