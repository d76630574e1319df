"""The same LoRA the other way: as inputs of the graph, fed from an ``.onnx_adapter`` file by onnxruntime.

What Olive and the model builder make, put onto a palmtop bundle without adapters: behind every linear two products
whose matrices are overridable initialisers, float32 (empty by default) or INT4 (zeros by default).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from palmtop.export.adapters.graph import DecoderGraph, Delta
from palmtop.export.adapters.matrix import Matrix, expected_tensors, read
from palmtop.export.bundle.external_data import ExternalData
from palmtop.export.graph.building.builder import MICROSOFT, GraphBuilder
from palmtop.runtime.bundle.opening import Bundle

ADAPTER_FILE = "lora.onnx_adapter"


def write_input_bundle(plain: Bundle, deltas: Mapping[str, Delta], folder: Path, *, is_float: bool) -> Path:
    """A genai folder with LoRA inputs and its adapter file.

    Args:
        plain: a bundle without adapters.
        deltas: the LoRA, as another bundle stores it.
        folder: new.
        is_float: dequantise it, or keep its codes.
    """
    shutil.copytree(plain.path, folder)
    graph = DecoderGraph(plain.file(plain.manifest.decoder.file))
    parameters: dict[str, Any] = {}
    with ExternalData(folder, "weights/zeros.bin") as sink:
        for linear, delta in deltas.items():
            _insert(graph, linear, delta, sink, parameters, is_float=is_float)
    graph.save(folder / plain.manifest.decoder.file)
    adapter = ort.AdapterFormat()
    adapter.set_adapter_version(1)
    adapter.set_model_version(1)
    # onnxruntime's AdapterFormat looks at these until it has written them, and keeps none of them alive.
    values = {n: ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(a)) for n, a in parameters.items()}
    adapter.set_parameters(values)
    adapter.export_adapter(str(folder / ADAPTER_FILE))
    return folder


def _insert(
    graph: DecoderGraph, linear: str, delta: Delta, sink: ExternalData, parameters: dict[str, Any], *, is_float: bool
) -> None:
    node = graph.node(linear)
    y = node.outputs[0]
    users = list(y.uses())
    g = GraphBuilder(f"{linear}/inputs", sink)
    x = node.inputs[0]
    assert x is not None
    product = _float_product if is_float else _int4_product
    down = product(g, graph.model.graph, f"{linear}.lora_A", x, delta.a, parameters, sink)
    up = product(g, graph.model.graph, f"{linear}.lora_B", down, delta.b, parameters, sink)
    total = g.op("Add", y, up)
    g.move_into(graph.model.graph, after=node)
    for user, place in users:
        user.replace_input_with(place, total)


def _float_product(
    g: GraphBuilder,
    graph: ir.Graph,
    name: str,
    x: ir.Value,
    matrix: Matrix,
    parameters: dict[str, Any],
    sink: ExternalData,
) -> ir.Value:
    weight = matrix.array().T  # [K, N], one of them the rank, which is 0 by default
    is_a = name.endswith("lora_A")
    default = np.zeros((len(weight), 0) if is_a else (0, weight.shape[1]), np.float32)
    parameters[f"{name}.weight"] = weight
    shape = [len(weight), f"{name}/r"] if is_a else [f"{name}/r", weight.shape[1]]
    value = _overridable(graph, f"{name}.weight", ir.tensor(default), shape)
    return g.op("MatMul", x, value, name=name)


def _int4_product(
    g: GraphBuilder,
    graph: ir.Graph,
    name: str,
    x: ir.Value,
    matrix: Matrix,
    parameters: dict[str, Any],
    sink: ExternalData,
) -> ir.Value:
    assert matrix.scheme is not None
    values = []
    for kind, (shape, dtype) in expected_tensors(matrix.rows, matrix.columns, matrix.scheme).items():
        array: NDArray[Any] = np.asarray(read(matrix.tensors[kind]), dtype).reshape(shape)
        parameters[f"{name}.{kind}"] = array
        default = sink.add(f"{name}.{kind}", shape, dtype, [np.zeros(shape, dtype)])
        values.append(_overridable(graph, f"{name}.{kind}", default, list(shape)))
    scheme = matrix.scheme
    return g.op(
        "MatMulNBits",
        x,
        *values,
        domain=MICROSOFT,
        name=name,
        K=matrix.columns,
        N=matrix.rows,
        bits=scheme.bits,
        block_size=scheme.group,
        accuracy_level=matrix.accuracy_level,
    )


def _overridable(graph: ir.Graph, name: str, default: ir.TensorProtocol, shape: list[Any]) -> ir.Value:
    """An initialiser that is an input as well."""
    value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(default.dtype), const_value=default)
    graph.register_initializer(value)
    graph.inputs.append(value)
    return value


class InputDecoder:
    """Greedy decode of such a folder in genai, its adapter on.

    Args:
        folder: as ``write_input_bundle`` left it.
        arrays: the decoder's other inputs, read in place.
        context: tokens the cache holds.
        threads: of onnxruntime.
    """

    def __init__(self, folder: Path, arrays: Mapping[str, NDArray[Any]], *, context: int, threads: int) -> None:
        import onnxruntime_genai as og

        config = og.Config(str(folder))
        options = {"intra_op_num_threads": threads}
        overlay = {"model": {"context_length": context, "decoder": {"session_options": options}}}
        config.overlay(json.dumps({**overlay, "search": {"max_length": context}}))
        model = og.Model(config)
        self._adapters = og.Adapters(model)
        self._adapters.load(str(folder / ADAPTER_FILE), "lora")
        parameters = og.GeneratorParams(model)
        parameters.set_search_options(max_length=context, batch_size=1, do_sample=False)
        self._arrays = dict(arrays)  # genai keeps no reference
        self._generator = og.Generator(model, parameters)
        for name, array in self._arrays.items():
            self._generator.set_model_input(name, array)
        self._generator.set_active_adapter(self._adapters, "lora")

    @property
    def token_count(self) -> int:
        """Tokens in the KV cache."""
        return int(self._generator.token_count())

    def append(self, ids: NDArray[np.int32]) -> None:
        """Run the graph over more tokens, [S]."""
        self._generator.append_tokens(ids)

    def rewind_to(self, count: int) -> None:
        """Forget all but the first tokens."""
        self._generator.rewind_to(count)


def remove(folder: Path) -> None:
    """Free the disk that such a folder takes."""
    shutil.rmtree(folder, ignore_errors=True)
