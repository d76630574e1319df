"""Time of onnxruntime's matrix kernels for each scheme on this machine, measured when a plan is made.

Not every scheme has a kernel: onnxruntime 1.32 computes 2 bits in groups of 16 or 256, and 2 bits at accuracy level 0,
by unpacking the whole matrix for every token, about 400 times slower than 4 bits. A plan uses no such scheme.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from palmtop.errors import InputError
from palmtop.export.graph.building.mark import EXPERT
from palmtop.export.graph.moe.mixture import CHOSEN
from palmtop.export.graph.moe.qmoe import is_in_qmoe
from palmtop.export.measure.stages import Linear
from palmtop.quantize.scheme import Scheme

ENCODER_TOKENS = 256  # an encoder reads hundreds of patches or frames at once: unpacking a matrix for them costs little
PLAIN = Scheme(bits=4, group=32)  # a scheme that every build of onnxruntime has a kernel for
SIDE = 1024  # size of the matrix by which schemes are compared
NO_KERNEL = 8.0  # factor of the reference scheme's time: a kernel that reads fewer bits is at most twice as slow
MAX_ROWS = 2048  # size of a matrix that is timed; larger ones are extrapolated
STREAMED_BYTES = 32 << 20  # bytes of matrices side by side, so that they come from memory as a model's do
MAX_COPIES = 24
RUNS = 5


def for_experts(
    schemes: tuple[Scheme, ...], shapes: Iterable[tuple[int, int]], accuracy_level: int
) -> tuple[Scheme, ...]:
    """Return the schemes in which QMoE reads an expert; all of them where there are none."""
    widths = [columns for _, columns in shapes]
    fitting = tuple(s for s in schemes if is_in_qmoe(s, widths, accuracy_level))
    return fitting or schemes


def share_of_tokens(linear: Linear, linears: Mapping[str, tuple[int, Linear]]) -> float:
    """Return the share of the tokens that pass through a linear layer: below 1 for an expert's."""
    if linear.role != EXPERT:
        return 1.0
    layer = linear.unit.rpartition(".")[0]
    count = len({other.unit for _, other in linears.values() if other.unit.rpartition(".")[0] == layer})
    return min(1.0, CHOSEN / count)


@dataclass(frozen=True, slots=True)
class Kernel:
    """Properties by which onnxruntime chooses a kernel.

    Attributes:
        bits: bits of a code.
        group: codes that share a scale.
        has_zero_points: whether the scheme is asymmetric.
        accuracy_level: accuracy level of MatMulNBits.
        tokens: rows of activations.
    """

    bits: int
    group: int
    has_zero_points: bool
    accuracy_level: int
    tokens: int

    @classmethod
    def of(cls, scheme: Scheme, accuracy_level: int, tokens: int = 1) -> Kernel:
        """Return the kernel for a tensor of this scheme."""
        return cls(scheme.bits, scheme.group, not scheme.symmetric, accuracy_level, tokens)


def decode_seconds(scheme: Scheme, rows: int, columns: int, accuracy_level: int) -> float:
    """Return the seconds of one token through a [rows, columns] matrix whose weights come from memory."""
    timed = min(rows, MAX_ROWS)
    bits = scheme.bits + 32 / scheme.group
    copies = int(min(max(STREAMED_BYTES * 8 / (timed * columns * bits), 1), MAX_COPIES))
    return _seconds(Kernel.of(scheme, accuracy_level), timed, columns, copies) * rows / timed


def has_kernel(scheme: Scheme, accuracy_level: int, tokens: int = 1) -> bool:
    """Return whether a scheme has a kernel: about as fast as 4 bits in groups of 32 for this many tokens."""
    return _slowness(Kernel.of(scheme, accuracy_level, tokens)) < NO_KERNEL


def with_kernel(schemes: Iterable[Scheme], accuracy_level: int, tokens: int = 1) -> tuple[Scheme, ...]:
    """Return the schemes that have a kernel."""
    return tuple(scheme for scheme in schemes if has_kernel(scheme, accuracy_level, tokens))


def refuse_without_kernel(tensor: str, scheme: Scheme, accuracy_level: int, tokens: int = 1) -> None:
    """Refuse a scheme whose matrices would be computed hundreds of times slower than others.

    Raises:
        InputError: names the tensor, the scheme and how slow it is.
    """
    if not has_kernel(scheme, accuracy_level, tokens):
        slowness = _slowness(Kernel.of(scheme, accuracy_level, tokens))
        raise InputError(
            f"plan: tensor '{tensor}' has {scheme.bits} bits in groups of {scheme.group} at accuracy level"
            f" {accuracy_level}, for which onnxruntime has no kernel ({slowness:.0f} times slower than 4 bits in groups"
            " of 32), expected another scheme"
        )


def _slowness(kernel: Kernel) -> float:
    """Time as a multiple of the reference scheme's, on a small matrix."""
    plain = _seconds(Kernel.of(PLAIN, kernel.accuracy_level, kernel.tokens), SIDE, SIDE, 1)
    return _seconds(kernel, SIDE, SIDE, 1) / plain


@functools.cache
def _seconds(kernel: Kernel, rows: int, columns: int, copies: int) -> float:
    """Seconds for one matrix, the fastest of a few runs: other processes only make a run slower."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    model = _model(kernel, rows, columns, copies)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = np.ones((kernel.tokens, columns), np.float32)
    times = []
    for _ in range(RUNS + 1):
        started = time.perf_counter()
        session.run(None, {"x": x})
        times.append(time.perf_counter() - started)
    return min(times[1:]) / copies


def _model(kernel: Kernel, rows: int, columns: int, copies: int) -> onnx.ModelProto:
    """Graph with ``count`` products of one row with separate matrices."""
    blocks = -(-columns // kernel.group)
    random = np.random.default_rng(0)
    codes = random.integers(0, 256, (rows, blocks, kernel.group * kernel.bits // 8), np.uint8)
    scales = np.full(rows * blocks, 1e-3, np.float32)
    zero_points = np.full((rows, -(-blocks * kernel.bits // 8)), 0x77, np.uint8)
    nodes, weights = [], []
    for copy in range(copies):
        inputs = ["x", f"codes{copy}", f"scales{copy}"]
        weights += [_tensor(inputs[1], codes), _tensor(inputs[2], scales)]
        if kernel.has_zero_points:
            inputs.append(f"zero_points{copy}")
            weights.append(_tensor(inputs[3], zero_points))
        nodes.append(
            helper.make_node(
                "MatMulNBits",
                inputs,
                [f"y{copy}"],
                domain="com.microsoft",
                K=columns,
                N=rows,
                bits=kernel.bits,
                block_size=kernel.group,
                accuracy_level=kernel.accuracy_level,
            )
        )
    graph = helper.make_graph(
        nodes,
        "kernel",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, columns])],
        [helper.make_tensor_value_info(f"y{copy}", TensorProto.FLOAT, [None, rows]) for copy in range(copies)],
        weights,
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _tensor(name: str, array: NDArray[Any]) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(array, name)
