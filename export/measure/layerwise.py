"""A float graph cut into stages, a layer each, that run one after the other in onnxruntime.

Calibration needs what enters every linear layer, sensitivity what comes out at the end when one weight is
another. Both need a graph whose layers can be run by themselves. A stage is an ordinary ONNX file beside the
graph it was cut from, with the weights where they were, so no more than one layer's are in memory unless more
are asked for. ``If`` branches with linear layers are laid open: both sides are computed and the right one is taken.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

Live = dict[str, NDArray[Any]]
LAYER = re.compile(r"(layers|encoders)\.(\d+)\.")
LAST_POSITION = "last_position"
TABLE = "embed_tokens"


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer or table of a stage.

    Attributes:
        name: as the exporter names it; a tied head has its table's.
        input: the value it reads; None for a table that is looked up.
        weight: its initialiser.
        is_turned: the initialiser is [K, N], not [N, K].
        condition: the value whose truth decides whether its result is used; None for always.
        wanted: that truth.
    """

    name: str
    input: str | None
    weight: str
    is_turned: bool
    condition: str | None = None
    wanted: bool = True


@dataclass(frozen=True, slots=True)
class Stage:
    """Some consecutive nodes.

    Attributes:
        nodes: in order.
        inputs: values from outside, weights not among them.
        outputs: values that later stages, or the caller, want.
        linears: in order.
        made: every value that its nodes give.
    """

    nodes: tuple[Any, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    linears: tuple[Linear, ...]
    made: frozenset[str]


class StagedGraph:
    """A float graph of ours, ready to be run stage by stage.

    Attributes:
        path: of the whole graph.
        stages: in order.
        last_hidden: the value whose last position the head reads; None in an encoder.
        outputs: names of the graph's outputs, past keys and values left out.
    """

    def __init__(self, path: Path, *, threads: int = 0, open_sessions: int = 1) -> None:
        """Cut a graph; nothing is loaded yet.

        Args:
            path: an ``.onnx`` file; stages are written beside it.
            threads: of onnxruntime; 0 is one a core.
            open_sessions: stages that are kept loaded.
        """
        self.path = path
        self._threads = threads
        self._open_sessions = open_sessions
        self._sessions: OrderedDict[tuple[int, frozenset[str], frozenset[str]], Any] = OrderedDict()
        self._latest: Live = {}  # what the first stage has last given
        graph = onnx.load(path, load_external_data=False).graph
        self._weights = {w.name: w for w in graph.initializer}
        self._inputs = {i.name: i for i in graph.input}
        conditions: dict[str, tuple[str, bool]] = {}
        nodes = list(_laid_open(graph.node, self._weights, conditions))
        self.outputs = tuple(o.name for o in graph.output if not o.name.startswith("present."))
        self.last_hidden = next((str(n.input[0]) for n in nodes if n.name == LAST_POSITION), None)
        self.stages = tuple(_cut(nodes, set(self._weights), self.outputs, conditions))

    def linears(self) -> dict[str, tuple[int, Linear]]:
        """Every linear layer by name with the last stage that reads its weight."""
        return {linear.name: (number, linear) for number, stage in enumerate(self.stages) for linear in stage.linears}

    def run(
        self,
        number: int,
        live: Mapping[str, NDArray[Any]],
        *,
        changed: Mapping[str, NDArray[np.float32]] | None = None,
        exposed: Iterable[str] = (),
    ) -> Live:
        """Run one stage.

        Args:
            number: of the stage.
            live: values from before, by name; more than the stage reads may be there.
            changed: weights by initialiser name that take the place of the stored ones.
            exposed: values inside the stage that are wanted as well.

        Returns:
            The stage's outputs and what was to be exposed.
        """
        stage = self.stages[number]
        fed = frozenset(changed or ())
        wanted = [*stage.outputs, *(name for name in dict.fromkeys(exposed) if name not in stage.outputs)]
        there = stage.made
        session = self._session(number, fed, frozenset(wanted), live)
        asked = [name for name in wanted if name in there]
        feeds = {name: live[name] for name in stage.inputs} | dict(changed or {})
        found = dict(zip(asked, session.run(asked, feeds), strict=True))
        if number == 0:
            found = {name: self._shared(name, value) for name, value in found.items()}
        return found | {name: live[name] for name in wanted if name not in there}

    def _shared(self, name: str, value: NDArray[Any]) -> NDArray[Any]:
        """The same array for every sample where it is the same: rotary tables of the whole context, a MB each."""
        kept = self._latest.get(name)
        if kept is None or not np.array_equal(kept, value):
            kept = self._latest[name] = value
        return kept

    def forget(self, live: Live, number: int, *, keep_outputs: bool = True) -> None:
        """Drop values that no stage behind one reads; the graph's outputs may be wanted themselves."""
        wanted = {name for stage in self.stages[number + 1 :] for name in stage.inputs}
        if keep_outputs:
            wanted.update(self.outputs)
        for name in [name for name in live if name not in wanted]:
            del live[name]

    def weight(self, linear: Linear) -> NDArray[np.float32]:
        """The stored weight, [N, K]."""
        tensor = self._weights[linear.weight]
        array = onnx.numpy_helper.to_array(tensor, base_dir=str(self.path.parent))
        return np.ascontiguousarray(array.T if linear.is_turned else array, np.float32)

    def shape(self, linear: Linear) -> tuple[int, int]:
        """Of that weight."""
        first, second = (int(size) for size in self._weights[linear.weight].dims)
        return (second, first) if linear.is_turned else (first, second)

    def close(self) -> None:
        """Drop every loaded stage."""
        self._sessions.clear()
        self._latest.clear()

    def _session(
        self, number: int, fed: frozenset[str], wanted: frozenset[str], live: Mapping[str, NDArray[Any]]
    ) -> Any:
        import onnxruntime as ort

        key = (number, fed, wanted)
        if key in self._sessions:
            self._sessions.move_to_end(key)
            return self._sessions[key]
        while len(self._sessions) >= self._open_sessions:
            self._sessions.popitem(last=False)
        others = [other for other in self._sessions if other[1]]
        while len(others) >= len(self.stages):  # of weights that were changed once and will not be again
            del self._sessions[others.pop(0)]
        path = self.path.with_name(f"{self.path.stem}-stage.onnx")
        path.write_bytes(self._model(number, fed, wanted, live).SerializeToString())
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self._threads
        options.enable_cpu_mem_arena = False  # inputs have every length: arenas would grow to twice all that lives
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._sessions[key] = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        path.unlink()
        return self._sessions[key]

    def _model(self, number: int, fed: frozenset[str], wanted: frozenset[str], live: Mapping[str, NDArray[Any]]) -> Any:
        stage = self.stages[number]
        inputs = [
            self._inputs.get(name) or helper.make_tensor_value_info(name, _type(live[name]), [None] * live[name].ndim)
            for name in stage.inputs
        ]
        used = set[str]().union(*(_read_by(node) for node in stage.nodes))
        inputs += [
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list(self._weights[name].dims)) for name in fed
        ]
        graph = helper.make_graph(
            stage.nodes,
            f"stage{number}",
            inputs,
            [onnx.ValueInfoProto(name=name) for name in sorted(wanted & stage.made)],
            [w for name, w in self._weights.items() if name in used and name not in fed],
        )
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _type(array: NDArray[Any]) -> int:
    return int(helper.np_dtype_to_tensor_dtype(array.dtype))


def _laid_open(nodes: Iterable[Any], weights: dict[str, Any], conditions: dict[str, tuple[str, bool]]) -> Iterable[Any]:
    """Nodes with every ``If`` replaced by both its branches and a choice; their initialisers join ``weights``."""
    for node in nodes:
        if node.op_type != "If" or not any(_has_linear(attribute.g) for attribute in node.attribute):
            yield node
            continue
        results = {}
        for attribute in node.attribute:
            for weight in attribute.g.initializer:
                weights[weight.name] = weight
                conditions[weight.name] = (node.input[0], attribute.name == "then_branch")
            yield from _laid_open(attribute.g.node, weights, conditions)
            results[attribute.name] = attribute.g.output[0].name
        choice = [node.input[0], results["then_branch"], results["else_branch"]]
        yield helper.make_node("Where", choice, list(node.output), name=node.name)


def _has_linear(graph: Any) -> bool:
    names = {weight.name for weight in graph.initializer}
    return any(_weight_of(node, names) for node in graph.node)


def _read_by(node: Any) -> set[str]:
    """Values a node reads, those that its branches take from around them included."""
    names = {name for name in node.input if name}
    for attribute in node.attribute:
        if attribute.HasField("g"):
            own = {weight.name for weight in attribute.g.initializer}
            own |= {name for inner in attribute.g.node for name in inner.output}
            names |= set[str]().union(*(_read_by(inner) for inner in attribute.g.node)) - own
    return names


def _cut(
    nodes: list[Any], weights: set[str], outputs: tuple[str, ...], conditions: dict[str, tuple[str, bool]]
) -> Iterable[Stage]:
    """Start a stage at the first linear layer of every layer and at the last position."""
    parts: list[list[Any]] = [[]]
    seen: set[str] = set()
    for node in nodes:
        match = LAYER.search(node.name) if _weight_of(node, weights) else None
        key = match[0] if match else LAST_POSITION if node.name == LAST_POSITION else None
        if key is not None and key not in seen:
            seen.add(key)
            parts.append([])
        parts[-1].append(node)
    made = [{name for node in part for name in node.output} for part in parts]
    read = [set[str]().union(*(_read_by(node) for node in part)) - weights for part in parts]
    for number, part in enumerate(parts):
        later = set(outputs).union(*read[number + 1 :])
        yield Stage(
            nodes=tuple(part),
            inputs=tuple(sorted(read[number] - made[number])),
            outputs=tuple(sorted(made[number] & later)),
            made=frozenset(made[number]),
            linears=tuple(linear for node in part if (linear := _linear(node, weights, conditions)) is not None),
        )


def _weight_of(node: Any, weights: set[str]) -> str | None:
    """The initialiser that makes a node a linear layer."""
    if node.op_type in ("MatMul", "Gemm") and len(node.input) > 1 and node.input[1] in weights:
        return str(node.input[1])
    if node.op_type == "Gather" and node.input[0] == f"{TABLE}.weight":
        return str(node.input[0])
    return None


def _linear(node: Any, weights: set[str], conditions: dict[str, tuple[str, bool]]) -> Linear | None:
    weight = _weight_of(node, weights)
    if weight is None or not weight.endswith(".weight"):
        return None
    source = None if node.op_type == "Gather" else str(node.input[0])
    condition, wanted = conditions.get(weight, (None, True))
    return Linear(weight.removesuffix(".weight"), source, weight, node.op_type == "MatMul", condition, wanted)
