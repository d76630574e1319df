"""Opens mutated bundles and asks them, in a process of its own: ``python fuzz_bundles.py BUNDLE WORK FIRST COUNT``.

The manifest's hashes are made to fit, so that native code meets what was mutated. Prints the number of each
mutant before it is tried.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import traceback
from pathlib import Path

import numpy as np

import palmtop
from palmtop.errors import PalmtopError
from palmtop.runtime.bundle.opening import sha256_of
from palmtop.runtime.decoding.generation_options import GenerationOptions
from tests.hostile.mutations import mutate

OPTIONS = GenerationOptions(max_tokens=3, timeout_s=20)
MEMORY_BYTES = 12 << 30
IMAGE = np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8)
SOUND = (np.random.default_rng(0).standard_normal(4800) * 0.1).astype(np.float32)
QUESTION = [
    {"type": "image", "image": IMAGE},
    {"type": "audio", "audio": (SOUND, 16000)},
    {"type": "text", "text": "what"},
]
FILES = (  # how often each is chosen
    ["decoder.onnx"] * 3
    + ["vision.onnx", "audio.onnx"] * 2
    + ["bundle.json", "tokenizer.json", "chat_template.jinja", "genai_config.json", "tokenizer_config.json"]
    + ["weights/decoder.bin"]
)


def make_mutant(bundle: Path, folder: Path, number: int) -> str:
    """Write a bundle with one mutated file; its name."""
    random = np.random.default_rng(number)
    name = FILES[int(random.integers(len(FILES)))]
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(bundle, folder)  # no hard links: onnxruntime refuses weights that have another name
    target = folder / name
    mutant = mutate(target.read_bytes(), random)
    target.write_bytes(mutant)
    if name != "bundle.json":
        manifest = json.loads((bundle / "bundle.json").read_text())
        manifest["files"][name] = {"size_bytes": len(mutant), "sha256": sha256_of(target)}
        (folder / "bundle.json").write_text(json.dumps(manifest))
    return name


def main() -> None:
    """Exit code 1 when something else than a PalmtopError was raised."""
    bundle, work, first, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    os.environ["XDG_CACHE_HOME"] = str(work / "cache")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    bad = refused = 0
    for number in range(first, first + count):
        name = make_mutant(bundle, work / "mutant", number)
        print(number, name, flush=True)
        try:
            with palmtop.load(work / "mutant", threads=1, context=256) as session:
                for content in ("hi", QUESTION):
                    session.answer([{"role": "user", "content": content}], options=OPTIONS)
        except PalmtopError as error:
            refused += 1
            print("  refused:", " ".join(str(error).split())[:600], flush=True)
        except BaseException:
            bad += 1
            print(f"mutant {number} ({name}):", traceback.format_exc(), file=sys.stderr)
    print(f"refused {refused} of {count}", file=sys.stderr)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
