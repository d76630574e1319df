"""One layer of each kind in the true dimensions of Phi-4-multimodal, compiled for several SoCs: time, bytes, sharing.

    pip install '.[export,qnn]' && python -m benchmarks.npu_layers --soc sm8650,sm8750 --write

Weights are random: what is measured depends on sizes. The decoder layer is compiled for prefill and decode and for all
three routes, alone and into one binary; what the whole model would come to is an extrapolation and called so.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from benchmarks.tables import machine, put_between
from palmtop.export.arch import find
from palmtop.export.bundle.external_data import ExternalData
from palmtop.export.bundle.shared_weights import SharedWeights
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.checkpoint.lazy_tensor import LazyTensor, StateDict, from_array
from palmtop.export.checkpoint.lora import Adapter, LoraPair
from palmtop.export.graph.building.builder import GraphBuilder
from palmtop.export.graph.building.run import StaticShape
from palmtop.export.graph.building.source import StaticContext
from palmtop.export.graph.encoders import conformer, siglip
from palmtop.export.graph.encoders.encoder_block import static_attention
from palmtop.export.graph.linear import FLOAT, FLOAT_GRAPH
from palmtop.export.graph.mlp import GatedMlp
from palmtop.export.providers.fixed_shape.graphs import stored_linear
from palmtop.export.providers.qnn.calibrate import Calibrated
from palmtop.export.providers.qnn.compile import binary_of, compile_graphs
from palmtop.export.providers.qnn.fusion import fuse_rms_norms
from palmtop.export.providers.qnn.qdq import add_qdq
from palmtop.export.providers.qnn.ranges import Measured
from palmtop.export.reading.decoder import pre_norm_layer
from palmtop.runtime.memory.machine import peak_rss_bytes
from palmtop.runtime.reference import checkpoint_path

PAGE = Path(__file__).parents[1] / "docs" / "npu.md"
CONTEXT, CHUNK, VOCABULARY = 4096, 128, 256
"""Cache, prompt tokens a run; the head is not the layer's and stays small."""
RANKS = {"none": None, "vision": 256, "speech": 320}
LAYERS = {"decoder": 32, "vision": 26, "audio": 24}
HEAD_WEIGHTS = 200064 * 3072
PROJECTOR_WEIGHTS = {"vision": 1152 * 3072 + 3072 * 3072, "audio": 2 * (1024 * 3072 + 3072 * 3072)}


class RandomWeights(StateDict):
    """A weight of any name and shape, drawn when it is asked for, always the same."""

    def __init__(self, prefix: str = "") -> None:
        super().__init__(lambda name: from_array(name, np.zeros(0, np.float32)), prefix)
        self.place = prefix

    def get(self, name: str, *shape: int) -> LazyTensor:
        """Standard deviation as trained ones have about; norms around one."""
        rng = np.random.default_rng(abs(hash_of(self.place + name)))
        values = rng.standard_normal(shape, np.float32) * np.float32(0.02)
        if "norm" in name and name.endswith("weight"):
            values += 1
        return from_array(self.place + name, values)

    def within(self, prefix: str) -> RandomWeights:
        """Seen from further inside."""
        return RandomWeights(self.place + prefix)


def hash_of(name: str) -> int:
    """A number that does not depend on the process, as ``hash`` does."""
    return int.from_bytes(name.encode()[-8:], "little") + len(name)


@dataclass(frozen=True, slots=True)
class Layer:
    """What is compiled.

    Attributes:
        graphs: name to what builds it.
        bits: of weights.
    """

    graphs: Mapping[str, Callable[[GraphBuilder], None]]
    bits: int


def layers(routes: tuple[str, ...]) -> dict[str, Layer]:
    """By kind, in the dimensions of the real model."""
    return {
        "decoder": Layer(
            {f"{role}_{route}": _decoder(role, route) for route in routes for role in ("prefill", "decode")}, 4
        ),
        "vision": Layer({"vision_layer": _vision}, 8),
        "audio": Layer({"conformer_block": _audio}, 8),
    }


def _decoder(role: str, route: str) -> Callable[[GraphBuilder], None]:
    def build(g: GraphBuilder) -> None:
        model = find("phi4mm").read_model(Checkpoint(checkpoint_path()))
        attention = replace(model.decoder.attention, num_heads=24, num_kv_heads=8, head_size=128)
        layer = pre_norm_layer(attention, GatedMlp(size=8192), 3072, 1e-5)
        config = replace(
            model.decoder,
            vocab_size=VOCABULARY,
            hidden_size=3072,
            layers=(layer,),
            norm=layer.norms[0],
            rope=replace(model.decoder.rope, rotary_size=96),
        )
        shape = StaticShape(CONTEXT, CHUNK if role == "prefill" else 1)
        rank = RANKS[route]
        on = []
        if rank is not None:
            pairs = _pairs(route, rank, config)
            on.append((Adapter(name=route, rank=rank, alpha=2.0 * rank, pair=pairs), 1.0))
        linear = stored_linear(FLOAT_GRAPH)
        config.build_static(g, StaticContext(weights=RandomWeights(), shape=shape, linear=linear, on=on))

    return build


def _pairs(route: str, rank: int, config: Any) -> Callable[[str], LoraPair | None]:
    h, f, qkv = config.hidden_size, config.layers[0].ffn.size, config.attention.qkv_size
    sizes = {"qkv_proj": (qkv, h), "o_proj": (h, h), "gate_up_proj": (2 * f, h), "down_proj": (h, f)}

    def pair(name: str) -> LoraPair | None:
        rows, columns = sizes[name.rpartition(".")[2]]
        weights = RandomWeights(f"{name}.{route}.")
        return LoraPair(weights.get("A", rank, columns), weights.get("B", rows, rank))

    return pair


def _vision(g: GraphBuilder) -> None:
    model = find("phi4mm").read_model(Checkpoint(checkpoint_path()))
    vision = model.graphs["vision"]
    assert isinstance(vision, siglip.Siglip)
    config = replace(
        vision.config,
        hidden_size=1152,
        intermediate_size=4304,
        num_attention_heads=16,
        image_size=448,
        patch_size=14,
        output_size=3072,
    )
    rows = config.patches**2
    x = g.input("x", ir.DataType.FLOAT, [1, rows, config.hidden_size])
    bias = g.input("key_bias", ir.DataType.FLOAT, [1, 1, 1, rows])

    def attend(g: GraphBuilder, weights: StateDict, x: ir.Value) -> ir.Value:
        return static_attention(g, weights, x, 16, rows, config.hidden_size, [bias])

    y = siglip.layer(g, RandomWeights("layers.0."), config, x, attend, FLOAT)
    g.output(y, "y", ir.DataType.FLOAT, [1, rows, config.hidden_size])


def _audio(g: GraphBuilder) -> None:
    model = find("phi4mm").read_model(Checkpoint(checkpoint_path()))
    audio = model.graphs["audio"]
    assert isinstance(audio, conformer.Conformer) and model.processor.audio is not None
    config = replace(
        audio.config,
        hidden_size=1024,
        intermediate_size=1536,
        num_attention_heads=16,
        depthwise_separable_out_channel=1024,
        ext_pw_out_channel=1024,
        output_size=3072,
    )
    steps = model.processor.audio.window_steps
    x = g.input("x", ir.DataType.FLOAT, [1, steps, config.hidden_size])
    bias = g.input("key_bias", ir.DataType.FLOAT, [1, 1, 1, steps])
    near = g.weight("relative_bias", np.random.default_rng(0).standard_normal((1, 16, steps, steps)).astype(np.float32))

    def attend(g: GraphBuilder, weights: StateDict, x: ir.Value) -> ir.Value:
        return static_attention(g, weights, x, 16, steps, config.hidden_size, [near, bias])

    y = conformer.block(g, RandomWeights("encoders.0."), config, x, attend, FLOAT)
    g.output(y, "y", ir.DataType.FLOAT, [1, steps, config.hidden_size])


def random_feeds(path: Path) -> dict[str, NDArray[Any]]:
    """Inputs of a run: normals, a last row, a mask that hides the second half."""
    feeds: dict[str, NDArray[Any]] = {}
    rng = np.random.default_rng(0)
    for value in ir.load(path).graph.inputs:
        shape = tuple(value.shape.numpy()) if value.shape is not None else ()
        name = str(value.name)
        if name == "last_row":
            feeds[name] = np.array([CHUNK - 1], np.int32)
        elif "bias" in name:
            feeds[name] = np.where(np.arange(shape[-1]) < shape[-1] // 2, 0, -100).astype(np.float32) + np.zeros(
                shape, np.float32
            )
        else:
            feeds[name] = rng.standard_normal(shape, np.float32)
    return feeds


def quantised_sources(folder: Path, layer: Layer) -> tuple[dict[str, Calibrated], float]:
    """Write float graphs, calibrate on one random run, quantise; by file what was measured, and the seconds."""
    started, found = time.perf_counter(), {}
    with ExternalData(folder, "weights/float.bin") as floats, ExternalData(folder, "weights/codes.bin") as codes:
        float_sink, code_sink = SharedWeights(floats), SharedWeights(codes)
        for name, build in layer.graphs.items():
            g = GraphBuilder(name, float_sink)
            build(g)
            model = g.model()
            fuse_rms_norms(model)
            path = folder / f"float_{name}.onnx"
            ir.save(model, path)
            measured, calibrated = Measured(path), Calibrated()
            calibrated.add(measured, random_feeds(path))
            del measured
            quantised = ir.load(path)
            add_qdq(quantised, calibrated.ranges, lambda _: layer.bits, code_sink)
            ir.save(quantised, folder / f"{name}.onnx")
            found[f"{name}.onnx"] = calibrated
            gc.collect()
    return found, time.perf_counter() - started


@click.command()
@click.option("--soc", default="sm8650,sm8750", show_default=True)
@click.option("--kind", "kinds", multiple=True, default=("vision", "audio", "decoder"))
@click.option("--route", "routes", multiple=True, default=tuple(RANKS), help="Of the decoder layer.")
@click.option("--run/--no-run", "is_run", default=True, help="Also run each graph on the emulator, against float32.")
@click.option("--write", is_flag=True, help="Renew the table of docs/npu.md.")
def main(soc: str, kinds: tuple[str, ...], routes: tuple[str, ...], is_run: bool, write: bool) -> None:
    """Compile one layer of each kind."""
    lines = [
        "| layer | SoC | graphs | nodes on QNN | compiled in | binary | codes of its weights | SNR, emulator |",
        "|---|---|---|---|---|---|---|---|",
    ]
    click.echo("\n".join(lines))
    for kind in kinds:
        layer = layers(routes)[kind]
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            calibrated, _ = quantised_sources(folder, layer)
            samples = calibrated if is_run else {}
            weights = (folder / "weights/codes.bin").stat().st_size
            (folder / "weights/float.bin").unlink()
            for chip in soc.split(","):
                for label, names in _groups(layer).items():
                    started = time.perf_counter()
                    files = {f"{name}.onnx": f"{chip}-{label}-{name}.onnx" for name in names}
                    done = compile_graphs(folder, files, chip, samples, share=len(names) > 1)
                    seconds = time.perf_counter() - started
                    size = (folder / binary_of(next(iter(files.values())))).stat().st_size
                    snr = [each.snr_db for each in done if each.snr_db is not None]
                    nodes = "+".join(str(each.nodes) for each in done)
                    lines.append(
                        f"| {kind} | {chip} | {label} | {nodes} | {seconds:.0f} s | "
                        f"{size / 1e6:.1f} MB | {weights / 1e6:.1f} MB | {f'{min(snr):.1f} dB' if snr else 'not run'} |"
                    )
                    click.echo(lines[-1])
    click.echo(f"peak memory {(peak_rss_bytes() or 0) / 1e6:.0f} MB; {machine()}")
    if write:
        put_between(
            PAGE, "layers", "\n".join([*lines, "", f"Peak memory {(peak_rss_bytes() or 0) / 1e9:.1f} GB, {machine()}."])
        )


def _groups(layer: Layer) -> dict[str, list[str]]:
    """What is compiled together."""
    names = list(layer.graphs)
    if len(names) == 1:
        return {names[0]: names}
    pair = [name for name in names if name.endswith("_none")]
    found = {"prefill": pair[:1], "decode": pair[1:], "prefill and decode": pair}
    return found if names == pair else found | {"all routes": names}


if __name__ == "__main__":
    main()
