"""Scales of a bundle's KV cache, and its decoder with a float cache on the same weights, for comparison."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from palmtop.errors import BundleError
from palmtop.export.graph.kv_cache import FLOAT_CACHE, KvCache, LayerScales
from palmtop.runtime.bundle.manifest import DecoderSpec

CACHES = ("past_key_values.", "present.")
FIRST_SCALE = 12  # inputs of GroupQueryAttention: k_scale and v_scale


def stored_cache(path: Path, spec: DecoderSpec) -> KvCache:
    """Return the KV cache of a decoder graph.

    Raises:
        BundleError: the graph lacks scales that the manifest names.
    """
    if spec.kv_bits == 32:
        return FLOAT_CACHE
    layers = []
    for node in _attentions(ir.load(path)):
        scales = [None if v is None else v.const_value for v in node.inputs[FIRST_SCALE : FIRST_SCALE + 2]]
        if len(scales) != 2 or any(s is None for s in scales):
            raise BundleError(f"{path}: {node.name} has no scales, expected a KV cache of {spec.kv_bits} bits")
        layers.append(LayerScales(*(_shaped(s, spec) for s in scales if s is not None)))
    return KvCache(bits=spec.kv_bits, layers=tuple(layers))


def with_float_cache(path: Path, spec: DecoderSpec) -> bytes:
    """Return the graph with a float32 cache; its weights stay in the files beside ``path``."""
    model = ir.load(path)
    for node in _attentions(model):
        for name in ("k_quant_type", "v_quant_type", "kv_cache_bit_width"):
            node.attributes.pop(name, None)
        for place in range(FIRST_SCALE, len(node.inputs)):
            node.replace_input_with(place, None)
    for value in (*model.graph.inputs, *model.graph.outputs):
        if (value.name or "").startswith(CACHES):
            value.type = ir.TensorType(ir.DataType.FLOAT)
            assert value.shape is not None  # the exporter declares them
            value.shape = ir.Shape([*value.shape[:3], spec.state("key").shape[3]])
    return bytes(ir.to_proto(model).SerializeToString())


def _attentions(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == "GroupQueryAttention"]


def _shaped(tensor: ir.TensorProtocol, spec: DecoderSpec) -> NDArray[np.float32]:
    _, kv_heads, _, head_size = replace(spec.state("key"), dtype="float32").stored_shape(0)
    return np.asarray(tensor.numpy(), np.float32).reshape(kv_heads, head_size)
