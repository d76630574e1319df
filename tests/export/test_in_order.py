"""Quantising layer after layer: a layer's aim, that it makes up for what came before, and the bundle it gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from palmtop.export.arch import read_model
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.convert import export_model
from palmtop.export.measure.float_reference import Changed, FloatReference
from palmtop.export.measure.samples import Sample, SampleReader, later_questions, packaged_questions
from palmtop.export.mixed_precision.allocation import BitAllocation
from palmtop.export.mixed_precision.budget import Request
from palmtop.export.mixed_precision.quantized_store import QuantizedStore
from palmtop.export.mixed_precision.sensitivity import LossMeter
from palmtop.export.mixed_precision.sequential import in_groups, quantize_in_order, summed
from palmtop.export.recipe import Recipe
from palmtop.quantize.rtn import dequantize, rtn
from palmtop.quantize.scheme import QuantizedTensor, Scheme
from palmtop.quantize.statistics import Statistics
from palmtop.runtime.bundle.manifest import MODES
from palmtop.runtime.reference import checkpoint_path

INT4 = Scheme(bits=4, group=32, scale_bits=16)
QKV = "layers.1.self_attn.qkv_proj"
Reader = tuple[FloatReference, list[Sample], list[Sample]]


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """The packaged model in float, samples to calibrate on and others to judge on."""
    folder = tmp_path_factory.mktemp("in-order") / "float"
    checkpoint = Checkpoint(checkpoint_path())
    model = read_model(checkpoint, Recipe())
    reference = FloatReference(folder, checkpoint, model, Recipe(), open_sessions=4096)
    manifest = reference.manifest
    reader = SampleReader(folder, manifest)
    seen = [reader.read(question) for question in packaged_questions(MODES, 16, is_general=False)]
    judged = [reader.read(question) for question in later_questions(MODES, 16, 24, is_general=False)]
    return reference, seen, judged


def everything(model: FloatReference, scheme: Scheme) -> dict[str, Scheme | None]:
    return {f"{part}: {name}": scheme for part, graph in model.graphs.items() for name in graph.linears()}


def by_part(codes: dict[str, QuantizedTensor]) -> dict[str, Changed]:
    found: dict[str, dict[str, NDArray[np.float32]]] = {}
    for key, tensor in codes.items():
        part, _, name = key.partition(": ")
        found.setdefault(part, {})[name] = dequantize(tensor)
    return dict(found)


def test_first_and_second_matrices_of_adapters_come_in_turn_behind_what_they_read(there: Reader) -> None:
    stage = next(s for s in there[0].graphs["decoder"].stages if any(n.name == QKV for n in s.linears))
    names = [[linear.name.removeprefix("layers.1.") for linear in group] for group in in_groups(stage)]
    assert names[0][0] == "self_attn.qkv_proj" and sorted(names[0][1:]) == [
        f"self_attn.qkv_proj.lora_A.{adapter}" for adapter in ("speech", "vision")
    ]
    assert sorted(names[1]) == [f"self_attn.qkv_proj.lora_B.{adapter}" for adapter in ("speech", "vision")]
    assert names[2][0] == "self_attn.o_proj"
    assert sorted(name for group in names for name in group) == sorted(
        n.name.removeprefix("layers.1.") for n in stage.linears
    )


def test_a_layers_aim_is_the_sum_behind_its_adapters_and_the_residual_stream(there: Reader) -> None:
    stage = next(s for s in there[0].graphs["decoder"].stages if any(n.name == QKV for n in s.linears))
    by_name = {linear.name: linear for linear in stage.linears}
    base, up = by_name[QKV], by_name[f"{QKV}.lora_B.vision"]
    assert len(summed(stage, base)) == 1
    assert summed(stage, base)[0] != next(n.output[0] for n in stage.nodes if base.weight in n.input)
    assert summed(stage, up) == summed(stage, base)
    assert len(summed(stage, by_name["layers.1.self_attn.o_proj"])) == 2  # with the residual stream
    down = by_name[f"{QKV}.lora_A.vision"]
    assert summed(stage, down) == [next(n.output[0] for n in stage.nodes if down.weight in n.input)]


def rounded(weight: NDArray[np.float32], scheme: Scheme, _: Statistics | None = None, /) -> QuantizedTensor:
    return rtn(weight, scheme)


def test_layers_make_up_for_those_before_them(there: Reader) -> None:
    """The rounding is the same on both sides: what is gained comes from where the weights were moved to."""
    model, seen, judged = there
    schemes, codes = everything(model, INT4), dict[str, QuantizedTensor]()
    quantize_in_order(model, seen, schemes, rounded, codes.__setitem__)
    plain: dict[str, QuantizedTensor] = {}
    for part, graph in model.graphs.items():
        for name, (_, linear) in graph.linears().items():
            plain[f"{part}: {name}"] = rtn(graph.weight(linear), INT4)
    assert plain.keys() == codes.keys()
    meter = LossMeter(model, judged, from_start=True)
    alone, in_order = meter.loss(by_part(plain)), meter.loss(by_part(codes))
    assert in_order.mean_kl < 0.8 * alone.mean_kl


def test_losses_are_the_same_whatever_is_kept(there: Reader) -> None:
    model, _, judged = there
    graph = model.graphs["decoder"]
    weights = {QKV: dequantize(rtn(graph.weight(graph.linears()[QKV][1]), INT4))}
    kept, anew = (LossMeter(model, judged, from_start=flag).loss({"decoder": weights}) for flag in (False, True))
    assert kept.mean_kl == pytest.approx(anew.mean_kl, rel=1e-6)
    assert kept.kl.keys() == anew.kl.keys()


def test_an_export_stores_the_codes_that_were_made_in_order(
    there: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from palmtop.export.mixed_precision import prepare

    made: dict[str, QuantizedTensor] = {}
    keep = QuantizedStore.keep

    def seen(self: QuantizedStore, key: str, tensor: QuantizedTensor) -> QuantizedTensor:
        made[key] = tensor
        return keep(self, key, tensor)

    monkeypatch.setattr(prepare.QuantizedStore, "keep", seen)
    samples = tmp_path / "samples.jsonl"
    samples.write_text('{"text": "seven plus three is ten"}\n{"text": "spell the word palm"}\n')
    recipe, request = Recipe(method="gptq-in-order", scale_bits=16), Request(samples=samples)
    bundle = export_model(checkpoint_path(), tmp_path / "b", recipe, request=request)

    assert f"decoder: {QKV}" in made and f"decoder: {QKV}.lora_A.vision" not in made  # which text does not use
    graph = onnx.load(bundle / "decoder.onnx").graph
    codes = {w.name: onnx.numpy_helper.to_array(w) for w in graph.initializer if w.name == f"{QKV}.codes"}
    np.testing.assert_array_equal(codes[f"{QKV}.codes"], made[f"decoder: {QKV}"].codes)
    assert BitAllocation.read(bundle / "plan.json").method == "gptq-in-order"
