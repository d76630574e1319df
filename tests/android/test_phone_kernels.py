"""The APK's onnxruntime has Arm's KleidiAI kernels for 4-bit weights, and what is exported is a scheme that they take.

A matrix is taken if its groups have a multiple of 32 columns and divide its rows evenly, activations may be rounded
to 8 bits (accuracy level 4), and zero points, where there are any, are constants (onnxruntime, MLAS, ``UseKleidiAI``;
others are refused in its own words, which are in the library).
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import onnx
import pytest

from palmtop.export.convert import export_model
from palmtop.export.recipe import Recipe
from tests.android.phone_libraries import aar
from tests.android.requirements import make_or_skip

SYMMETRIC, ASYMMETRIC = "qsi4c32p", "qai4c32p"
EXTENSIONS = ("neon_dotprod", "neon_i8mm", "sme2_dot", "sme2_mopa")


@pytest.fixture(scope="module")
def texts() -> set[str]:
    """Texts in the APK's onnxruntime."""
    with zipfile.ZipFile(make_or_skip(lambda: aar("ort"))) as archive:
        library = archive.read("jni/arm64-v8a/libonnxruntime.so")
    return {found.decode() for found in re.findall(rb"[\x20-\x7e]{12,}", library)}


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("weights", [SYMMETRIC, ASYMMETRIC])
def test_the_apks_onnxruntime_has_the_kernels(texts: set[str], weights: str, extension: str) -> None:
    kernels = {text for text in texts if text.startswith("kai_run_matmul_clamp_f32_q")}
    assert [name for name in kernels if f"_{weights}" in name and name.endswith(extension)], sorted(kernels)


def test_zero_points_that_are_no_constants_are_refused_in_its_words(texts: set[str]) -> None:
    assert any("KleidiAI Q4 with runtime zero_points" in text for text in texts)


def declined(graph: Path) -> list[str]:
    """Four-bit products of a graph that KleidiAI's kernels do not take, with the reason."""
    model = onnx.load(graph, load_external_data=False)
    constants = {tensor.name for tensor in model.graph.initializer}
    folded = {out for node in model.graph.node if set(node.input) <= constants for out in node.output}
    reasons = []
    for node in model.graph.node:
        if node.op_type != "MatMulNBits":
            continue
        has = {attribute.name: attribute.i for attribute in node.attribute}
        weights = [name for name in node.input[1:4] if name]
        if has["bits"] != 4:
            continue
        if has["accuracy_level"] != 4:
            reasons.append(f"{node.name}: accuracy level {has['accuracy_level']}")
        if has["block_size"] % 32 or has["K"] % has["block_size"]:
            reasons.append(f"{node.name}: groups of {has['block_size']} in rows of {has['K']}")
        if not set(weights) <= constants | folded:
            reasons.append(f"{node.name}: {weights} are not constants")
    return reasons


def products(graph: Path) -> int:
    return sum(node.op_type == "MatMulNBits" for node in onnx.load(graph, load_external_data=False).graph.node)


@pytest.mark.parametrize("options", [{}, {"group": 64}, {"symmetric": True}], ids=str)
def test_every_exported_product_is_of_a_scheme_that_they_take(
    options: dict[str, object], reference_checkpoint: Path, tmp_path: Path
) -> None:
    bundle = export_model(reference_checkpoint, tmp_path / "bundle", Recipe(**options))  # type: ignore[arg-type]
    assert products(bundle / "decoder.onnx") > 10
    assert declined(bundle / "decoder.onnx") == []


def test_the_check_finds_what_they_do_not_take(reference_checkpoint: Path, tmp_path: Path) -> None:
    bundle = export_model(reference_checkpoint, tmp_path / "exact", Recipe(accuracy_level=0, group=16))
    found = declined(bundle / "decoder.onnx")
    assert any("accuracy level 0" in reason for reason in found)
    assert any("groups of 16" in reason for reason in found)
