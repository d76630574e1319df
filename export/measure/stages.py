"""Stages of a graph, a layer each, and the linear layers in them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from onnx import helper

from palmtop.export.graph.building.mark import EXPERT, TABLE, Mark, mark_of

LAYER = re.compile(r"(layers|encoders)\.(\d+)\.")
LAST_POSITION = "last_position"


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer or table of a stage.

    Attributes:
        name: the exporter's name; a tied head has its table's.
        input: value that it reads; None for a table that is looked up.
        weight: name of its initialiser.
        is_turned: whether the initialiser is [K, N], not [N, K].
        condition: value that decides whether its result is used; None for always.
        wanted: value of the condition for which it is used.
        role: role of ``mark.Mark``.
    """

    name: str
    input: str | None
    weight: str
    is_turned: bool
    condition: str | None = None
    wanted: bool = True
    role: str = ""

    @property
    def unit(self) -> str:
        """Name of what is stored in one scheme: the expert that the layer is a part of, or the layer itself."""
        return self.name.rpartition(".")[0] if self.role == EXPERT else self.name


@dataclass(frozen=True, slots=True)
class Stage:
    """Consecutive nodes of a graph.

    Attributes:
        nodes: nodes in order.
        inputs: values from outside, without weights.
        outputs: values that later stages or the caller need.
        linears: linear layers in order.
        made: every value that its nodes compute.
    """

    nodes: tuple[Any, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    linears: tuple[Linear, ...]
    made: frozenset[str]


def needed(nodes: Sequence[Any], wanted: Collection[str]) -> list[Any]:
    """Return the nodes that the values depend on, in order."""
    found, values = [], set(wanted)
    for node in reversed(nodes):
        if values & set(node.output):
            found.append(node)
            values |= read_by(node)
    return found[::-1]


def lift_weights(node: Any, weights: dict[str, Any]) -> None:
    """Move the weights of a node's branches into the graph around it: only there onnxruntime accepts arrays."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            for weight in attribute.g.initializer:
                weights[weight.name] = weight
            del attribute.g.initializer[:]
            for inner in attribute.g.node:
                lift_weights(inner, weights)


def lay_open(nodes: Iterable[Any], weights: dict[str, Any], conditions: dict[str, tuple[str, bool]]) -> Iterable[Any]:
    """Return nodes with every ``If`` replaced by both branches and a choice; initialisers join ``weights``."""
    for node in nodes:
        if node.op_type != "If" or not any(_has_linear(attribute.g) for attribute in node.attribute):
            yield node
            continue
        results = {}
        for attribute in node.attribute:
            for weight in attribute.g.initializer:
                weights[weight.name] = weight
                conditions[weight.name] = (node.input[0], attribute.name == "then_branch")
            yield from lay_open(attribute.g.node, weights, conditions)
            results[attribute.name] = attribute.g.output[0].name
        choice = [node.input[0], results["then_branch"], results["else_branch"]]
        yield helper.make_node("Where", choice, list(node.output), name=node.name)


def _has_linear(graph: Any) -> bool:
    names = {weight.name for weight in graph.initializer}
    return any(_weight_of(node, names) for node in graph.node)


def read_by(node: Any) -> set[str]:
    """Return the values that a node reads, including those that its branches read from around them."""
    names = {name for name in node.input if name}
    for attribute in node.attribute:
        if attribute.HasField("g"):
            own = {weight.name for weight in attribute.g.initializer}
            own |= {name for inner in attribute.g.node for name in inner.output}
            names |= set[str]().union(*(read_by(inner) for inner in attribute.g.node)) - own
    return names


def mark_in(node: Any) -> Mark | None:
    """Return the mark of a node that is a linear layer or a table's look-up; None for other nodes."""
    return mark_of(node.name, {each.key: each.value for each in node.metadata_props})


def cut(
    nodes: list[Any], weights: set[str], outputs: tuple[str, ...], conditions: dict[str, tuple[str, bool]]
) -> Iterable[Stage]:
    """Cut at the first linear layer of every layer and at the last position.

    What is computed of weights alone, as scales that are stored in float16, is computed in every stage that reads it:
    onnxruntime multiplies wrongly, without an error, where a quantised matrix's scales come from outside the graph.
    """
    constant = _constants(nodes, weights, outputs)
    parts: list[list[Any]] = [[]]
    seen: set[str] = set()
    for node in nodes:
        if node.output[0] in constant:
            continue
        match = LAYER.search(node.name) if _weight_of(node, weights) else None
        key = match[0] if match else LAST_POSITION if node.name == LAST_POSITION else None
        if key is not None and key not in seen:
            seen.add(key)
            parts.append([])
        parts[-1].append(node)
    makers = list({id(node): node for node in constant.values()}.values())
    parts = [[*needed(makers, set[str]().union(*map(read_by, part))), *part] for part in parts]
    made = [{name for node in part for name in node.output} for part in parts]
    read = [set[str]().union(*map(read_by, part)) - weights - made[at] for at, part in enumerate(parts)]
    for number, part in enumerate(parts):
        later = set(outputs).union(*read[number + 1 :])
        yield Stage(
            nodes=tuple(part),
            inputs=tuple(sorted(read[number])),
            outputs=tuple(sorted(made[number] & later)),
            made=frozenset(made[number]),
            linears=tuple(linear for node in part if (linear := _linear(node, weights, conditions)) is not None),
        )


def _constants(nodes: Sequence[Any], weights: set[str], outputs: Collection[str]) -> dict[str, Any]:
    """Return the nodes that read nothing but weights, by the values that they compute."""
    found: dict[str, Any] = {}
    for node in nodes:
        read = read_by(node)
        if read and read <= weights | found.keys() and not set(node.output) & set(outputs):
            found.update(dict.fromkeys(node.output, node))
    return found


def _weight_of(node: Any, weights: set[str]) -> str | None:
    """Name of the initialiser that a linear layer, or a table's look-up, reads first."""
    return None if mark_in(node) is None else next((str(name) for name in node.input if name in weights), None)


def _linear(node: Any, weights: set[str], conditions: dict[str, tuple[str, bool]]) -> Linear | None:
    mark, weight = mark_in(node), _weight_of(node, weights)
    if mark is None or weight is None or not weight.endswith(".weight"):  # codes are not read
        return None
    source = None if mark.role == TABLE else str(node.input[0])
    condition, wanted = conditions.get(weight, (None, True))
    return Linear(mark.name, source, weight, node.op_type == "MatMul", condition, wanted, mark.role)
