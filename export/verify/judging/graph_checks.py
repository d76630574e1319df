"""Comparison of a bundle's graphs with those that the exporter builds: operators, attributes and constants.

Short questions do not reach everything: a sliding window or a rotary table beyond their length changes none of their
logits. So the graph code is run once more, with the bundle's bit widths and a sink that writes nothing, and the two
graphs are compared as expressions. Stored tensors are compared elsewhere (``tensors``); here only their names count.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

import palmtop
from palmtop.export.adapters.graph import DecoderGraph
from palmtop.export.arch import Model
from palmtop.export.bundle.bundle_writer import build_graph
from palmtop.export.graph.kv_cache import KvCache
from palmtop.export.recipe import Recipe
from palmtop.export.verify.quality import Check
from palmtop.export.verify.stored_precision import StoredPrecision
from palmtop.quantize.workers import Workers
from palmtop.runtime.bundle.manifest import Manifest
from palmtop.runtime.bundle.opening import Bundle

Signature = str


class _PlaceSink:
    """Weight sink that gives every large tensor a place and writes nothing.

    Attributes:
        named: tensors that the bundle stores, by name.
    """

    def __init__(self) -> None:
        self.workers = Workers()
        self.named: set[str] = set()

    def add(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], blocks: object) -> ir.ExternalTensor:
        """Return a place for one tensor."""
        self.named.add(name)
        kind = ir.DataType.from_numpy(dtype)
        return ir.ExternalTensor("none", len(self.named), 0, kind, shape=ir.Shape(shape), name=name)

    def add_set(
        self, name: str, tensors: Sequence[tuple[str, tuple[int, ...], np.dtype[Any]]], blocks: object
    ) -> list[ir.ExternalTensor]:
        """Return places for codes with their scales."""
        return [self.add(*each, blocks) for each in tensors]

    def inlined(self, name: str, array: NDArray[Any]) -> None:
        """Record a small weight, which is compared with the stored tensors, too."""
        self.named.add(name)


def compare_graphs(bundle: Bundle, model: Model, recipe: Recipe, cache: KvCache) -> tuple[list[Check], list[str]]:
    """Return one check for each graph.

    Args:
        bundle: bundle to be compared.
        model: model of the checkpoint.
        recipe: recipe of the bundle.
        cache: KV cache of the bundle.

    Returns:
        Checks, and the reason why a graph was not compared.
    """
    if bundle.manifest.palmtop != palmtop.__version__:
        reason = f"the bundle is of palmtop {bundle.manifest.palmtop}, this is {palmtop.__version__}"
        return [], [f"graphs, node by node: {reason}; their logits were compared"]
    model = replace(model, adapters=_kept(model, bundle.manifest, recipe))
    checks = []
    for part in model.graphs:
        path = bundle.file(f"{part}.onnx")
        sink = _PlaceSink()
        built = build_graph(model, recipe, part, sink, StoredPrecision(bundle.path), cache)
        names = [i.name for i in built.graph.inputs]
        expected = ir.from_proto(ir.to_proto(built))  # as it is after reading a file
        found = _without_added(path, bundle.manifest) if part == "decoder" else ir.load(path)
        detail = difference(expected.graph, found.graph, sink.named)
        checks.append(
            Check(
                name=f"{part}: graph",
                passed=detail is None,
                value=float(detail is None),
                limit=1.0,
                detail=detail or f"every operator, attribute and constant as exported; {len(names)} inputs",
            )
        )
    return checks, []


def difference(expected: ir.Graph, found: ir.Graph, stored: set[str]) -> str | None:
    """Return the first difference between two graphs in one sentence; None without one.

    Args:
        expected: graph as exported.
        found: graph to be compared.
        stored: initialisers whose content is compared elsewhere; here name, type and shape count.
    """
    ours, theirs = _Signatures(expected, stored), _Signatures(found, stored)
    for kind, pair in {"inputs": (ours.inputs, theirs.inputs), "outputs": (ours.outputs, theirs.outputs)}.items():
        if pair[0].keys() != pair[1].keys():
            names = ", ".join(sorted(pair[0].keys() ^ pair[1].keys()))
            return f"{kind} differ: {names:.200}"
        changed = [name for name in pair[0] if pair[0][name] != pair[1][name]]
        if changed and kind == "inputs":
            return f"input '{changed[0]}' has another type or shape"
        if changed:
            return _first_node(ours, theirs) or f"output '{changed[0]}' is computed from something else"
    return None


def _first_node(ours: _Signatures, theirs: _Signatures) -> str | None:
    """Sentence on the first node that equals no node of the exported graph, compared with the one of its name."""
    known = {signature for _, signature in ours.nodes}
    by_name = {node.name: node for node, _ in ours.nodes}
    for node, signature in theirs.nodes:
        if signature in known:
            continue
        wanted = by_name.get(node.name)
        label = f"'{node.name}' ({node.op_type})"
        if wanted is None:
            return f"node {label} is not in the exported graph"
        if wanted.op_type != node.op_type:
            return f"node '{node.name}' is {node.op_type}, expected {wanted.op_type}"
        for name in sorted(wanted.attributes.keys() | node.attributes.keys()):
            values = [_shown(n.attributes.get(name)) for n in (node, wanted)]
            if values[0] != values[1] and "graph" not in values:
                return f"node {label}: {name} is {values[0]}, expected {values[1]}"
        for place in range(max(len(node.inputs), len(wanted.inputs))):
            sides = ((theirs, node), (ours, wanted))
            if len({s.of_input(n, place) for s, n in sides}) > 1:
                texts = [_input_text(n, place) for _, n in sides]
                return f"node {label}: input {place} is {texts[0]:.80}, expected {texts[1]:.80}"
        return f"node {label} has another branch"
    return None


class _Signatures:
    """Hashes of the expressions of a graph's values.

    Attributes:
        nodes: nodes with their hashes, in order.
        inputs: types and shapes of the graph's inputs.
        outputs: hashes of the graph's outputs.
    """

    def __init__(self, graph: ir.Graph, stored: set[str]) -> None:
        self._stored = stored
        self._values: dict[int, Signature] = {}
        self._places: dict[tuple[str, int], str] = {}
        self.nodes: list[tuple[ir.Node, Signature]] = []
        for each in (graph, *graph.subgraphs()):
            for name, value in each.initializers.items():
                if name in stored and isinstance(value.const_value, ir.ExternalTensor):
                    self._places[_place(value.const_value)] = name
        self.inputs = {str(v.name): f"{v.dtype} {v.shape}" for v in graph.inputs}
        for value in graph.inputs:
            self._values[id(value)] = _hash("input", value.name)
        self._add(graph)
        self.outputs = {str(v.name): self._values[id(v)] for v in graph.outputs}

    def of_input(self, node: ir.Node, place: int) -> Signature:
        """Return the hash of one input; empty if there is none."""
        value = node.inputs[place] if place < len(node.inputs) else None
        return "" if value is None else self._value(value)

    def _add(self, graph: ir.Graph) -> list[Signature]:
        for node in graph:
            attributes = [(name, self._attribute(node.attributes[name])) for name in sorted(node.attributes)]
            inputs = [self.of_input(node, place) for place in range(_used(node))]
            own = _hash(node.domain, node.op_type, *map(str, attributes), *inputs)
            self.nodes.append((node, own))
            for place, value in enumerate(node.outputs):
                self._values[id(value)] = _hash(own, place)
        return [self._values[id(value)] for value in graph.outputs]

    def _attribute(self, attribute: ir.Attr) -> str:
        if attribute.type == ir.AttributeType.GRAPH:
            return _hash(*self._add(attribute.as_graph()))
        return _shown(attribute)

    def _value(self, value: ir.Value) -> Signature:
        if id(value) not in self._values:
            self._values[id(value)] = self._constant(value)
        return self._values[id(value)]

    def _constant(self, value: ir.Value) -> Signature:
        tensor = value.const_value
        if tensor is None:
            return _hash("nothing", value.name)
        kind = f"{tensor.dtype} {tuple(tensor.shape.numpy())}"
        if str(value.name) in self._stored:
            return _hash("stored", value.name, kind)
        if isinstance(tensor, ir.ExternalTensor) and _place(tensor) in self._places:
            return _hash("stored", self._places[_place(tensor)], kind)
        return _hash("constant", kind, hashlib.sha256(tensor.tobytes()).hexdigest())


def _used(node: ir.Node) -> int:
    """Inputs up to the last existing one."""
    return max((place + 1 for place, value in enumerate(node.inputs) if value is not None), default=0)


def _place(tensor: ir.ExternalTensor) -> tuple[str, int]:
    return str(tensor.location), int(tensor.offset or 0)


def _shown(attribute: ir.Attr | None) -> str:
    if attribute is None:
        return "absent"
    if attribute.type == ir.AttributeType.GRAPH:
        return "graph"
    if attribute.type == ir.AttributeType.TENSOR:
        tensor = attribute.as_tensor()
        return f"tensor {tensor.dtype} {tensor.numpy().tolist()!r:.60} {_hash(tensor.tobytes())[:8]}"
    if attribute.type == ir.AttributeType.FLOAT:
        return f"{attribute.as_float():.9g}"
    return str(attribute.value)


def _input_text(node: ir.Node, place: int) -> str:
    value = node.inputs[place] if place < len(node.inputs) else None
    if value is None:
        return "absent"
    tensor = value.const_value
    if tensor is None or isinstance(tensor, ir.ExternalTensor):
        return f"'{value.name}'"
    return f"the constant {tensor.numpy().reshape(-1)[:8].tolist()}"


def _hash(*parts: object) -> Signature:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


def _kept(model: Model, manifest: Manifest, recipe: Recipe) -> Any:
    """Return the checkpoint's adapters that the bundle still has; a merge needs all of them."""
    if recipe.adapter_mode != "gated":
        return model.adapters
    own = {a.name for a in manifest.adapters if a.file is None}
    return tuple(a for a in model.adapters if a.name in own)


def _without_added(path: Path, manifest: Manifest) -> ir.Model:
    """Return the decoder without adapters that were added to the bundle later; those are compared one by one."""
    added: Iterable[str] = [a.name for a in manifest.adapters if a.file is not None]
    graph = DecoderGraph(path)
    for name in set(added) & set(graph.adapters):
        graph.remove(name)
    return graph.model
