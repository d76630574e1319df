"""What every graph and manifest of the exporter is today, so that a change of its code changes none of them unseen.

``tests/pins.json`` holds a hash of every graph's nodes, weights and ends. ``python -m tests.pins --write`` renews it,
``python -m tests.pins --diff REVISION`` prints which nodes and weights differ from that commit's, line by line.

Checkpoints have weights that are small integers times powers of two, and codes are rounded to nearest: no sum is
rounded, so that every machine makes the same bytes. No provider and no compiler is needed.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
from numpy.typing import NDArray
from safetensors.numpy import save_file

from palmtop.export.convert import export_model
from palmtop.export.graph.kv_cache import KvCache, LayerScales
from palmtop.export.recipe import Recipe
from palmtop.runtime.reference import checkpoint_path

PINS = Path(__file__).with_name("pins.json")
ROOT = Path(__file__).parent.parent
Listing = dict[str, list[str]]
"""Lines by graph or manifest."""

RTN = {"method": "rtn", "context": 64}
MODES: dict[str, dict[str, Any]] = {
    "float": {"bits": 32},
    "int4": {},
    "int8": {"bits": 8, "symmetric": True, "scale_bits": 16},
    "mixed": {"bits": 4, "head_bits": 8, "encoder_bits": 32, "group": 16, "accuracy_level": 0},
    "none": {"adapters": "none"},
    "merged": {"bits": 32, "adapters": "merge=vision,speech=-0.5"},
    "merged4": {"adapters": "merge=vision"},
    "kv8": {"kv": 8, "bits": 32, "encoder_bits": 8},
    "kv4": {"kv": 4},
    "drafts": {"draft_rows": 8},
    "drafts-float": {"draft_rows": 4, "bits": 32},
    "openvino": {"target": "openvino", "chunk": 8},
    "openvino8": {"target": "openvino", "chunk": 8, "bits": 8, "group": 16, "symmetric": True, "scale_bits": 16},
    "openvino-float": {"target": "openvino", "chunk": 8, "bits": 32},
    "openvino-merged": {"target": "openvino", "chunk": 8, "adapters": "merge=vision"},
    "qnn": {"target": "qnn", "chunk": 8, "soc": "sm8750"},
    "qnn8": {"target": "qnn", "chunk": 8, "soc": "sm8750", "bits": 8},
}

TOWERS = {
    "vision_hidden_size": 16,
    "vision_intermediate_size": 24,
    "vision_layers": 2,
    "vision_heads": 2,
    "audio_hidden_size": 16,
    "audio_intermediate_size": 16,
    "audio_blocks": 1,
    "audio_heads": 2,
    "nemo_conv_channels": 4,
    "bias_max_distance": 10,
    "vision_rank": 4,
    "vision_alpha": 8,
    "speech_rank": 8,
    "speech_alpha": 16,
    "num_hidden_layers": 2,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A checkpoint and how it is exported.

    Attributes:
        family: "phi4mm", "phi3", "llama" or "packaged".
        modes: names of ``MODES``.
        sizes: of the checkpoint.
        config: dotted keys of config.json that are changed afterwards.
        shapes: tensors by a pattern of their name that get another shape.
        without: pattern of the tensors that the changed config has no place for.
    """

    family: str
    modes: tuple[str, ...]
    sizes: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    without: str | None = None


def _heads(heads: int, kv_heads: int, size: int, hidden: int, inner: int) -> dict[str, Any]:
    return {
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": size,
        "hidden_size": hidden,
        "intermediate_size": inner,
    }


AUDIO = "audio_processor.config."
LONG = {"original_max_position_embeddings": 12, "max_position_embeddings": 256}
CASES: dict[str, Case] = {
    "packaged": Case(
        family="packaged",
        modes=("float", "int4", "int8", "mixed", "none", "kv8", "kv4", "drafts", "openvino", "qnn"),
    ),
    "wide-kv": Case(
        family="phi4mm",
        modes=("float", "int4", "merged", "merged4", "kv4", "openvino", "openvino-merged", "qnn"),
        sizes={**_heads(4, 2, 32, 72, 80), "partial_rotary_factor": 0.5, "tie_word_embeddings": False},
    ),
    "padded-heads": Case(
        family="phi4mm",
        modes=("float", "int4", "merged", "kv8", "drafts-float", "openvino-float", "qnn8"),
        sizes={**_heads(3, 1, 20, 40, 36), "partial_rotary_factor": 1.0, "vision_rank": 2, "vision_alpha": 1},
    ),
    "one-layer": Case(
        family="phi4mm",
        modes=("int4", "mixed", "none", "openvino8"),
        sizes={**_heads(3, 3, 24, 96, 36), "num_hidden_layers": 1, "tie_word_embeddings": False},
    ),
    "long": Case(
        family="phi4mm",
        modes=("float", "int8", "drafts", "openvino", "qnn"),
        sizes={**_heads(2, 1, 16, 40, 80), **LONG, "partial_rotary_factor": 0.75},
    ),
    "window": Case(
        family="phi4mm", modes=("float", "kv4", "openvino"), sizes={**_heads(4, 4, 16, 64, 48), "sliding_window": 8}
    ),
    "odd-tiles": Case(
        family="phi4mm",
        modes=("float", "int4", "qnn"),
        sizes={**_heads(2, 2, 16, 32, 32), "crop_size": 70, "feature_layer": -1, "vision_layers": 3},
    ),
    "stacked-sound": Case(
        family="phi4mm",
        modes=("float", "mixed", "qnn"),
        sizes=_heads(2, 2, 16, 32, 32),
        config={
            "embd_layer.audio_embd_layer.downsample_rate": 2,
            AUDIO + "relative_attention_bias_args.t5_bias_symmetric": True,
        },
        shapes={r"audio_projection\.\w+\.0\.weight": (32, 32), r"bias_values\.weight": (10, 2)},
    ),
    "quick-sound": Case(
        family="phi4mm",
        modes=("int8", "qnn"),
        sizes={**_heads(2, 2, 16, 32, 32), "audio_blocks": 2, "nemo_conv_channels": 132, "kernel_size": 5},
        config={AUDIO + "time_reduction": 4, AUDIO + "depthwise_multiplier": 2, AUDIO + "conv_activation": "gelu"},
        shapes={r"embed\.out\.weight": (16, 132 * 20), r"dw_conv\.weight": (32, 1, 5), r"dw_conv\.bias": (32,)}
        | {r"pw_conv\.weight": (16, 32, 1)},
        without=r"embed\.conv\.[56]\.",
    ),
    "text": Case(family="phi3", modes=("float", "int4", "kv8", "drafts", "openvino", "qnn")),
    "text-tied": Case(
        family="phi3",
        modes=("float", "int8", "kv4", "openvino8", "qnn8"),
        sizes={"head_dim": 12, "num_attention_heads": 3, "num_key_value_heads": 1, "tie_word_embeddings": True},
    ),
    "text-long": Case(
        family="phi3",
        modes=("float", "drafts-float", "openvino-float"),
        sizes={"original_max_position_embeddings": 20, "num_key_value_heads": 4},
        config={
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": [1.0 + 0.125 * i for i in range(7)],
                "long_factor": [1.0 + 2.0 * i for i in range(7)],
            }
        },
    ),
    "separate": Case(family="llama", modes=("float", "int4", "openvino"), sizes={"tie_word_embeddings": True}),
    "separate-biased": Case(
        family="llama",
        modes=("float", "mixed", "kv8", "openvino8", "qnn"),
        sizes={"attention_bias": True, "mlp_bias": True, "head_dim": 20, "num_key_value_heads": 1},
    ),
    "text-window": Case(
        family="phi3",
        modes=("float", "mixed", "openvino"),
        sizes={"head_dim": 16, "partial_rotary_factor": 0.5, "sliding_window": 9, "vocab_size": 493},
    ),
}


def list_case(name: str, folder: Path) -> Listing:
    """Lines of every graph and manifest of a case, by ``case/mode/file``."""
    case = CASES[name]
    checkpoint = checkpoint_path() if case.family == "packaged" else write_checkpoint(case, folder / f"{name}-source")
    found: Listing = {}
    for mode in case.modes:
        bundle = export(checkpoint, folder / f"{name}-{mode}", MODES[mode])
        found |= {f"{name}/{mode}/{file}": lines for file, lines in list_bundle(bundle)}
    return found


def export(checkpoint: Path, bundle: Path, mode: Mapping[str, Any]) -> Path:
    """Export with stand-ins for what measures: scales of the KV cache, ranges of values, and QNN's compiler."""
    recipe = Recipe(**{**RTN, **mode})
    with ExitStack() as stack:
        stack.enter_context(mock.patch("palmtop.export.convert.cache_for", _cache))
        if recipe.target == "qnn":
            target = "palmtop.export.providers.qnn.target."
            stack.enter_context(mock.patch("palmtop.export.providers.qnn.compile.require_compiler"))
            stack.enter_context(mock.patch(target + "SampleReader"))
            for stand_in in ("require_compiler", "calibrate", "compiler_versions"):
                stack.enter_context(mock.patch(target + stand_in, mock.MagicMock(return_value={})))
            stack.enter_context(mock.patch(target + "calibrate", return_value=1))
            stack.enter_context(mock.patch(target + "compile_graphs", _compiled))
            stack.enter_context(mock.patch(target + "EncoderCalibration", _Encoders))
            stack.enter_context(mock.patch(target + "DecoderCalibration", _Decoder))
        return export_model(checkpoint, bundle, recipe)


def _cache(checkpoint: object, model: Any, recipe: Recipe, samples: object, report: object) -> KvCache:
    attention = model.decoder.attention
    shape = (attention.num_kv_heads, attention.cache_head_size)

    def scales(seed: int) -> NDArray[np.float32]:
        return (_integers(f"kv{seed}", shape, 1, 64) / 1024).astype(np.float32)

    layers = tuple(LayerScales(scales(2 * n), scales(2 * n + 1)) for n in range(model.decoder.num_layers))
    return KvCache(bits=recipe.kv, layers=layers if recipe.kv < 32 else ())


class _Found:
    """Ranges by value of a float graph, each from its name."""

    def __init__(self, path: Path) -> None:
        graph = onnx.load(path, load_external_data=False).graph
        floats = [i.name for i in graph.input if i.type.tensor_type.elem_type == onnx.TensorProto.FLOAT]
        names = [*floats, *(name for node in graph.node for name in node.output)]
        self.ranges = {n: (-(1 + zlib.crc32(n.encode()) % 8) / 4, 1 + zlib.crc32(n.encode()) % 5 / 2) for n in names}


class _Encoders:
    def __init__(self, graphs: Mapping[str, Path], spec: object) -> None:
        self.found = {name: _Found(path) for name, path in graphs.items()}


class _Decoder:
    def __init__(self, folder: Path, spec: Any, manifest: object) -> None:
        files = [file for route in spec.routes for file in (route.prefill, route.decode)]
        self.found = {file: _Found(folder / file) for file in files}


def _compiled(
    folder: Path, graphs: Mapping[str, str], soc: str, samples: object, report: object = None, *, share: bool
) -> list[object]:
    for file in graphs.values():
        (folder / file).write_bytes(b"no graph")
    return []


def list_bundle(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Lines of each graph, of genai's configuration, and of the manifest without what a library's version changes."""
    for path in sorted(folder.glob("*.onnx")):
        if path.read_bytes() != b"no graph":
            yield path.name, list(list_graph(onnx.load(path)))
    yield "genai_config.json", (folder / "genai_config.json").read_text().splitlines()
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest.pop("palmtop", None)
    for target in manifest.get("targets", []):
        target["versions"].pop("sources", None)
    for name, spec in manifest["files"].items():
        if not name.startswith("weights/"):
            manifest["files"][name] = "there"
        else:
            spec["sha256"] = spec["sha256"][:16]
    for part in manifest["parts"]:
        if not isinstance(part, dict):
            raise TypeError(f"part {part!r} is not an object")
    yield "bundle.json", json.dumps(manifest, indent=1, sort_keys=True).splitlines()


def list_graph(model: onnx.ModelProto) -> Iterator[str]:
    """A line for each end, node and weight of a graph."""
    yield f"end opsets {sorted((o.domain, o.version) for o in model.opset_import)} ir {model.ir_version}"
    yield from _ends(model.graph)
    yield from _nodes(model.graph, "")


def _ends(graph: onnx.GraphProto) -> Iterator[str]:
    for kind, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            tensor = value.type.tensor_type
            shape = [d.dim_param or d.dim_value for d in tensor.shape.dim]
            yield f"end {kind} {value.name} {onnx.TensorProto.DataType.Name(tensor.elem_type)} {shape}"


def _nodes(graph: onnx.GraphProto, indent: str) -> Iterator[str]:
    for node in graph.node:
        plain = {a.name: _plain(a) for a in node.attribute if not a.HasField("g")}
        given = ", ".join(f"{key}={value}" for key, value in sorted(plain.items()))
        ends = f"({', '.join(node.input)}) -> {', '.join(node.output)}"
        yield f"node {indent}{node.name}: {node.domain}.{node.op_type}{ends} {given}".rstrip()
        for property_ in sorted(node.metadata_props, key=lambda p: p.key):
            yield f"mark {indent}{node.name}: {property_.key} = {property_.value}"
        for attribute in sorted(node.attribute, key=lambda a: a.name):
            if attribute.HasField("g"):
                inner = indent + "  "
                yield f"node {inner}{attribute.name} -> {', '.join(o.name for o in attribute.g.output)}"
                yield from _nodes(attribute.g, inner)
    for weight in graph.initializer:
        kind = onnx.TensorProto.DataType.Name(weight.data_type)
        content = hashlib.sha256(onnx.numpy_helper.to_array(weight).tobytes()).hexdigest()[:12]
        yield f"weight {indent}{weight.name} {kind} {list(weight.dims)} {content}"


def _plain(attribute: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    return round(value, 9) if isinstance(value, float) else list(value) if not isinstance(value, int) else value


def write_checkpoint(case: Case, folder: Path) -> Path:
    """Write a checkpoint whose weights are the same on every machine."""
    if case.family == "phi3":
        from tests.export.test_phi3 import write_phi3

        write_phi3(folder, 0, **case.sizes)
    elif case.family == "llama":
        from tests.export.test_llama import write_llama

        write_llama(folder, 0, **case.sizes)
    else:
        from tests.reference.port import random_checkpoint

        random_checkpoint(folder, 0, shards=1, **{**TOWERS, **case.sizes})
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for dotted, value in case.config.items():
        *parents, last = dotted.split(".")
        section = config
        for key in parents:
            section = section[key]
        section[last] = value
    path.write_text(json.dumps(config))
    preprocessor = folder / "preprocessor_config.json"
    if preprocessor.exists():
        data = json.loads(preprocessor.read_text())
        data["audio_downsample_rate"] = config["embd_layer"]["audio_embd_layer"]["downsample_rate"]
        data["audio_compression_rate"] = config["audio_processor"]["config"]["time_reduction"]
        preprocessor.write_text(json.dumps(data))
    for shard in sorted(folder.glob("*.safetensors")):
        tensors = dict(_exact_tensors(shard, case.shapes))
        kept = {n: t for n, t in tensors.items() if case.without is None or not re.search(case.without, n)}
        save_file(kept, shard, metadata={"format": "pt"})
        if kept.keys() != tensors.keys():
            (folder / "model.safetensors.index.json").unlink()
    return folder


def _exact_tensors(shard: Path, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    size = int.from_bytes(shard.read_bytes()[:8], "little")
    header = json.loads(shard.read_bytes()[8 : 8 + size])
    for name, spec in header.items():
        if name == "__metadata__":
            continue
        shape = next((s for pattern, s in shapes.items() if re.search(pattern, name)), tuple(spec["shape"]))
        if ".lora_" in name:
            yield name, (_integers(name, shape, -7, 8) / 16).astype(np.float32)
        else:
            around = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            yield name, (around + _integers(name, shape, -127, 128) / 512).astype(np.float32)


def _integers(name: str, shape: tuple[int, ...], low: int, high: int) -> NDArray[np.int64]:
    return np.random.default_rng(zlib.crc32(name.encode())).integers(low, high, shape)


def pin(lines: list[str]) -> str:
    """A line that tells two listings apart and says in which of their parts."""
    if not lines[0].startswith("end "):
        return _hash(lines)
    parts = {kind: [line for line in lines if line.startswith(kind)] for kind in ("end", "node", "mark", "weight")}
    return ", ".join(f"{len(part)} {kind}s {_hash(part)}" for kind, part in parts.items() if part)


def _hash(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def list_all(cases: list[str]) -> Listing:
    """Of several cases."""
    found: Listing = {}
    for name in cases:
        with tempfile.TemporaryDirectory() as folder:
            found |= list_case(name, Path(folder))
    return found


def list_revision(revision: str, cases: list[str]) -> Listing:
    """The listing that a commit's own code and pins make."""
    with tempfile.TemporaryDirectory() as name:
        tree, package = Path(name) / "tree", Path(name) / "package" / "palmtop"
        archive = Path(name) / "tree.tar"
        subprocess.run(["git", "archive", "-o", archive, revision], cwd=ROOT, check=True)
        with tarfile.open(archive) as tar:
            tar.extractall(tree, filter="data")
        package.parent.mkdir()
        (tree / "runtime" / "front").rename(package)
        for room in ("export", "quantize", "runtime"):
            (tree / room).rename(package / room)
        code = f"import json, tests.pins as p; print(json.dumps(p.list_all({cases!r})))"
        environment = {**os.environ, "PYTHONPATH": f"{package.parent}{os.pathsep}{tree}"}
        done = subprocess.run([sys.executable, "-c", code], cwd=tree, env=environment, stdout=-1, check=True, text=True)
        listing: Listing = json.loads(done.stdout.splitlines()[-1])
        return listing


def print_differences(before: Listing, after: Listing) -> None:
    """As ``diff -u`` would; equal listings are left out."""
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name, []), after.get(name, [])
        sys.stdout.writelines(f"{line}\n" for line in difflib.unified_diff(old, new, name, name, lineterm="", n=1))


def main() -> None:
    """Write the pins, print a listing, or print the differences from a commit."""
    parser = argparse.ArgumentParser(prog="python -m tests.pins", description=__doc__.splitlines()[0])
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help="renew tests/pins.json")
    action.add_argument("--list", action="store_true", help="print every node and weight")
    action.add_argument("--diff", metavar="REVISION", help="print what differs from a commit, such as HEAD")
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}; none means all")
    arguments = parser.parse_args()
    cases = arguments.cases or list(CASES)
    found = list_all(cases)
    if arguments.diff:
        print_differences(list_revision(arguments.diff, cases), found)
    elif arguments.list:
        print_differences({}, found)
    else:
        kept = json.loads(PINS.read_text()) if PINS.exists() else {}
        kept = {key: value for key, value in kept.items() if key.partition("/")[0] in CASES.keys() - set(cases)}
        kept |= {name: pin(lines) for name, lines in found.items()}
        PINS.write_text(json.dumps(kept, indent=0, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
