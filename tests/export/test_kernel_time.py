"""Plans know what a scheme costs in time: none without a kernel is used, and a speed can be asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner

from palmtop.errors import InputError
from palmtop.export.cli import export_command
from palmtop.export.mixed_precision import kernel_time
from palmtop.export.mixed_precision.allocation import BitAllocation
from palmtop.export.mixed_precision.allocation_table import plan_lines
from palmtop.export.mixed_precision.allocator import SCHEMES, Allocator, Sensitivity
from palmtop.export.mixed_precision.kernel_time import decode_seconds, has_kernel, refuse_without_kernel
from palmtop.export.mixed_precision.sensitivity import Loss
from palmtop.quantize.budget import Option, fastest, within_bytes, within_loss
from palmtop.quantize.scheme import Scheme
from palmtop.runtime.reference import checkpoint_path

SHAPE = (64, 1024)


@pytest.mark.parametrize(
    ("bits", "group", "level"), [(2, 16, 4), (2, 256, 4), (2, 32, 0), (2, 64, 0)], ids=lambda v: str(v)
)
def test_schemes_that_unpack_the_matrix_for_every_token_have_no_kernel(bits: int, group: int, level: int) -> None:
    assert not has_kernel(Scheme(bits=bits, group=group), level)
    with pytest.raises(
        InputError, match=rf"tensor 'decoder: a' has {bits} bits in groups of {group} at accuracy level"
    ):
        refuse_without_kernel("decoder: a", Scheme(bits=bits, group=group), level)


@pytest.mark.parametrize("group", [16, 32, 64, 128, 256])
def test_four_bits_have_a_kernel_in_every_group(group: int) -> None:
    assert has_kernel(Scheme(bits=4, group=group), 4)


def test_a_plan_file_with_a_scheme_that_has_no_kernel_is_refused(tmp_path: Path) -> None:
    tensors = {"decoder: layers.0.mlp.down_proj": Scheme(bits=2, group=16, scale_bits=16)}
    BitAllocation(method="rtn", tensors=tensors).write(tmp_path / "plan.json")
    command = [str(checkpoint_path()), "-o", str(tmp_path / "b"), "--plan-file", str(tmp_path / "plan.json")]
    found = CliRunner().invoke(export_command, command)
    assert isinstance(found.exception, InputError)
    assert "2 bits in groups of 16 at accuracy level 4, for which onnxruntime has no kernel" in str(found.exception)
    assert not (tmp_path / "b").exists()


def test_a_larger_matrix_takes_in_proportion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_time, "_seconds", lambda kernel, rows, columns, copies: rows * columns * 1e-9)
    scheme = Scheme(bits=4, group=32)
    assert decode_seconds(scheme, 200_064, 3072, 4) == pytest.approx(200_064 * 3072e-9)
    assert decode_seconds(scheme, 100, 3072, 4) == pytest.approx(100 * 3072e-9)


def options() -> list[list[Option]]:
    """Three tensors: smaller is slower here, as 2 bits in groups of 32 are slower than 4 bits in groups of 64."""
    return [[Option(10, 1.0, 3.0), Option(20, 0.1, 2.0), Option(40, 0.01, 1.0)] for _ in range(3)]


def test_time_is_a_second_budget_beside_bytes() -> None:
    free = within_bytes(options(), 60)
    assert free is not None and free.seconds == 6.0
    fast = within_bytes(options(), 100, 4.0)
    assert fast is not None and fast.seconds <= 4.0 and fast.size_bytes <= 100
    assert fast.loss == pytest.approx(0.12)
    assert within_bytes(options(), 60, 4.0) is None  # small enough and fast enough are not to be had together
    assert fastest(options()) == 3.0


def test_time_is_a_second_budget_beside_loss() -> None:
    free = within_loss(options(), 3.0)
    assert free is not None and (free.size_bytes, free.seconds) == (30, 9.0)
    fast = within_loss(options(), 3.0, 6.0)
    assert fast is not None and fast.seconds <= 6.0 and fast.loss <= 3.0 and fast.size_bytes == 60


class Timed(Allocator):
    """Two matrices, of which 4 bits take 1 ms and 8 bits 2 ms, 2 bits 5 ms."""

    def __init__(self, limit_seconds: float | None) -> None:
        loss, seconds = {2: 1e-1, 4: 1e-3, 8: 1e-6}, {2: 5e-3, 4: 1e-3, 8: 2e-3}
        by_scheme = tuple(loss[s.bits] * s.group for s in SCHEMES), tuple(seconds[s.bits] for s in SCHEMES)
        sensitivities = [Sensitivity(key, SHAPE, SCHEMES, *by_scheme) for key in ("decoder: a", "decoder: b")]
        nothing = cast(Any, None)
        super().__init__(nothing, nothing, sensitivities, nothing, "rtn", self.size, None, limit_seconds)

    def size(self, tensors: Mapping[str, Scheme | None]) -> int:
        return sum(sum(scheme.tensor_bytes(*SHAPE)) for scheme in tensors.values() if scheme is not None)

    def measured(self, tensors: Mapping[str, Scheme | None]) -> Loss:
        each = {2: 1e-1, 4: 1e-3, 8: 1e-6}
        return Loss(kl={"text": sum(each[s.bits] * s.group for s in tensors.values() if s)}, top1={"text": 1.0})

    predicted = measured


def bits_of(plan: BitAllocation) -> list[int]:
    return sorted(scheme.bits for scheme in plan.tensors.values() if scheme is not None)


def test_a_speed_alone_gives_the_most_exact_plan_that_is_fast_enough() -> None:
    assert bits_of(Timed(None).for_size(1 << 62)) == [8, 8]
    plan = Timed(3.5e-3).for_size(1 << 62)
    assert bits_of(plan) == [4, 8] and plan.decode_s == pytest.approx(3e-3)
    assert any("decode: 3.00 ms a token in matrix kernels here" in line for line in plan_lines(plan))


def test_a_speed_holds_beside_a_size_and_beside_a_loss() -> None:
    small = Timed(None).size(dict.fromkeys("ab", Scheme(bits=2, group=32, scale_bits=16)))
    with pytest.raises(
        InputError, match=r"size is 0\.0\d+ MB and speed is 400 tokens/s, expected a larger size or a lower"
    ):
        Timed(1 / 400).for_size(small + 1)
    assert bits_of(Timed(2.5e-3).for_loss(10.0)) == [4, 4]
    with pytest.raises(InputError, match=r"speed is 1e\+03 tokens/s, expected at most 500 for this model"):
        Timed(1e-3).for_size(1 << 62)


def test_a_speed_that_no_kernel_reaches_is_refused_before_calibration() -> None:
    found = CliRunner().invoke(export_command, [str(checkpoint_path()), "--plan", "--speed", "1e12"])
    assert isinstance(found.exception, InputError)
    assert "speed is 1e+12 tokens/s, expected at most" in str(found.exception)


@pytest.mark.parametrize("speed", ["0", "-3", "nan"])
def test_a_speed_that_is_no_speed_is_refused(speed: str, tmp_path: Path) -> None:
    found = CliRunner().invoke(export_command, [str(checkpoint_path()), "--plan", "--speed", speed])
    assert isinstance(found.exception, InputError) and "tokens a second" in str(found.exception)


@pytest.mark.slow
def test_a_plan_shows_its_time_and_uses_no_scheme_without_a_kernel() -> None:
    found = CliRunner().invoke(export_command, [str(checkpoint_path()), "--size", "3.9MB", "--plan", "--json"])
    plan = json.loads(found.stdout)
    assert plan["decode_s"] > 0
    encoders = {key: words for key, words in plan["tensors"].items() if not key.startswith("decoder")}
    assert encoders and (2, 16) not in {(w["bits"], w.get("group")) for w in plan["tensors"].values()}
