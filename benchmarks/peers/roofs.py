"""What the machine could do at most, measured between the contenders: memory reads and products of 8-bit integers."""

from __future__ import annotations

from time import perf_counter

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from palmtop.runtime.memory.bandwidth import read_bandwidth

ROWS, DEPTH, COLUMNS = 512, 3072, 8192  # a prompt of 512 tokens before a feed-forward layer
TIMES = 5


def roofs(threads: int) -> dict[str, float]:
    """GB/s of memory reads, and 1e9 operations a second of uint8 x int8 products; a multiply-add is two."""
    return {"read_gb_s": read_bandwidth(threads) / 1e9, "int8_gop_s": int8_products(threads) / 1e9}


def int8_products(threads: int) -> float:
    """Operations a second of MatMulInteger with packed weights, the best of five."""
    random = np.random.default_rng(0)
    weights = ir.Value(name="b", const_value=ir.tensor(random.integers(-127, 128, (DEPTH, COLUMNS), np.int8), name="b"))
    a = ir.Value(name="a", shape=ir.Shape([ROWS, DEPTH]), type=ir.TensorType(ir.DataType.UINT8))
    node = ir.Node("", "MatMulInteger", [a, weights])
    node.outputs[0].type = ir.TensorType(ir.DataType.INT32)
    node.outputs[0].name = "y"
    graph = ir.Graph([a], node.outputs, nodes=[node], initializers=[weights], opset_imports={"": 21})
    model = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    inputs = {"a": random.integers(0, 256, (ROWS, DEPTH), np.uint8)}
    session.run(None, inputs)
    best = float("inf")
    for _ in range(TIMES):
        started = perf_counter()
        session.run(None, inputs)
        best = min(best, perf_counter() - started)
    return 2 * ROWS * DEPTH * COLUMNS / best
