"""Layerwise execution: a graph cut into stages of one layer that run one after the other in onnxruntime.

Calibration needs the inputs of every linear layer, sensitivity the outputs for one changed weight, verification the
logits of a model that does not fit into memory. All of them need a graph whose layers can be run separately. A stage is
an ordinary ONNX model; its weights are read from the bundle's files, or made from the checkpoint (``lazy_weights``),
when the stage is opened, so at most one layer's are in memory unless more are requested. With ``laid_open`` the ``If``
branches of adapters become plain nodes: both sides are computed and one is selected, so that the inputs of an adapter's
matrices can be read. Otherwise an inactive branch is not computed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import helper

from palmtop.errors import BundleError, PalmtopError
from palmtop.export.graph.building.mark import HEAD, TABLE
from palmtop.runtime.bundle.native_files import GraphSource, graph_source

from .lazy_weights import LazySet, LazyTensor, number_of
from .stages import LAST_POSITION, Linear, Stage, cut, lay_open, lift_weights, mark_in, needed, read_by
from .stored_ends import stored_ends

Live = dict[str, NDArray[Any]]
LOGITS = "logits"
DISTINCT = 2  # rotary tables: of the short factors and of the long ones
HEAD_BLOCK_BYTES = 256 << 20  # bytes of a float head in memory at a time; logits of larger ones are computed in parts


@dataclass(frozen=True, slots=True)
class _Open:
    """A session with its input arrays, which onnxruntime does not keep alive."""

    session: Any
    held: tuple[Any, ...]


class StagedGraph:
    """A graph cut into stages that can be run one by one.

    Attributes:
        stages: stages in order.
        last_hidden: value whose last position the head reads; None in an encoder.
        outputs: names of the graph's outputs, without keys and values.
        inputs: names of the graph's inputs.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        *,
        folder: Path | None = None,
        tensors: Sequence[LazyTensor] = (),
        threads: int = 0,
        open_sessions: int = 1,
        laid_open: bool = True,
    ) -> None:
        """Cut a graph; nothing is loaded yet.

        Args:
            model: model without the data of its large weights.
            folder: folder of the files that its weights name.
            tensors: tensors that are made when needed, by number.
            threads: number of onnxruntime's threads; 0 for one per core.
            open_sessions: number of stages that stay loaded.
            laid_open: whether both sides of an adapter's branch are computed and can be read.
        """
        self._folder = folder
        self._threads = threads
        self._open_sessions = open_sessions
        self._sessions: OrderedDict[tuple[int, frozenset[str], frozenset[str], int], _Open] = OrderedDict()
        self._shared_values: dict[str, list[NDArray[Any]]] = {}  # last outputs of the first stage, distinct ones
        self._arrays: dict[str, NDArray[Any]] = {}  # weights of the stage that was opened last: its next session's too
        self._arrays_of: int | None = None
        graph = model.graph
        if tensors and not laid_open:  # branches are changed below; the caller may cut the same model again
            graph = onnx.GraphProto()
            graph.CopyFrom(model.graph)
        self._weights = {w.name: w for w in graph.initializer}
        self._inputs = {i.name: i for i in graph.input}
        self.inputs = tuple(self._inputs)
        conditions: dict[str, tuple[str, bool]] = {}
        nodes = list(graph.node)
        if laid_open:
            nodes = list(lay_open(nodes, self._weights, conditions))
        elif tensors:
            for node in nodes:
                lift_weights(node, self._weights)
        self._lazy = {name: tensors[n] for name, w in self._weights.items() if (n := number_of(w)) is not None}
        if folder is not None:
            self._lazy |= stored_ends(nodes, self._weights, folder, HEAD_BLOCK_BYTES)
        self.outputs = tuple(o.name for o in graph.output if not o.name.startswith("present."))
        self.last_hidden = next((str(n.input[0]) for n in nodes if n.name == LAST_POSITION), None)
        self.stages = tuple(cut(nodes, set(self._weights), self.outputs, conditions))

    @classmethod
    def of_file(cls, path: Path, *, threads: int = 0, open_sessions: int = 1, laid_open: bool = True) -> StagedGraph:
        """Return the graph of a bundle, its weights in the files beside it.

        Raises:
            BundleError: the file is not an ONNX graph.
        """
        try:
            model = onnx.load(path, load_external_data=False)
        except Exception as error:  # protobuf's errors have no common base
            raise BundleError(f"{path}: cannot be read as an ONNX graph ({str(error).splitlines()[0]})") from error
        folder = path.absolute().parent
        return cls(model, folder=folder, threads=threads, open_sessions=open_sessions, laid_open=laid_open)

    @classmethod
    def of_built(cls, built: ir.Model, tensors: Sequence[LazyTensor]) -> StagedGraph:
        """Return a graph that was built on a ``LazySink`` with these tensors; inactive branches are not computed."""
        return cls(ir.to_proto(built), tensors=tensors, laid_open=False)

    def linears(self) -> dict[str, tuple[int, Linear]]:
        """Return every linear layer by name, with the last stage that reads its weight."""
        return {linear.name: (number, linear) for number, stage in enumerate(self.stages) for linear in stage.linears}

    def run(self, number: int, live: Mapping[str, NDArray[Any]], *, exposed: Iterable[str] = ()) -> Live:
        """Run one stage once; see ``run_all``."""
        return self.run_all(number, [live], exposed=exposed)[0]

    def run_all(
        self,
        number: int,
        lives: Sequence[Mapping[str, NDArray[Any]]],
        *,
        changed: Mapping[str, NDArray[np.float32]] | None = None,
        exposed: Iterable[str] = (),
        outputs: Collection[str] | None = None,
    ) -> list[Live]:
        """Run one stage on several inputs, with its weights read once.

        Args:
            number: number of the stage.
            lives: earlier values by name; may contain more than the stage reads.
            changed: weights by initialiser name that replace the stored ones.
            exposed: values inside the stage to return as well.
            outputs: outputs of the stage to return; None for all. What only the others need is neither read nor run.

        Returns:
            The stage's outputs and exposed values, for each input.

        Raises:
            BundleError: onnxruntime cannot load or run the stage.
        """
        stage = self.stages[number]
        if not lives:
            return []
        given = dict(changed or {})
        looked_up = [self._looked_up(stage, live, given) for live in lives]
        for name in self._only_looked_up(stage):
            given.pop(name, None)
        whole = stage.outputs if outputs is None else [name for name in stage.outputs if name in outputs]
        wanted = [*whole, *(name for name in dict.fromkeys(exposed) if name not in whole)]
        asked = [name for name in wanted if name in stage.made and name not in looked_up[0]]
        found: list[Live] = [dict(rows) for rows in looked_up]
        parts = self._head_parts(stage, given, asked)
        for part in range(parts if asked else 0):
            there = {**lives[0], **looked_up[0]}
            opened = self._session(number, frozenset(given), frozenset(asked), there, part, parts)
            names = [i.name for i in opened.session.get_inputs()]
            for live, rows, values in zip(lives, looked_up, found, strict=True):
                there = {**live, **rows, **given}
                try:
                    made = opened.session.run(asked, {name: there[name] for name in names})
                except Exception as error:  # onnxruntime's exceptions have no common base of their own
                    raise BundleError(f"stage {number}: onnxruntime cannot run it ({_line(error)})") from error
                for name, value in zip(asked, made, strict=True):
                    is_split = part and name == LOGITS
                    whole_value = np.concatenate([values[name], value], -1) if is_split else value
                    values[name] = self._shared(name, whole_value) if number == 0 else whole_value
        return [
            {name: values[name] if name in values else live[name] for name in wanted}
            for live, values in zip(lives, found, strict=True)
        ]

    def _lookups(self, stage: Stage) -> Iterator[tuple[Any, LazyTensor]]:
        """Nodes that take rows of a table that is made when needed."""
        for node in stage.nodes:
            mark = mark_in(node)
            tensor = None if mark is None or mark.role != TABLE else self._lazy.get(node.input[0])
            if tensor is not None and tensor.matrix is not None:
                yield node, tensor

    def _only_looked_up(self, stage: Stage) -> list[str]:
        """Tables that are only looked up in this stage."""
        tables = [str(node.input[0]) for node, _ in self._lookups(stage)]
        return [name for name in tables if sum(name in node.input for node in stage.nodes) == 1]

    def _looked_up(self, stage: Stage, live: Mapping[str, NDArray[Any]], given: Mapping[str, Any]) -> Live:
        """Rows of a table that is made when needed: only those of the tokens."""
        found: Live = {}
        for node, tensor in self._lookups(stage):
            ids = live[node.input[1]]
            changed = given.get(node.input[0])
            distinct, places = np.unique(ids, return_inverse=True)
            if changed is None:
                assert tensor.matrix is not None  # checked by ``_lookups``
                rows = np.concatenate([tensor.matrix(row, row + 1) for row in distinct.tolist()])
            else:
                rows = changed[distinct]
            found[node.output[0]] = rows[places.reshape(ids.shape)]
        return found

    def _head_parts(self, stage: Stage, given: Mapping[str, Any], asked: Sequence[str]) -> int:
        """Number of parts in which the stage's logits are computed."""
        head = self._head(stage)
        if head is None or LOGITS not in asked or head[1] in given:
            return 1
        return -(-self._lazy[head[1]].size_bytes // HEAD_BLOCK_BYTES)

    def _head(self, stage: Stage) -> tuple[Any, str] | None:
        """Node that makes logits from a float matrix that is made when needed, and that matrix."""
        if LOGITS not in stage.outputs:
            return None
        for node in stage.nodes:
            mark = mark_in(node)
            tensor = None if mark is None or mark.role != HEAD else self._lazy.get(node.input[1])
            if tensor is not None and tensor.matrix is not None:
                return node, str(node.input[1])
        return None

    def _shared(self, name: str, value: NDArray[Any]) -> NDArray[Any]:
        """One array for equal values of all samples: rotary tables of the whole context, up to 25 MB each."""
        kept = self._shared_values.setdefault(name, [])
        for other in kept:
            if np.array_equal(other, value):
                return other
        kept.append(value)
        del kept[:-DISTINCT]
        return value

    def forget(self, live: Live, number: int, *, keep_outputs: bool = True) -> None:
        """Drop values that no later stage reads; the graph's outputs may be needed themselves."""
        wanted = {name for stage in self.stages[number + 1 :] for name in stage.inputs}
        if keep_outputs:
            wanted.update(self.outputs)
        for name in [name for name in live if name not in wanted]:
            del live[name]

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Return the shape of a graph input, with 0 for a dynamic size; empty if there is no such input."""
        there = self._inputs.get(name)
        return () if there is None else tuple(dim.dim_value for dim in there.type.tensor_type.shape.dim)

    def empty(self, name: str) -> NDArray[Any]:
        """A graph input that is a KV cache, of no token."""
        kind = self._inputs[name].type.tensor_type
        sizes = [dim.dim_value for dim in kind.shape.dim]
        return np.zeros((1, *sizes[1:]), helper.tensor_dtype_to_np_dtype(kind.elem_type))

    def weight(self, linear: Linear) -> NDArray[np.float32]:
        """Return the stored weight, [N, K]."""
        lazy = self._lazy.get(linear.weight)
        if lazy is not None and lazy.matrix is not None:
            return lazy.matrix(0, self.shape(linear)[0])
        tensor = self._weights[linear.weight]
        array = onnx.numpy_helper.to_array(tensor, base_dir="" if self._folder is None else str(self._folder))
        return np.ascontiguousarray(array.T if linear.is_turned else array, np.float32)

    def shape(self, linear: Linear) -> tuple[int, int]:
        """Return the shape of the stored weight, [N, K]."""
        first, second = (int(size) for size in self._weights[linear.weight].dims)
        return (second, first) if linear.is_turned else (first, second)

    def close(self) -> None:
        """Close every loaded stage."""
        self._sessions.clear()
        self._shared_values.clear()
        self._arrays, self._arrays_of = {}, None

    def _session(
        self,
        number: int,
        fed: frozenset[str],
        wanted: frozenset[str],
        live: Mapping[str, NDArray[Any]],
        part: int = 0,
        parts: int = 1,
    ) -> _Open:
        import onnxruntime as ort

        key = (number, fed, wanted, part)
        if key in self._sessions:
            self._sessions.move_to_end(key)
            return self._sessions[key]
        while len(self._sessions) >= self._open_sessions:
            self._sessions.popitem(last=False)
        others = [other for other in self._sessions if other[1]]
        while len(others) >= len(self.stages):  # of weights that were changed once and will not be used again
            del self._sessions[others.pop(0)]
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self._threads
        options.enable_cpu_mem_arena = False  # inputs have every length: arenas would grow to twice the live bytes
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        model, lazy = self._model(number, fed, wanted, live)
        if any(_is_float_qmoe(node) for node in model.graph.node):
            options.add_session_config_entry("session.disable_prepacking", "1")
        if self._arrays_of != number:
            self._arrays, self._arrays_of = {}, number
        head = self._head(self.stages[number]) if parts > 1 else None
        self._arrays |= self._make([name for name in lazy if name not in self._arrays], head, part, parts)
        arrays = {name: self._arrays[name] for name in lazy}
        if head is not None:
            del self._arrays[head[1]]  # only a part of it
        for tensor in model.graph.initializer:
            if tensor.name in arrays:
                tensor.dims[:] = arrays[tensor.name].shape
        held = [ort.OrtValue.ortvalue_from_numpy(array) for array in arrays.values()]
        if held:
            options.add_external_initializers(list(arrays), held)
        try:
            with self._source(model.SerializeToString()) as source:
                session = source.open(ort.InferenceSession, options, providers=["CPUExecutionProvider"])
        except PalmtopError:
            raise
        except Exception as error:  # onnxruntime's exceptions have no common base of their own
            raise BundleError(f"stage {number}: onnxruntime cannot load it ({_line(error)})") from error
        self._sessions[key] = _Open(session, (*held, arrays))
        return self._sessions[key]

    def _source(self, graph: bytes) -> AbstractContextManager[GraphSource]:
        if self._folder is None:
            return nullcontext(GraphSource(graph))
        return graph_source(self._folder / "decoder.onnx", graph)

    def _make(
        self, lazy: Iterable[str], head: tuple[Any, str] | None, part: int, parts: int
    ) -> dict[str, NDArray[Any]]:
        """Make the arrays of a stage's weights; of its head the columns of one part."""
        made: dict[LazySet, list[NDArray[Any]]] = {}
        arrays: dict[str, NDArray[Any]] = {}
        for name in lazy:
            tensor = self._lazy[name]
            if head is not None and name == head[1]:
                assert tensor.matrix is not None  # checked by ``_head``
                is_turned = head[0].op_type == "MatMul"
                count = tensor.shape[1] if is_turned else tensor.shape[0]
                step = -(-count // parts)
                rows = tensor.matrix(part * step, min((part + 1) * step, count))
                arrays[name] = np.ascontiguousarray(rows.T) if is_turned else rows
                continue
            if tensor.made_by not in made:
                made[tensor.made_by] = tensor.made_by.arrays()
            arrays[name] = made[tensor.made_by][tensor.place].reshape(tuple(self._weights[name].dims))
        return arrays

    def _model(
        self, number: int, fed: frozenset[str], wanted: frozenset[str], live: Mapping[str, NDArray[Any]]
    ) -> tuple[Any, list[str]]:
        """Nodes that the requested values depend on, and their weights that have to be made."""
        stage = self.stages[number]
        looked_up = {str(node.output[0]) for node, _ in self._lookups(stage)}
        nodes = needed([n for n in stage.nodes if n.output[0] not in looked_up], wanted)
        used = set[str]().union(*(read_by(node) for node in nodes))
        names = [*(n for n in stage.inputs if n in used), *sorted(looked_up & used)]
        inputs = [
            self._inputs.get(name) or helper.make_tensor_value_info(name, _type(live[name]), [None] * live[name].ndim)
            for name in names
        ]
        inputs += [
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list(self._weights[name].dims))
            for name in sorted(fed & used)
        ]
        weights = [w for name, w in self._weights.items() if name in used and name not in fed]
        graph = helper.make_graph(
            nodes, f"stage{number}", inputs, [onnx.ValueInfoProto(name=name) for name in sorted(wanted)], weights
        )
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        return model, [w.name for w in weights if w.name in self._lazy]


def _line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _type(array: NDArray[Any]) -> int:
    return int(helper.np_dtype_to_tensor_dtype(array.dtype))


def _is_float_qmoe(node: Any) -> bool:
    """Whether experts of 8 bits are asked for at accuracy level 0: QMoE has that form only of weights as stored."""
    numbers = {attribute.name: attribute.i for attribute in node.attribute}
    return node.op_type == "QMoE" and numbers.get("expert_weight_bits") == 8 and not numbers.get("accuracy_level")
