"""What the CPU's GroupQueryAttention does with a quantised cache: the facts that the exporter relies on.

The expectation is attention over codes times scales, in numpy: it shares nothing with the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

from palmtop.export.graph.kv_cache import KvCache, LayerScales

TOKENS = 37
SHAPES = [(3, 1, 64), (24, 8, 128), (4, 4, 96), (2, 1, 24), (2, 2, 8)]  # heads, key/value heads, head size


@dataclass(frozen=True)
class Case:
    heads: int
    kv_heads: int
    size: int
    bits: int

    def session(self, scales: LayerScales) -> ort.InferenceSession:
        """One attention layer without rotation."""
        cache = KvCache(bits=self.bits, layers=(scales,))
        kind, width = cache.dtype.value, cache.width(self.size)
        shape: list[Any] = ["b", self.kv_heads, "p", width]
        inputs = [h.make_tensor_value_info("qkv", T.FLOAT, ["b", "s", (self.heads + 2 * self.kv_heads) * self.size])]
        inputs += [h.make_tensor_value_info(name, kind, shape) for name in ("pk", "pv")]
        inputs += [h.make_tensor_value_info("last", T.INT32, ["b"]), h.make_tensor_value_info("total", T.INT32, [])]
        outputs = [h.make_tensor_value_info("y", T.FLOAT, ["b", "s", self.heads * self.size])]
        outputs += [h.make_tensor_value_info(name, kind, ["b", self.kv_heads, "t", width]) for name in ("k", "v")]
        node = h.make_node(
            "GroupQueryAttention",
            ["qkv", "", "", "pk", "pv", "last", "total", "", "", "", "", "", "ks", "vs"],
            ["y", "k", "v"],
            domain="com.microsoft",
            num_heads=self.heads,
            kv_num_heads=self.kv_heads,
            **cache.attributes(),
        )
        weights = [nh.from_array(scales.key, "ks"), nh.from_array(scales.value, "vs")]
        graph = h.make_graph([node], "g", inputs, outputs, weights)
        opsets = [h.make_opsetid("", 20), h.make_opsetid("com.microsoft", 1)]
        model = h.make_model(graph, opset_imports=opsets, ir_version=10)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def empty(self) -> NDArray[Any]:
        cache = KvCache(bits=self.bits)
        return np.zeros((1, self.kv_heads, 0, cache.width(self.size)), cache.dtype.numpy())

    def split(self, qkv: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        """[N, T, D] queries, keys and values."""
        by_head = qkv[0].reshape(len(qkv[0]), -1, self.size).transpose(1, 0, 2)
        return tuple(np.split(by_head, [self.heads, self.heads + self.kv_heads]))

    def codes(self, x: NDArray[np.float32], scales: NDArray[np.float32]) -> NDArray[np.int64]:
        """[KV, T, D] rounded to even and clipped."""
        most = 127 if self.bits == 8 else 7
        return np.clip(np.rint(x / scales[:, None]), -most - 1, most).astype(np.int64)


def feed(case: Case, qkv: NDArray[np.float32], past: list[NDArray[Any]], total: int) -> dict[str, Any]:
    last = np.array([total - 1], np.int32)
    return {"qkv": qkv, "pk": past[0], "pv": past[1], "last": last, "total": np.array(total, np.int32)}


def attended(case: Case, query: Any, key: Any, value: Any) -> NDArray[np.float64]:
    """[T, N * D] causal attention over what the cache holds."""
    share = case.heads // case.kv_heads
    key, value = np.repeat(key, share, 0), np.repeat(value, share, 0)
    scores = query @ key.transpose(0, 2, 1) / np.sqrt(case.size)
    scores = np.where(np.tri(scores.shape[1], dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = weights / weights.sum(-1, keepdims=True) @ value
    return np.asarray(mixed.transpose(1, 0, 2).reshape(mixed.shape[1], -1))


def stored(case: Case, cache: NDArray[Any]) -> NDArray[np.int64]:
    """[KV, T, D] codes as we say the cache's bytes mean them."""
    if case.bits == 8:
        return cache[0].astype(np.int64)
    pairs = np.stack([cache[0] & 15, cache[0] >> 4], -1).astype(np.int64) - 8  # the even channel lies low
    return pairs.reshape(*cache[0].shape[:2], -1)


@pytest.fixture(params=[Case(*shape, bits) for shape in SHAPES for bits in (8, 4)], ids=str)
def case(request: Any) -> Case:
    found: Case = request.param
    return found


@pytest.fixture
def drawn(case: Case) -> tuple[NDArray[np.float32], LayerScales]:
    """Inputs whose channels differ in size, and scales that clip a few of them."""
    rng = np.random.default_rng(case.size)
    width = (case.heads + 2 * case.kv_heads) * case.size
    qkv = (rng.standard_normal((1, TOKENS, width)) * rng.uniform(0.3, 2, width)).astype(np.float32)
    _, key, value = case.split(qkv)
    reach = 120 if case.bits == 8 else 7
    return qkv, LayerScales(*(np.asarray(np.abs(x).max(1) * 0.95 / reach, np.float32) for x in (key, value)))


def test_scales_are_by_channel_and_codes_lie_as_we_say(case: Case, drawn: tuple[Any, LayerScales]) -> None:
    qkv, scales = drawn
    found, key, value = case.session(scales).run(None, feed(case, qkv, [case.empty()] * 2, TOKENS))
    query, exact_key, exact_value = case.split(qkv)
    for cache, exact, scale in ((key, exact_key, scales.key), (value, exact_value, scales.value)):
        assert np.array_equal(stored(case, cache), case.codes(exact, scale))
    expected = attended(
        case,
        query,
        stored(case, key) * scales.key[:, None],
        stored(case, value) * scales.value[:, None],
    )
    assert np.abs(found[0] - expected).max() < 1e-5 * np.ptp(expected)


def test_chunks_and_a_shared_buffer_change_nothing(case: Case, drawn: tuple[Any, LayerScales]) -> None:
    """Tokens of the chunk that is read are seen through the cache too, so that chunking cannot be told."""
    qkv, scales = drawn
    session = case.session(scales)
    whole, key, value = session.run(None, feed(case, qkv, [case.empty()] * 2, TOKENS))
    binding = session.io_binding()
    binding.bind_output("y")
    shape = (1, case.kv_heads, TOKENS + 5, key.shape[3])
    caches = [ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, key.dtype)) for _ in range(2)]
    for cache, past, present in zip(caches, ("pk", "pv"), ("k", "v"), strict=True):
        binding.bind_ortvalue_input(past, cache)
        binding.bind_ortvalue_output(present, cache)
    rows = []
    for start, stop in ((0, 16), (16, 17), (17, 18), (18, TOKENS)):
        fed = feed(case, np.ascontiguousarray(qkv[:, start:stop]), caches, stop)  # type: ignore[arg-type]
        for name in ("qkv", "last", "total"):
            binding.bind_cpu_input(name, fed[name])
        binding.bind_output("y")  # of another size than the chunk before
        session.run_with_iobinding(binding)
        rows.append(binding.get_outputs()[0].numpy())
    assert np.array_equal(np.concatenate(rows, 1), whole)
    for cache, expected in zip(caches, (key, value), strict=True):
        assert np.array_equal(cache.numpy()[:, :, :TOKENS], expected)
