"""Merged adapters against PEFT's own merging, and against the exact weighted sum."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from peft import PeftModel

from palmtop.errors import InputError
from palmtop.export.adapters.adapter_source import read_peft
from palmtop.export.adapters.cli import adapter_group
from palmtop.export.adapters.install import add_adapter
from palmtop.export.adapters.merge import merge
from palmtop.export.adapters.merge_job import Source, merge_sources
from palmtop.export.adapters.peft_writer import Product, export_adapter, products_of
from palmtop.runtime.bundle.opening import open_bundle
from tests.export.adapters.conftest import bundle_logits, float_logits, share
from tests.export.adapters.test_add import Copied, Lora
from tests.reference.plain import plain_port, random_lora

NAME = "layers.0.mlp.down_proj"


def products(seed: int, rank: int) -> dict[str, Product]:
    rng = np.random.default_rng(seed)
    shapes = {NAME: (rank, 20, 30), "layers.1.self_attn.o_proj": (rank, 16, 16)}
    return {
        name: Product(rng.standard_normal((r, k)).astype(np.float32), rng.standard_normal((n, r)).astype(np.float32))
        for name, (r, n, k) in shapes.items()
    }


def exact(parts: list[tuple[dict[str, Product], float]]) -> NDArray[np.float32]:
    return np.asarray(sum(w * (p[NAME].b @ p[NAME].a) for p, w in parts))


def test_cat_and_a_full_svd_are_exact() -> None:
    parts = [(products(0, 3), 0.7), (products(1, 5), -0.4)]
    for method, rank in (("cat", None), ("svd", 8)):
        merged = merge(parts, method, rank)
        product = merged.products[NAME]
        np.testing.assert_allclose(product.b @ product.a, exact(parts), atol=1e-4)
        assert merged.error[NAME] < 1e-5
        assert product.rank == 8


def test_svd_is_the_best_of_its_rank() -> None:
    parts = [(products(0, 4), 1.0), (products(1, 4), 1.0)]
    merged = merge(parts, "svd", 3)
    values = np.linalg.svd(exact(parts), compute_uv=False)
    expected = float(np.sqrt((values[3:] ** 2).sum() / (values**2).sum()))
    assert merged.error[NAME] == pytest.approx(expected, rel=1e-4)
    product = merged.products[NAME]
    difference = np.linalg.norm(product.b @ product.a - exact(parts)) / np.linalg.norm(exact(parts))
    assert merged.error[NAME] == pytest.approx(float(difference), rel=1e-4)


def test_a_linear_that_one_adapter_lacks_keeps_the_others_delta() -> None:
    one, two = products(0, 3), {NAME: products(1, 3)[NAME]}
    merged = merge([(one, 0.5), (two, 0.5)], "svd", 6)
    other = merged.products["layers.1.self_attn.o_proj"]
    expected = 0.5 * (one["layers.1.self_attn.o_proj"].b @ one["layers.1.self_attn.o_proj"].a)
    np.testing.assert_allclose(other.b @ other.a, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "ranks", "rank", "message"),
    [
        ("linear", (3, 4), None, "method linear sums matrices of equal rank"),
        ("linear", (3, 3), 5, "the result shall have 5"),
        ("cat", (3, 3), 5, "method cat gives rank 6"),
        ("svd", (3, 4), 8, "rank is 8, expected at most 7, the sum of the adapters' ranks"),
        ("magic", (3, 3), None, "method is 'magic'"),
    ],
)
def test_impossible_merges_are_refused(method: str, ranks: tuple[int, int], rank: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        merge([(products(0, ranks[0]), 0.5), (products(1, ranks[1]), 0.5)], method, rank)


@pytest.mark.parametrize("method", ["linear", "cat", "svd"])
def test_merging_is_what_peft_does(method: str, reference_checkpoint: Path, lora: Lora, tmp_path: Path) -> None:
    random_lora(reference_checkpoint, tmp_path / "other", 2)
    model = PeftModel.from_pretrained(plain_port(reference_checkpoint), lora[0], adapter_name="one")
    model.load_adapter(tmp_path / "other", adapter_name="two")
    model.add_weighted_adapter(["one", "two"], [0.6, 0.3], "sum", combination_type=method, svd_rank=8)
    model.set_adapter("sum")
    sources = [Source(str(lora[0]), 0.6), Source(str(tmp_path / "other"), 0.3)]
    merge_sources(sources, tmp_path / "sum", method=method, rank=8 if method == "svd" else None)
    ours = read_peft(tmp_path / "sum", "sum")
    state = {name: p.detach().numpy() for name, p in model.named_parameters() if ".sum." in name}
    for target in ours.targets:
        pair = ours.pair(target)
        assert pair is not None
        a, b = (next(v for n, v in state.items() if f"{target}.lora_{part}.sum" in n) for part in "AB")
        scaling = model.base_model.model.get_submodule(f"model.{target}").scaling["sum"]
        expected = scaling * (b @ a)
        np.testing.assert_allclose(pair.b.array() @ pair.a.array(), expected, atol=2e-4 * np.abs(expected).max())


def test_an_adapter_comes_back_as_a_peft_folder(
    float_bundle: Path, int4_bundle: Path, reference_checkpoint: Path, lora: Lora, copied: Copied, tmp_path: Path
) -> None:
    for source, limit in ((float_bundle, 1e-4), (int4_bundle, 0.12)):
        bundle = copied(source)
        add_adapter(bundle, lora[0], "mine")
        export_adapter(open_bundle(bundle), "mine", tmp_path / f"back-{source.name}")
        model = PeftModel.from_pretrained(plain_port(reference_checkpoint), tmp_path / f"back-{source.name}")
        assert share(float_logits(model.eval()), lora[1]) < limit
        add_adapter(bundle, tmp_path / f"back-{source.name}", "again")
        assert share(bundle_logits(bundle, again=1.0), bundle_logits(bundle, mine=1.0)) < limit


def test_the_checkpoints_own_adapters_come_out_too(float_bundle: Path, copied: Copied, tmp_path: Path) -> None:
    bundle = copied(float_bundle)
    export_adapter(open_bundle(bundle), "speech", tmp_path / "speech")
    add_adapter(bundle, tmp_path / "speech", "voice")
    assert share(bundle_logits(bundle, voice=1.0), bundle_logits(bundle, speech=1.0)) < 1e-5
    assert products_of(open_bundle(bundle), "vision")[NAME].rank == 16


def test_the_command_merges_measures_and_records(int4_bundle: Path, lora: Lora, copied: Copied, tmp_path: Path) -> None:
    bundle, runner = copied(int4_bundle), CliRunner()
    samples = tmp_path / "samples.jsonl"
    asked = [{"role": "user", "content": "digits: three five two. What is it?"}]
    samples.write_text(json.dumps({"task": "digits", "messages": asked, "expected": "999"}))
    for number in (1, 2):
        assert runner.invoke(adapter_group, ["add", str(bundle), str(lora[0]), "--name", f"l{number}"]).exit_code == 0
    command = ["merge", "l1=0.5", "l2=0.5", "--bundle", str(bundle), "-o", str(tmp_path / "both"), "--json"]
    found = runner.invoke(adapter_group, [*command, "--samples", str(samples)], catch_exceptions=False)
    report = json.loads(found.output)
    assert report["coefficients"] == {"l1": 0.5, "l2": 0.5}
    assert report["max_error"] < 1e-5  # the same adapter twice: the sum has its rank
    losses = report["losses"]
    assert losses["base"]["digits"] > 1
    assert abs(losses["l1"]["digits"] - losses["base"]["digits"]) > 1e-4
    assert losses["merged"]["digits"] == pytest.approx(losses["l1"]["digits"], rel=0.1)
    assert losses["l1"] == losses["l2"]
    spec = add_adapter(bundle, tmp_path / "both")
    assert spec.merged_from == {"l1": 0.5, "l2": 0.5}
    rows = json.loads(runner.invoke(adapter_group, ["list", str(bundle), "--json"]).output)["adapters"]
    assert [row["name"] for row in rows] == ["vision", "speech", "l1", "l2", "both"]
    assert rows[-1]["merged_from"] == {"l1": 0.5, "l2": 0.5}
