"""The APK's assets: the model, examples to try, what the About screen says, and licences."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from android_demo.builder.errors import BuildError
from android_demo.builder.natives import Aar
from android_demo.packages import sha256_of

MANIFEST = "bundle.json"
MAX_MANIFEST_BYTES = 16 << 20
EXPORT_TIMEOUT_S = 1800
SAMPLES = ("samples.json", "image.png", "audio.wav", "image-audio.png", "image-audio.wav")
LICENCES = {
    "palmtop, and the reference model": "apache-2.0.txt",
    "ONNX Runtime": "onnxruntime.txt",
    "ONNX Runtime GenAI": "onnxruntime-genai.txt",
}


def export_reference_bundle(out: Path, python: str = sys.executable) -> None:
    """Export the packaged reference model with palmtop, as a user would.

    Raises:
        BuildError: palmtop is not installed for this Python, or the export failed; its sentence follows.
    """
    palmtop = [python, "-m", "palmtop"]
    asked = _palmtop([*palmtop, "demo", "--checkpoint"])
    _palmtop([*palmtop, "export", asked.strip(), "-o", str(out)])


def _palmtop(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=EXPORT_TIMEOUT_S)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise BuildError(
            "reference model: could not be exported, install palmtop with its extra 'export' or give a bundle by "
            f"--bundle ({' '.join(said[-1:])})"
        )
    return done.stdout


def read_manifest(bundle: Path) -> dict[str, object]:
    """``bundle.json`` of a bundle whose files are all there, in the right size and with the right hash.

    The rules that matter here; the phone applies them all.

    Raises:
        BuildError: it is no bundle, or a file is missing or differs.
    """
    path = bundle / MANIFEST
    if not path.is_file() or path.stat().st_size > MAX_MANIFEST_BYTES:
        raise BuildError(f"{bundle}: no {MANIFEST} there, expected a bundle folder written by 'palmtop export'")
    try:
        manifest = json.loads(path.read_bytes())
        files = {str(name): (int(f["size_bytes"]), str(f["sha256"])) for name, f in manifest["files"].items()}
        str(manifest["model"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BuildError(f"{path}: is not a bundle's manifest ({error})") from error
    for name, (size_bytes, sha256) in files.items():
        file = bundle / name
        if not file.resolve().is_relative_to(bundle.resolve()):
            raise BuildError(f"{bundle}: file name '{name}' leads out of the bundle")
        if not file.is_file():
            raise BuildError(f"{bundle}: file '{name}' is missing")
        if file.stat().st_size != size_bytes:
            raise BuildError(f"{bundle}: file '{name}' has {file.stat().st_size} bytes, expected {size_bytes}")
        found = sha256_of(file)
        if found != sha256:
            raise BuildError(f"{bundle}: file '{name}' has sha256 {found[:12]}..., expected {sha256[:12]}...")
    return dict(manifest)


def write_assets(
    out: Path, *, bundle: Path, root: Path, version: str, aars: Sequence[Aar], libraries: Mapping[str, Path]
) -> None:
    """Fill the assets folder.

    Args:
        out: an empty folder.
        bundle: the model to pack.
        root: the checkout: its samples and licence go in.
        version: the app's.
        aars: the runtimes, for the About screen.
        libraries: what is packed, by name, for their hashes there.

    Raises:
        BuildError: the bundle is no bundle, or the checkout lacks something.
    """
    manifest = read_manifest(bundle)
    for name in (*manifest["files"], MANIFEST):  # type: ignore[misc]
        target = out / "model" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle / name, target)
    for name in SAMPLES:
        (out / "samples").mkdir(exist_ok=True)
        _copy(root / "runtime/reference/samples" / name, out / "samples" / name)
    (out / "licences").mkdir()
    _copy(root / "LICENSE", out / "licences" / "apache-2.0.txt")
    for name in ("onnxruntime.txt", "onnxruntime-genai.txt"):
        _copy(root / "android_demo/app/licences" / name, out / "licences" / name)
    lines = {"palmtop": version}
    lines |= {aar.name: f"{aar.origin}\nAAR sha256 {grouped(aar.sha256)}" for aar in aars}
    lines |= {name: f"sha256 {grouped(sha256_of(path))}" for name, path in libraries.items()}
    model_sha256 = sha256_of(bundle / MANIFEST)
    lines["packaged model"] = (
        f"{manifest['model']}, exported by palmtop {manifest.get('palmtop')}\n{MANIFEST} sha256 {grouped(model_sha256)}"
    )
    about = {
        "version": version,
        "model": str(manifest["model"]),
        "model_sha256": model_sha256,
        "lines": lines,
        "licences": LICENCES,
    }
    (out / "about.json").write_text(json.dumps(about, indent=1, ensure_ascii=False), "utf-8")
    _date(out)


def grouped(sha256: str) -> str:
    """With blanks, where a phone's narrow screen can break it."""
    return " ".join(sha256[i : i + 16] for i in range(0, len(sha256), 16))


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise BuildError(
            f"{source}: cannot be read ({error.strerror}), expected it in a checkout of palmtop"
        ) from error


def _date(folder: Path) -> None:
    """One date for all files, so that two builds are the same bytes."""
    for path in folder.rglob("*"):
        os.utime(path, (0, 0))
