"""The numbers of ``palmtop bench`` and the findings of ``palmtop doctor``."""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from palmtop.__main__ import cli
from palmtop.errors import InputError
from palmtop.runtime import doctor
from palmtop.runtime.benchmark import benchmark
from palmtop.runtime.bundle.manifest import PartSpec
from palmtop.runtime.bundle.opening import open_bundle
from palmtop.runtime.memory import processors
from palmtop.runtime.memory.bandwidth import decode_bytes
from palmtop.runtime.memory.plan import kv_bytes_per_token
from palmtop.runtime.memory.processors import OtherWork
from palmtop.runtime.session_options import SessionOptions

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))


def test_bench_measures_every_mode_cold_and_warm(int4_bundle: Path) -> None:
    arguments = ["bench", str(int4_bundle), "--threads", "1", "--context", "512", "--prompt-tokens", "64"]
    result = CliRunner().invoke(cli, [*arguments, "--answer-tokens", "3", "--repeat", "2", "--json"])
    found = json.loads(result.stdout)
    cases = [(m["mode"], m["warm"]) for m in found["measurements"]]
    assert cases == [(mode, warm) for mode in ("text", "image", "audio", "image+audio") for warm in (False, True)]
    assert found["peak_rss_bytes"] >= found["rss_bytes"] > 1 << 24
    decoder = next(p.size_bytes for p in open_bundle(int4_bundle).manifest.parts if p.name == "decoder linears")
    for m in found["measurements"]:
        assert (m["media_rows"] > 0) == (m["mode"] != "text")
        assert 40 < m["prompt_tokens"] - m["media_rows"] < 90
        assert (m["load_s"] is None) == m["warm"]
        for name in ("ttft_s", "prefill_tokens_per_s", "encode_s"):
            assert m[name]["low"] <= m[name]["median"] <= m[name]["high"]
            assert m[name]["count"] == 2
        assert 0 <= m["encode_s"]["median"] < m["ttft_s"]["median"]
        for name in ("prefill_tokens_per_s", "decode_tokens_per_s", "sampled_tokens_per_s"):
            assert m[name]["low"] > 0
        assert m["decode_bytes"] > decoder
    assert found["read_bytes_per_s"] > 1e8
    assert 0 <= found["other_work"] <= 1


def test_bench_prints_a_table(toy_bundle: Path) -> None:
    arguments = ["bench", str(toy_bundle), "--threads", "1", "--mode", "text", "--prompt-tokens", "50"]
    result = CliRunner().invoke(cli, [*arguments, "--answer-tokens", "2", "--repeat", "1"])
    assert result.exit_code == 0
    assert "resident memory" in result.stdout
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["text,", "50", "tokens", "cold", "warm"]
    assert [line.split()[0] for line in lines[1:7]] == ["load", "first", "prefill", "decode", "of", "sampled"]
    assert all(len(line) <= 80 for line in lines)


def test_bench_refuses_what_the_context_cannot_hold(int4_bundle: Path) -> None:
    with pytest.raises(InputError, match="do not fit into a context of 64"):
        benchmark(int4_bundle, SessionOptions(context=64, threads=1), modes=("image",), answer_tokens=2, repeat=1)
    refused = CliRunner().invoke(cli, ["bench", str(int4_bundle), "--mode", "smell"])
    assert isinstance(refused.exception, InputError)


def test_bench_warns_on_a_busy_machine(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["bench", str(toy_bundle), "--threads", "1", "--mode", "text", "--prompt-tokens", "50"]
    arguments += ["--answer-tokens", "2", "--repeat", "1"]
    for share, warned in ((0.09, False), (0.5, True), (None, False)):
        monkeypatch.setattr(OtherWork, "share", lambda self, share=share: share)
        result = CliRunner().invoke(cli, arguments)
        assert ("other processes took 50% of the processors" in result.stderr) == warned
        assert "other processes" not in result.stdout


def test_other_work_is_what_is_left_of_the_ticks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 0 50 1000 10 0 0 0 0 0\ncpu0 1 2 3\n")
    clock = iter((2.0, 3.0, 3.0))
    monkeypatch.setattr(processors, "process_time", lambda: next(clock))
    others = OtherWork(stat)
    second = os.sysconf("SC_CLK_TCK")
    stat.write_text(f"cpu  {100 + 2 * second} 0 {50 + second} {1000 + 5 * second} 10 0 0 0 0 0\n")
    assert others.share() == pytest.approx(2 / 8)  # three seconds of work, one of them ours, of eight
    assert OtherWork(tmp_path / "none").share() is None


def test_a_decode_step_reads_one_matrix_of_the_vocabulary(int4_bundle: Path) -> None:
    manifest = open_bundle(int4_bundle).manifest
    rows = manifest.decoder.vocab_size * manifest.decoder.hidden_size
    linears = PartSpec(name="decoder linears", bits=4, group=32, parameters=64, size_bytes=40)
    adapter = PartSpec(name="adapter vision", bits=4, group=32, parameters=8, size_bytes=5)
    tied = PartSpec(name="embedding and head", bits=8, group=32, parameters=rows, size_bytes=2 * rows)
    kv = kv_bytes_per_token(manifest)
    for matrices in ((tied,), (replace(tied, parameters=2 * rows, size_bytes=4 * rows),), (tied, tied)):
        own = replace(manifest, parts=(linears, adapter, *matrices))
        assert decode_bytes(own, 0) == 40 + 2 * rows
        assert decode_bytes(own, 3, ["vision"]) == 45 + 2 * rows + 3 * kv


def test_doctor_finds_nothing_wrong_here() -> None:
    result = CliRunner().invoke(cli, ["doctor", "--json"])
    findings = json.loads(result.stdout)["findings"]
    assert result.exit_code == 0
    assert {"python", "onnxruntime-genai", "execution providers", "cpu", "memory"} <= {f["name"] for f in findings}
    assert all(f["advice"] for f in findings if f["level"] != "good")
    assert "python" in CliRunner().invoke(cli, ["doctor"]).stdout


def missing() -> ModuleType:
    raise ImportError("libgomp.so.1: cannot open shared object file")


def findings(name: str) -> list[doctor.Finding]:
    return [f for f in doctor.examine(missing, lambda: ["CPUExecutionProvider"]) if f.name == name]


def test_doctor_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    versions = {"numpy": "1.20.3", "llguidance": None, "soxr": None}
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda package: versions.get(package, real(package)))
    monkeypatch.setattr(doctor, "available_memory", lambda: 2 << 30)
    monkeypatch.setattr(doctor, "cpu_flags", lambda: frozenset({"sse4_2", "avx"}))
    old, extra, gone, native, memory, cpu = (
        findings(name)[-1] for name in ("numpy", "llguidance", "soxr", "onnxruntime-genai", "memory", "cpu")
    )
    needed = {line.partition(">=")[0]: line for line in PROJECT["project"]["dependencies"]}
    assert (old.level, old.advice) == ("problem", f"pip install --upgrade '{needed['numpy']}'")
    assert (extra.level, "pip install 'llguidance>=" in extra.advice) == ("advice", True)
    assert (gone.level, gone.advice) == ("problem", f"pip install '{needed['soxr']}'")
    assert native.level == "problem"
    assert "libgomp" in native.found
    assert memory.level == "advice"
    assert "--context" in memory.advice
    assert (cpu.level, "AVX2" in cpu.advice) == ("advice", True) or cpu.found.startswith("aarch64")


@pytest.mark.parametrize(
    ("text", "parts"), [("1.31.1", (1, 31, 1)), ("2.0rc1", (2, 0)), ("24.0b2+cpu", (24, 0)), ("x", ())]
)
def test_versions_are_compared_by_numbers(text: str, parts: tuple[int, ...]) -> None:
    assert doctor._parts(text) == parts


def test_cpu_features_are_read_as_linux_writes_them(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nFeatures\t: fp asimddp i8mm\n")
    assert doctor.cpu_flags(tmp_path / "cpuinfo") == {"fp", "asimddp", "i8mm"}
    assert doctor.cpu_flags(tmp_path / "none") is None
