"""An export that is killed leaves no half bundle, and the same command goes on to the very same bytes."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from palmtop.errors import CheckpointError, InputError
from palmtop.export import convert
from palmtop.export.bundle.external_data import ExternalData
from palmtop.export.bundle.journal import Journal
from palmtop.export.bundle.progress import Progress
from palmtop.export.checkpoint.folder import Checkpoint
from palmtop.export.convert import export_model
from palmtop.export.mixed_precision.allocation import BitAllocation, Planned
from palmtop.export.mixed_precision.budget import Request
from palmtop.export.recipe import Recipe
from palmtop.quantize.rtn import rtn
from palmtop.quantize.scheme import Scheme
from palmtop.quantize.workers import Workers, plan_workers
from palmtop.runtime.reference import checkpoint_path

RECIPE = Recipe(method="rtn", context=64)
COMMAND = ["export", str(checkpoint_path()), "--quality", "fast", "--context", "64", "--no-verify", "-o"]
EXPORT = """
import os, random, sys, threading
from palmtop.export.convert import export_model
from palmtop.export.recipe import Recipe
source, target, moment, number = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
seen = 0
def die(progress=None):
    global seen
    if progress is None or seen == moment:
        os.kill(os.getpid(), number)
    seen += 1
    if 0 < moment < 1 and seen == 1:
        threading.Timer(moment, die).start()
export_model(source, target, Recipe(method="rtn", context=64), progress=die)
"""


def content(bundle: Path) -> dict[str, bytes]:
    return {p.relative_to(bundle).as_posix(): p.read_bytes() for p in sorted(bundle.rglob("*")) if p.is_file()}


def partial_folders(folder: Path) -> list[Path]:
    return sorted(folder.glob(".bundle.partial-*"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    target = tmp_path_factory.mktemp("whole") / "bundle"
    export_model(checkpoint_path(), target, RECIPE)
    return content(target)


def kill_at(target: Path, moment: float) -> None:
    """Export in a process that kills itself: at this event, or, below 1, so many seconds after the first."""
    arguments = [checkpoint_path(), target, moment, int(signal.SIGKILL)]
    subprocess.run([sys.executable, "-B", "-c", EXPORT, *map(str, arguments)], timeout=100, check=False)


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_and_gone_on_with_it_is_the_same_bundle(tmp_path: Path, whole: dict[str, bytes], seed: int) -> None:
    rng = random.Random(seed)
    target = tmp_path / "bundle"
    for _ in range(2):
        kill_at(target, rng.randint(1, 300))
        assert not target.exists()
        assert len(partial_folders(tmp_path)) == 1
    export_model(checkpoint_path(), target, RECIPE)
    assert content(target) == whole
    assert partial_folders(tmp_path) == []


@pytest.mark.slow
def test_killed_at_twenty_random_moments_it_is_the_same_bundle(tmp_path: Path, whole: dict[str, bytes]) -> None:
    """By the clock, so anywhere: in a read, a write, between the two, in the renaming at the end."""
    rng = random.Random(3)
    killed = 0
    while killed < 20:
        target = tmp_path / f"{killed}" / "bundle"
        target.parent.mkdir(exist_ok=True)
        kill_at(target, rng.uniform(0.001, 0.6))
        if not target.exists():
            killed += 1
            export_model(checkpoint_path(), target, RECIPE)
        assert content(target) == whole
        shutil.rmtree(target)


def test_what_is_written_is_not_made_again(tmp_path: Path, whole: dict[str, bytes]) -> None:
    target = tmp_path / "bundle"
    told: list[Progress] = []

    def stop(progress: Progress) -> None:
        if progress.tensors == 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_model(checkpoint_path(), target, RECIPE, progress=stop)
    journal = next(tmp_path.glob(".bundle.partial-*/journal.jsonl"))
    lines = journal.read_text().splitlines()
    assert len(lines) == 100
    export_model(checkpoint_path(), target, RECIPE, progress=told.append)
    assert content(target) == whole
    again = [p.step for p in told if p.tensors < 100 and "_proj" in p.step and p.step.endswith(".weight")]
    assert again == []  # norms are small and read each time; what was quantised is not
    assert 0.9 * told[-1].total_bytes < told[-1].done_bytes <= told[-1].total_bytes


def test_a_damaged_leftover_is_written_again(tmp_path: Path, whole: dict[str, bytes]) -> None:
    target = tmp_path / "bundle"
    kill_at(target, 250)
    weights = next(tmp_path.glob(".bundle.partial-*/bundle/weights/decoder.bin"))
    with weights.open("r+b") as file:
        file.seek(weights.stat().st_size // 3)
        file.write(b"damaged")
    export_model(checkpoint_path(), target, RECIPE)
    assert content(target) == whole


def test_a_leftover_that_is_too_short_is_written_again(tmp_path: Path, whole: dict[str, bytes]) -> None:
    target = tmp_path / "bundle"
    kill_at(target, 250)
    weights = next(tmp_path.glob(".bundle.partial-*/bundle/weights/decoder.bin"))
    os.truncate(weights, weights.stat().st_size // 3)
    export_model(checkpoint_path(), target, RECIPE)
    assert content(target) == whole


def test_a_torn_journal_is_believed_up_to_the_tear(tmp_path: Path, whole: dict[str, bytes]) -> None:
    target = tmp_path / "bundle"
    kill_at(target, 250)
    journal = next(tmp_path.glob(".bundle.partial-*/journal.jsonl"))
    journal.write_bytes(journal.read_bytes()[:-20])
    export_model(checkpoint_path(), target, RECIPE)
    assert content(target) == whole


def test_another_recipe_begins_anew_and_clears_the_leftover(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    kill_at(target, 100)
    before = partial_folders(tmp_path)
    seen: list[Path] = []
    export_model(
        checkpoint_path(),
        target,
        Recipe(method="rtn", context=64, group=64),
        progress=lambda _: seen.extend(p for p in partial_folders(tmp_path) if p not in seen),
    )
    assert before[0] not in seen
    assert len(seen) == 1
    assert partial_folders(tmp_path) == []


def test_two_processes_at_one_job_do_not_mix(tmp_path: Path) -> None:
    target = tmp_path / "bundle"

    def again(progress: Progress) -> None:
        if progress.tensors == 3:
            code = subprocess.run(
                [sys.executable, "-m", "palmtop", *COMMAND, target],
                capture_output=True,
                text=True,
                timeout=100,
            )
            assert code.returncode == 2
            assert "another process is exporting it" in code.stderr

    export_model(checkpoint_path(), target, RECIPE, progress=again)
    assert (target / "bundle.json").exists()


def test_terminated_from_the_command_line_it_can_go_on(tmp_path: Path, whole: dict[str, bytes]) -> None:
    target = tmp_path / "bundle"
    child = subprocess.Popen([sys.executable, "-B", "-m", "palmtop", *COMMAND, str(target)])
    started = time.monotonic()
    while not list(tmp_path.glob(".bundle.partial-*/journal.jsonl")) and time.monotonic() - started < 60:
        time.sleep(0.005)
    child.send_signal(signal.SIGTERM)
    assert child.wait(60) == 143
    assert not target.exists()
    export_model(checkpoint_path(), target, RECIPE)
    assert content(target) == whole


def test_a_full_disk_keeps_what_is_done_and_says_so(
    tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "bundle"
    append = ExternalData._append

    def full(self: ExternalData, data: bytes | memoryview) -> None:
        if self.size_bytes > 1 << 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(self, data)

    monkeypatch.setattr(ExternalData, "_append", full)
    with pytest.raises(InputError, match=r"could not be written \(No space left on device\); .* keeps what is done"):
        export_model(checkpoint_path(), target, RECIPE)
    monkeypatch.undo()
    export_model(checkpoint_path(), target, RECIPE)
    assert content(target) == whole


@pytest.mark.parametrize("change", ["deleted", "replaced"])
def test_a_shard_that_goes_or_changes_half_way_is_one_sentence(tmp_path: Path, change: str) -> None:
    source = tmp_path / "checkpoint"
    shutil.copytree(checkpoint_path(), source)
    shards = sorted(source.glob("*.safetensors"))

    def meddle(progress: Progress) -> None:
        if progress.tensors == 5:
            for shard in shards:
                if change == "deleted":
                    shard.unlink(missing_ok=True)
                elif shard.exists():
                    twin = shard.with_suffix(".twin")
                    shutil.copy(shard, twin)
                    time.sleep(0.02)
                    os.utime(twin)
                    twin.replace(shard)

    expected = "No such file" if change == "deleted" else "was replaced or changed while it was read"
    with pytest.raises(CheckpointError, match=expected):
        export_model(source, tmp_path / "bundle", RECIPE, progress=meddle)
    assert not (tmp_path / "bundle").exists()
    assert partial_folders(tmp_path) == []


def test_a_memory_limit_that_is_too_low_is_refused_with_the_numbers(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"option ram: found 50 MB, expected at least \d+ MB: \d+ MB are in use already"
    ):
        export_model(checkpoint_path(), tmp_path / "bundle", RECIPE, ram_bytes=50_000_000)
    assert list(tmp_path.iterdir()) == []


def test_a_limit_makes_blocks_smaller_before_threads_fewer() -> None:
    free = plan_workers(None, 0, threads=4)
    tight = plan_workers(200 << 20, 100 << 20, threads=4)
    tiny = plan_workers(104 << 20, 100 << 20, threads=4)
    assert free.threads == tight.threads == 4
    assert free.block_bytes > tight.block_bytes
    assert tiny.threads == 1


def test_blocks_come_in_order_whatever_the_threads() -> None:
    def slow_first(i: int) -> int:
        time.sleep(0.02 if i == 0 else 0)
        return i * i

    assert list(Workers(threads=4).map(slow_first, range(50))) == [i * i for i in range(50)]


def test_a_failing_block_ends_the_work() -> None:
    def fail(i: int) -> int:
        if i == 3:
            raise CheckpointError("bad block")
        return i

    with pytest.raises(CheckpointError, match="bad block"):
        list(Workers(threads=2).map(fail, range(50)))


def test_threads_and_blocks_do_not_change_the_bytes(tmp_path: Path, whole: dict[str, bytes]) -> None:
    export_model(checkpoint_path(), tmp_path / "one", RECIPE, threads=1)
    export_model(checkpoint_path(), tmp_path / "small", RECIPE, threads=3, ram_bytes=2 << 30)
    assert content(tmp_path / "one") == content(tmp_path / "small") == whole


def test_a_set_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    """Killed between a set's codes and scales, the codes are written again."""
    tensors = [("a.codes", (4, 8), np.dtype(np.uint8)), ("a.scales", (4, 2), np.dtype(np.float32))]
    codes, scales = np.arange(32, dtype=np.uint8).reshape(4, 8), np.arange(8, dtype=np.float32).reshape(4, 2)

    def blocks(die: bool):  # type: ignore[no-untyped-def]
        yield codes[:2], scales[:2]
        if die:
            raise KeyboardInterrupt
        yield codes[2:], scales[2:]

    journal = tmp_path / "journal.jsonl"
    with pytest.raises(KeyboardInterrupt), ExternalData(tmp_path, "w.bin", journal=Journal(journal)) as sink:
        sink.add_set("a", tensors, blocks(True))
    assert not journal.exists()
    with ExternalData(tmp_path, "w.bin", journal=Journal(journal)) as sink:
        found = sink.add_set("a", tensors, blocks(False))
    np.testing.assert_array_equal(found[0].numpy(), codes)
    np.testing.assert_array_equal(found[1].numpy(), scales)
    with ExternalData(tmp_path, "w.bin", journal=Journal(journal)) as sink:
        again = sink.add_set("a", tensors, iter(()))  # nothing is asked for
    np.testing.assert_array_equal(again[1].numpy(), scales)


def test_another_plan_is_another_job(tmp_path: Path) -> None:
    checkpoint = Checkpoint(checkpoint_path())
    samples = tmp_path / "samples.jsonl"

    def job(group: int, request: Request) -> str:
        plan = BitAllocation(method="rtn", tensors={"decoder: lm_head": Scheme(bits=4, group=group)})
        planned = Planned(plan=plan, quantizer=rtn, statistics=lambda key: None)
        return convert._job(checkpoint, RECIPE, request, planned)

    assert job(32, Request()) == job(32, Request())
    jobs = {convert._job(checkpoint, RECIPE, None, None), job(32, Request()), job(64, Request())}
    for text in ("one", "other"):
        samples.write_text(text)
        jobs.add(job(32, Request(samples=samples)))
    assert len(jobs) == 5
