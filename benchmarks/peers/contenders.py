"""Who takes part: how each contender's bundle is made from the one checkpoint or GGUF file, and how it is run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from palmtop.export.convert import export_model
from palmtop.export.recipe import Recipe

from .environments import (
    OPENVINO,
    OPENVINO_EXPORT,
    PeerError,
    llama_python,
    llama_source,
    peer_python,
    run,
)

RUNNERS = Path(__file__).parent / "runners"


@dataclass(frozen=True, slots=True)
class Job:
    """What all contenders start from.

    Attributes:
        source: checkpoint folder or GGUF file.
        work: folder of venvs, bundles and logs; kept between runs.
        context: tokens of the longest conversation.
        threads: of every contender.
    """

    source: Path
    work: Path
    context: int
    threads: int

    @property
    def is_gguf(self) -> bool:
        """Whether the source is a GGUF file."""
        return self.source.is_file()

    def bundle(self, name: str) -> Path:
        """Where a contender's bundle of this source lies."""
        return self.work / "bundles" / self.source.stem / name


@dataclass(frozen=True, slots=True)
class Ready:
    """A contender that can be run: interpreter, runner, model, and the bytes of its weights."""

    python: Path
    runner: Path
    model: Path


def palmtop(group: int | None) -> Callable[[Job], Ready]:
    """Our bundle: of a GGUF file with its grids kept, of a checkpoint with groups of this many weights."""

    def prepare(job: Job) -> Ready:
        name = "palmtop" if group is None else f"palmtop-g{group}"
        folder = job.bundle(name)
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            if job.is_gguf:
                recipe = Recipe(head_bits=8, context=job.context)
            elif group is None:
                recipe = Recipe(context=job.context)
            else:
                recipe = Recipe(group=group, context=job.context)
            export_model(job.source, folder, recipe, verify=False)
        return Ready(Path(sys.executable), RUNNERS / "run_palmtop.py", folder)

    return prepare


def llama(kind: str) -> Callable[[Job], Ready]:
    """llama.cpp: the GGUF file itself, or the checkpoint converted and quantised by llama.cpp to ``kind``."""

    def prepare(job: Job) -> Ready:
        python, model = llama_python(job.work), job.source
        if not job.is_gguf:
            model = job.bundle(f"{kind}.gguf")
            if not model.exists():
                model.parent.mkdir(parents=True, exist_ok=True)
                log, whole = job.work / "llama.cpp.log", job.bundle("bf16.gguf")
                convert = [sys.executable, RUNNERS / "convert_to_gguf.py", llama_source(job.work), job.source, whole]
                run(convert, log)
                run([python, RUNNERS / "quantize_gguf.py", whole, model, kind, str(job.threads)], log)
                whole.unlink()
        return Ready(python, RUNNERS / "run_llamacpp.py", model)

    return prepare


def genai(**options: str) -> Callable[[Job], Ready]:
    """The stock builder of onnxruntime-genai, with options of its ``--extra_options``. It needs what the tests need."""

    def prepare(job: Job) -> Ready:
        if job.is_gguf:
            raise PeerError("its builder is given the checkpoint, not a GGUF file")
        folder = job.bundle("-".join(["genai", *(f"{key}{value}" for key, value in options.items())]))
        if not (folder / "genai_config.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            build = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", job.source, "-o", folder]
            build += ["-p", "int4", "-e", "cpu", "-c", job.work / "cache"]
            extra = [f"{key}={value}" for key, value in options.items()]
            run([*build, *(["--extra_options", *extra] if extra else [])], job.work / "genai.log")
        path = folder / "genai_config.json"
        config = json.loads(path.read_text("utf-8"))
        config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = job.threads
        path.write_text(json.dumps(config, indent=4), "utf-8")
        return Ready(Path(sys.executable), RUNNERS / "run_genai.py", folder)

    return prepare


def openvino(job: Job) -> Ready:
    """OpenVINO GenAI: it reads a GGUF file itself; a checkpoint is exported to INT4 by optimum-intel."""
    python = peer_python(job.work, "openvino", OPENVINO)
    if job.is_gguf:
        return Ready(python, RUNNERS / "run_openvino.py", job.source)
    folder = job.bundle("openvino")
    if not (folder / "openvino_model.xml").exists():
        exporter = peer_python(job.work, "openvino-export", OPENVINO_EXPORT)
        command = [exporter, "-m", "optimum.commands.optimum_cli", "export", "openvino", "-m", job.source]
        run(
            [*command, "--task", "text-generation-with-past", "--weight-format", "int4", folder],
            job.work / "openvino.log",
        )
    return Ready(python, RUNNERS / "run_openvino.py", folder)


def mnn(job: Job) -> Ready:
    """MNN: its package holds no converter for language models, so it takes part in no run yet."""
    raise PeerError("the package MNN holds no converter of language models, and llmexport takes none of transformers 5")


CONTENDERS: dict[str, Callable[[Job], Ready]] = {
    "palmtop": palmtop(None),
    "palmtop-g128": palmtop(128),
    "llama.cpp": llama("Q4_0"),
    "genai": genai(),
    "genai-best": genai(int4_accuracy_level="4", int4_block_size="128"),
    "openvino": openvino,
    "mnn": mnn,
}
