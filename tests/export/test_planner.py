"""What a planner decides, which samples it decides on, and how much memory it may use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from click.testing import CliRunner

from palmtop.errors import InputError
from palmtop.export.arch import read_model
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.cli import export_command
from palmtop.export.measure.float_reference import FloatReference
from palmtop.export.measure.samples import Sample
from palmtop.export.mixed_precision import prepare
from palmtop.export.mixed_precision.allocation import BitAllocation, with_fallback
from palmtop.export.mixed_precision.allocator import SCHEMES, Allocator, Sensitivity
from palmtop.export.mixed_precision.memory_estimate import refuse_little_memory
from palmtop.export.mixed_precision.sensitivity import Loss
from palmtop.export.mixed_precision.splits import in_turns, in_two, judged_of
from palmtop.export.recipe import METHODS, Recipe
from palmtop.quantize.rtn import rtn
from palmtop.quantize.scheme import Scheme
from palmtop.quantize.search import search
from palmtop.runtime.memory.machine import rss_bytes
from palmtop.runtime.reference import checkpoint_path

SHAPE = (64, 1024)
KEYS = ("decoder: a", "decoder: b", "audio: c")
BESIDE = 5000  # bytes of a bundle that no plan changes


class Measured(Allocator):
    """A planner of three matrices whose whole plans lose what a table says; single ones seem to lose less at 2 bits."""

    true_2_bits = 1.0
    harder = 1.0  # are the samples of the verdict

    def __init__(self) -> None:
        def single(scheme: Scheme) -> float:
            return {2: 1e-4, 4: 1e-3, 8: 1e-6}[scheme.bits] * scheme.group

        sensitivities = [Sensitivity(key, SHAPE, SCHEMES, tuple(map(single, SCHEMES))) for key in KEYS]
        nothing = cast(Any, None)
        super().__init__(nothing, nothing, sensitivities, nothing, "rtn", self.size, cast(Any, object()))

    def size(self, tensors: Mapping[str, Scheme | None]) -> int:
        return BESIDE + sum(sum(scheme.tensor_bytes(*SHAPE)) for scheme in tensors.values() if scheme is not None)

    def measured(self, tensors: Mapping[str, Scheme | None]) -> Loss:
        each = {2: self.true_2_bits, 4: 1e-3, 8: 1e-6}
        lost = sum(each[scheme.bits] * scheme.group for scheme in tensors.values() if scheme is not None)
        return Loss(kl={"text": lost}, top1={"text": 1.0})

    def predicted(self, tensors: Mapping[str, Scheme | None]) -> Loss:
        return Loss(kl={"text": self.harder * self.measured(tensors).mean_kl}, top1={"text": 1.0})


def bits_of(plan: BitAllocation) -> set[int]:
    return {scheme.bits for scheme in plan.tensors.values() if scheme is not None}


def test_tensors_that_seem_harmless_at_2_bits_are_believed_only_when_the_whole_plan_is() -> None:
    planner = Measured()
    limit = planner.size(dict.fromkeys(KEYS, Scheme(bits=4, group=16, scale_bits=16)))
    plan = planner.for_size(limit)
    assert 2 not in bits_of(plan)
    assert plan.size_bytes is not None and plan.size_bytes <= limit
    assert plan.loss == planner.measured(plan.tensors).mean_kl
    planner.true_2_bits = 1e-9
    assert bits_of(planner.for_size(limit)) == {2}


def test_no_plan_is_worse_than_a_uniform_one_of_its_size() -> None:
    planner = Measured()
    for scheme in SCHEMES:
        uniform = planner.uniform(scheme)
        assert uniform.size_bytes is not None and uniform.loss is not None
        plan = planner.for_size(uniform.size_bytes)
        assert plan.loss is not None and plan.size_bytes is not None
        assert plan.loss <= uniform.loss and plan.size_bytes <= uniform.size_bytes


def test_a_loss_is_met_by_the_whole_plan_and_not_by_its_sum() -> None:
    planner = Measured()
    plan = planner.for_loss(0.2)
    assert planner.measured(plan.tensors).mean_kl == plan.loss <= 0.2
    with pytest.raises(InputError, match=r"loss is 1e-06, expected at least 9.6e-05"):
        planner.for_loss(1e-6)


def test_what_a_plan_predicts_and_promises_is_the_verdict_of_samples_that_chose_nothing() -> None:
    planner = Measured()
    limit = planner.size(dict.fromkeys(KEYS, Scheme(bits=4, group=32, scale_bits=16)))
    easy = planner.for_size(limit)
    planner.harder = 3.0
    hard = planner.for_size(limit)
    assert hard.tensors == easy.tensors and easy.loss and hard.loss == pytest.approx(3 * easy.loss)
    plan = planner.for_loss(0.05)
    assert plan.loss == planner.predicted(plan.tensors).mean_kl <= 0.05 < 3 * 0.05


def test_samples_beside_choose_or_judge_and_every_mode_does_both() -> None:
    beside = [sample(mode, place) for place in range(8) for mode in ("text", "audio")]
    choosing, verdict = in_turns(beside)
    assert sorted(len(s.input_ids) for s in choosing) == [0, 0, 4, 4]
    assert len(verdict) == 12 and not {id(s) for s in choosing} & {id(s) for s in verdict}
    assert in_turns([]) == ([], [])


def test_a_size_that_nothing_fits_into_is_refused_with_the_smallest() -> None:
    with pytest.raises(InputError, match=r"size is 0\.01 MB, expected at least 0\.[01]\d+ MB"):
        Measured().for_size(10_000)


def sample(mode: str, length: int = 4) -> Sample:
    ids = np.arange(length)
    return Sample(mode=mode, input_ids=ids, media=(), places=ids * 0, positions=ids[:-1])


def test_every_fourth_sample_of_a_mode_judges_and_few_do_both() -> None:
    text, audio = [sample("text") for _ in range(10)], [sample("audio") for _ in range(7)]
    judged = [id(s) for s in judged_of([*text, *audio])]
    assert judged == [id(s) for s in (text[3], text[7], *audio)]


def test_whole_plans_are_judged_on_other_samples_than_single_tensors() -> None:
    samples = [sample(mode) for mode in ("text", "audio") for _ in range(20)]
    alone, together = in_two(samples)
    assert not {id(s) for s in alone} & {id(s) for s in together}
    assert len(alone) == 16 and len(alone) + len(together) == 40
    only = [sample("text")]
    assert in_two(only) == (only, only)


def test_only_methods_that_need_statistics_do_something_else_without_them() -> None:
    weight, scheme = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32), Scheme(bits=4, group=32)
    for name, alike in (("rtn", rtn), ("search", search), ("gptq", search), ("gptq-in-order", search)):
        found, expected = with_fallback(METHODS[name])(weight, scheme), alike(weight, scheme)
        np.testing.assert_array_equal(found.codes, expected.codes)
        np.testing.assert_array_equal(found.scales, expected.scales)


@pytest.fixture(scope="module")
def float_model(tmp_path_factory: pytest.TempPathFactory) -> FloatReference:
    folder, checkpoint = tmp_path_factory.mktemp("planner") / "float", Checkpoint(checkpoint_path())
    model = read_model(checkpoint, Recipe())
    return FloatReference(folder, checkpoint, model, Recipe())


def test_a_memory_limit_that_one_layer_does_not_fit_into_is_refused(float_model: FloatReference) -> None:
    samples = [sample("text", 100)] * 50
    used = rss_bytes() or 0
    refuse_little_memory(float_model, samples, samples, samples, None)
    refuse_little_memory(float_model, samples, samples, samples, used + (1 << 30))
    with pytest.raises(
        InputError, match=r"option ram: found \d+ MB, expected at least \d+ MB to calibrate or plan this model"
    ):
        refuse_little_memory(float_model, samples, samples, samples, used + (1 << 20))


def test_a_plan_that_is_saved_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, calibrate = [], prepare.calibrate
    monkeypatch.setattr(prepare, "calibrate", lambda *args: (calls.append(1), calibrate(*args)))
    (tmp_path / "samples.jsonl").write_text('{"text": "seven plus three is ten"}\n')
    plan = BitAllocation(
        method="gptq", tensors={"decoder: layers.0.mlp.down_proj": Scheme(bits=4, group=64, scale_bits=16)}
    )
    plan.write(tmp_path / "plan.json")
    arguments = [str(checkpoint_path()), "-o", str(tmp_path / "b"), "--no-verify"]
    arguments += ["--plan-file", str(tmp_path / "plan.json"), "--save-plan", str(tmp_path / "saved.json")]
    arguments += ["--calibrate", str(tmp_path / "samples.jsonl")]
    result = CliRunner().invoke(export_command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert calls == [1]
    assert BitAllocation.read(tmp_path / "saved.json") == plan
    assert "decoder mlp.down_proj  1 x 4 bits in 64s" in result.output
