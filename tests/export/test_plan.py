"""Plans: the file, the graph cut into stages, predicted sizes, and exports that follow a plan."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from palmtop.errors import InputError
from palmtop.export.arch import Model, read_model
from palmtop.export.bundle.bundle_writer import write_bundle
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.convert import export_model
from palmtop.export.measure.float_reference import FloatReference, rows_of
from palmtop.export.measure.onnx_decoder import DecoderPrompt, OnnxDecoder
from palmtop.export.measure.samples import Sample, SampleReader, packaged_questions, read_questions
from palmtop.export.mixed_precision.allocation import BitAllocation, Planned, with_fallback
from palmtop.export.mixed_precision.budget import Request
from palmtop.export.mixed_precision.bundle_size import (
    FRONTIER_POINTS,
    bundle_bytes,
    graph_bytes,
    linear_names,
)
from palmtop.export.mixed_precision.calibrate import StatisticsFolder, calibrate
from palmtop.export.mixed_precision.sensitivity import LossMeter
from palmtop.export.recipe import METHODS, Recipe
from palmtop.export.verify.baselines import weight_bytes
from palmtop.quantize.rtn import dequantize, rtn
from palmtop.quantize.scheme import Scheme
from palmtop.runtime.memory.size_option import Size
from palmtop.runtime.reference import checkpoint_path

QKV = "decoder: layers.1.self_attn.qkv_proj"
MIXED = BitAllocation(
    method="rtn",
    tensors={
        QKV: Scheme(bits=8, group=64, scale_bits=16),
        f"{QKV}.lora_A.vision": Scheme(bits=2, group=32),
        "decoder: embed_tokens": Scheme(bits=4, group=16, symmetric=True, scale_bits=16),
        "decoder: layers.0.mlp.down_proj": None,
    },
)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return Checkpoint(checkpoint_path())


@pytest.fixture(scope="module")
def model(checkpoint: Checkpoint) -> Model:
    return read_model(checkpoint, Recipe())


@pytest.fixture(scope="module")
def float_model(checkpoint: Checkpoint, model: Model, tmp_path_factory: pytest.TempPathFactory) -> FloatReference:
    folder = tmp_path_factory.mktemp("plan") / "float"
    (folder.parent / "statistics").mkdir()
    return FloatReference(folder, checkpoint, model, Recipe(), threads=1, open_sessions=40)


@pytest.fixture(scope="module")
def folder(float_model: FloatReference) -> Path:
    return float_model.folder


@pytest.fixture(scope="module")
def samples(float_model: FloatReference, folder: Path) -> list[Sample]:
    reader = SampleReader(folder, float_model.manifest)
    return [reader.read(q) for q in packaged_questions(["text", "image", "image+audio"], 1, is_general=False)]


def test_stages_one_after_the_other_are_the_whole_graph(
    float_model: FloatReference, float_bundle: Path, samples: list[Sample]
) -> None:
    probe = OnnxDecoder(float_bundle / "decoder.onnx", float_model.manifest.decoder, threads=1)
    for sample in samples:
        features = [float_model.encode([m])[0] for m in sample.media]
        live = float_model.decoder_inputs(sample, features)
        gates = live["adapter_gates"]
        for number in range(len(float_model.graphs["decoder"].stages)):
            live |= float_model.step("decoder", number, live, sample.positions)
        start = sample.positions[0] + 1
        rows = np.concatenate(features) if features else np.zeros((1, float_model.manifest.decoder.hidden_size))
        prompt = DecoderPrompt(
            mode=sample.mode,
            input_ids=sample.input_ids[:start],
            media_places=sample.places,
            features=rows.astype(np.float32),
        )
        expected = probe.logits(prompt, gates, np.append(sample.input_ids[start:], 0))
        assert np.abs(rows_of(live["logits"]) - expected).max() < 1e-5 * np.ptp(expected)


def test_what_is_the_same_for_every_sample_is_in_memory_once(
    float_model: FloatReference, samples: list[Sample]
) -> None:
    graph = float_model.graphs["decoder"]
    text = next(sample for sample in samples if sample.mode == "text")
    longer = replace(text, input_ids=np.concatenate([text.input_ids, text.input_ids[:3]]))
    longer = replace(longer, places=np.zeros(len(longer.input_ids), np.int64))
    first, second = (graph.run(0, float_model.decoder_inputs(sample, [])) for sample in (text, longer))
    large = [name for name, value in first.items() if value.nbytes > 1 << 16]
    assert large, "no table of the whole context comes out of the first stage"
    assert all(first[name] is second[name] for name in large)
    others = [name for name in first if name not in large and first[name].shape != second[name].shape]
    assert others and all(first[name] is not second[name] for name in others)


def test_statistics_are_of_what_enters_and_adapters_see_only_their_modes(
    float_model: FloatReference, folder: Path, samples: list[Sample]
) -> None:
    kept = StatisticsFolder(folder.parent / "statistics")
    calibrate(float_model, samples, kept)
    base = kept.find(QKV)
    vision, speech = (kept.find(f"{QKV}.lora_A.{name}") for name in ("vision", "speech"))
    assert base is not None and vision is not None
    assert speech is None  # no sample of sound alone
    assert base.count == sum(len(s.input_ids) for s in samples)
    assert vision.count == sum(len(s.input_ids) for s in samples if s.mode != "text")
    inner = kept.find(f"{QKV}.lora_B.vision")
    graph = float_model.graphs["decoder"]
    a = graph.weight(graph.linears()[f"{QKV.partition(': ')[2]}.lora_A.vision"][1])
    assert inner is not None
    np.testing.assert_allclose(a @ vision.moments @ a.T, inner.moments, rtol=1e-2, atol=1e-3)
    # The head sees the judged positions alone, and the tower of each kind of media its own rows.
    head = kept.find("decoder: embed_tokens")
    assert head is not None and head.count == sum(len(s.positions) for s in samples)
    assert kept.find("audio: model.embed_tokens_extend.audio_embed.audio_projection.speech.0") is None
    assert kept.find("audio: model.embed_tokens_extend.audio_embed.audio_projection.vision.0") is not None


def test_losses_are_zero_for_the_same_weights_and_of_the_modes_that_use_changed_ones(
    float_model: FloatReference, samples: list[Sample]
) -> None:
    meter = LossMeter(float_model, samples)

    def loss(part: str, name: str, factor: float) -> dict[str, float]:
        graph = float_model.graphs[part]
        return dict(meter.loss({part: {name: graph.weight(graph.linears()[name][1]) * np.float32(factor)}}).kl)

    name = QKV.partition(": ")[2]
    assert max(loss("decoder", name, 1.0).values()) < 1e-6
    assert min(loss("decoder", name, 0.0).values()) > 1e-5
    adapter = loss("decoder", f"{name}.lora_A.vision", 0.0)
    assert adapter["text"] == 0.0 and adapter["image"] > 1e-6
    projector = "model.embed_tokens_extend.audio_embed.audio_projection.vision.2"
    audio = loss("audio", projector, 0.0)
    assert audio["image"] == audio["text"] == 0.0 and audio["image+audio"] > 1e-6


def test_predicted_bytes_are_those_written(checkpoint: Checkpoint, model: Model, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    recipe = Recipe(method="rtn")
    planned = Planned(plan=MIXED, quantizer=with_fallback(METHODS["rtn"]), statistics=lambda key: None)
    write_bundle(tmp_path / "bundle", checkpoint, model, recipe, planned=planned)
    assert graph_bytes(model, recipe, MIXED) == weight_bytes(tmp_path / "bundle")


def test_an_export_follows_its_plan_tensor_by_tensor_passes_its_proof_and_is_as_large_as_predicted(
    float_model: FloatReference, folder: Path, model: Model, tmp_path: Path
) -> None:
    recipe, told = Recipe(method="rtn"), []
    solved = replace(MIXED, size_bytes=5_000_000, loss=0.01, frontier=((5_000_000, 0.0123456),) * FRONTIER_POINTS)
    request = Request(plan=solved)
    export_model(checkpoint_path(), tmp_path / "b", recipe, verify=True, request=request, on_plan=told.append)
    assert told == [solved]
    files = [p for p in (tmp_path / "b").rglob("*") if p.is_file() and p.name != "quality.json"]
    predicted = bundle_bytes(folder, float_model.manifest, model, recipe, MIXED)
    assert sum(p.stat().st_size for p in files) == pytest.approx(predicted, rel=1e-3)
    nodes = {n.name: n for n in ir.load(tmp_path / "b" / "decoder.onnx").graph.all_nodes()}

    def stored(name: str) -> tuple[int, int, int]:
        node = nodes[name]
        scales = node.inputs[2]
        assert scales is not None
        scale_bits = 16 if scales.producer() is not None else 32
        return node.attributes["bits"].as_int(), node.attributes["block_size"].as_int(), scale_bits

    name = QKV.partition(": ")[2]
    assert stored(name) == (8, 64, 16)
    assert stored(f"{name}.lora_A.vision") == (2, 32, 32)
    assert stored("lm_head") == stored("embed_tokens.gather") == (4, 16, 16)
    assert nodes["layers.0.mlp.down_proj"].op_type == "MatMul"
    assert stored("layers.3.mlp.down_proj") == (4, 32, 32)
    written = json.loads((tmp_path / "b" / "plan.json").read_text())
    assert written["tensors"][QKV] == {"bits": 8, "group": 64, "scale_bits": 16}


def test_a_calibrated_export_is_what_its_statistics_give(
    checkpoint: Checkpoint,
    model: Model,
    float_model: FloatReference,
    folder: Path,
    samples: list[Sample],
    tmp_path: Path,
) -> None:
    kept = StatisticsFolder(tmp_path / "statistics")
    (tmp_path / "statistics").mkdir()
    calibrate(float_model, samples, kept)
    scheme = Scheme(bits=4, group=32, scale_bits=16)
    graph = float_model.graphs["decoder"]
    weight = graph.weight(graph.linears()[QKV.partition(": ")[2]][1])
    gptq = dequantize(METHODS["gptq"](weight, scheme, kept.find(QKV)))
    statistics = kept.find(QKV)
    assert statistics is not None
    assert statistics.output_error(gptq - weight) < 0.8 * statistics.output_error(
        dequantize(rtn(weight, scheme)) - weight
    )


def test_a_plan_file_comes_back_as_it_was(tmp_path: Path) -> None:
    MIXED.write(tmp_path / "plan.json")
    assert BitAllocation.read(tmp_path / "plan.json") == replace(MIXED)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d["tensors"][QKV].update(bits=3), r"qkv_proj'.*bits is 3, expected one of 2, 4, 8"),
        (lambda d: d["tensors"][QKV].update(group="64"), r"qkv_proj'.*has group '64'"),
        (lambda d: d["tensors"].update(x=4), r"tensor 'x' is 4"),
        (lambda d: d.update(schema=2), "schema is 2, expected 1"),
        (lambda d: d.pop("tensors"), "has no tensors"),
    ],
)
def test_a_plan_that_is_not_possible_is_refused(edit: object, message: str, tmp_path: Path) -> None:
    data = MIXED.to_dict()
    edit(data)  # type: ignore[operator]
    (tmp_path / "plan.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=message):
        BitAllocation.read(tmp_path / "plan.json")


def test_a_plan_for_another_model_is_refused(tmp_path: Path) -> None:
    plan = BitAllocation(method="rtn", tensors={"decoder: layers.99.mlp.down_proj": Scheme(bits=4, group=32)})
    with pytest.raises(InputError, match=r"no tensor 'decoder: layers.99.mlp.down_proj'"):
        export_model(checkpoint_path(), tmp_path / "b", request=Request(plan=plan))
    assert not (tmp_path / "b").exists()


def test_every_linear_has_a_name_for_plans(model: Model) -> None:
    names = linear_names(model, Recipe())
    kinds = Counter(name.partition(":")[0] for name in names)
    layers = model.decoder.num_layers
    assert kinds["decoder"] == 1 + layers * 4 * (1 + 2 * len(model.adapters))
    assert kinds["vision"] > 0 and kinds["audio"] > 0


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("2.2GB", 2_200_000_000),
        ("900mb", 900_000_000),
        ("1.5 GiB", 3 << 29),
        ("2.2TB", 2_200_000_000_000),
        ("1000", 1000),
    ],
)
def test_sizes_are_read(text: str, size_bytes: int) -> None:
    assert Size().convert(text, None, None) == size_bytes


@pytest.mark.parametrize("text", ["", "big", "-1GB", "0", "0.0GB", "2.2PB"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected a size such as 2GB"):
        Size().convert(text, None, None)


def test_samples_of_ones_own_are_read_and_bad_lines_named(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    image = {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "?"}]}
    path.write_text(json.dumps({"messages": [image], "answer": "7"}) + '\n{"text": "prose"}\n')
    first, second = read_questions(path)
    assert (first.mode, first.messages[0]["content"][0]["image"]) == ("image", str(tmp_path / "a.png"))
    assert (second.mode, second.answer) == ("text", "prose")
    path.write_text('{"text": "fine"}\n{"messages": [], "answer": 4}\n')
    with pytest.raises(InputError, match=r"samples.jsonl:2: 'answer' is a number, expected text"):
        list(read_questions(path))


def test_samples_longer_than_the_context_are_calibrated_on_up_to_there(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """A graph of 32 positions has no rotation for more: onnxruntime would end the export with its own words."""
    samples = tmp_path / "samples.jsonl"
    samples.write_text(json.dumps({"text": "digits: one two three. " * 20}) + "\n")
    recipe = Recipe(method="gptq", context=32)
    export_model(checkpoint.path, tmp_path / "bundle", recipe, request=Request(samples=samples))
    assert (tmp_path / "bundle" / "bundle.json").is_file()


def test_two_wishes_at_once_are_refused() -> None:
    with pytest.raises(InputError, match="size_bytes and loss are given"):
        Request(size_bytes=10, loss=0.1)
