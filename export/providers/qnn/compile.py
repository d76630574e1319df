"""Compilation of quantised graphs to binaries for one SoC with QNN's compiler in onnxruntime, and their check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from palmtop.errors import BundleError, InputError
from palmtop.runtime.providers.plugins import (
    CpuFallbackError,
    fallen_back,
    fallen_back_text,
    find_devices,
    open_graph,
    placement,
)

from .calibrate import Calibrated

PROVIDER = "qnn"
COMPATIBILITY, SOC_FIELD = "ep_compatibility_info.QNNExecutionProvider", 5  # name that onnxruntime-qnn 2.7 writes
LEAST_SNR_DB = 6.0
"""Lowest SNR: below it a graph is wrong rather than rounded. The one that the compiler broke had 1 to 3 dB, int4 has
15.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """One compiled graph.

    Attributes:
        file: file name of the context model.
        nodes: number of the source's nodes that run on the provider.
        snr_db: SNR of its outputs against float32's on a calibration sample; None without a sample.
        on_cpu: nodes that fell back to the CPU, as "operator name".
    """

    file: str
    nodes: int
    snr_db: float | None
    on_cpu: tuple[str, ...] = ()


def require_compiler() -> None:
    """Refuse to continue without the compiler.

    Raises:
        RuntimeMissingError: the provider's package is not installed, cannot be loaded, or has no device on this
            machine.
    """
    find_devices(PROVIDER)


def compile_graphs(
    folder: Path,
    files: Mapping[str, str],
    soc: str,
    samples: Mapping[str, Calibrated],
    report: Callable[[str], None] = lambda file: None,
    *,
    share: bool,
) -> list[Compiled]:
    """Compile graphs, separately or into one binary that holds equal weights once, and compare each with float32.

    Args:
        folder: folder of the bundle with the sources.
        files: context model by source.
        soc: SoC name, such as "sm8750".
        samples: a run to compare with, by source.
        report: called with each file before it is compiled.
        share: whether all graphs share one binary.

    Raises:
        RuntimeMissingError: the provider is not installed.
        InputError: the compiler does not support the SoC.
        BundleError: an operator is not supported, or the compiled graph's outputs are wrong.
    """
    sessions: list[Any] = []  # a shared binary is written when the last of its sessions is opened
    done = []
    try:
        for place, (source, file) in enumerate(files.items()):
            report(file)
            entries = {
                "ep.context_enable": "1",
                "ep.context_embed_mode": "0",
                "ep.context_file_path": str(folder / file),
            }
            if share and len(files) > 1:
                entries["ep.share_ep_contexts"] = "1"
                if place == len(files) - 1:
                    entries["ep.stop_share_ep_contexts"] = "1"
            session = _opened(folder / source, {"soc_model": soc.upper()}, entries)
            sessions.append(session)
            _check_soc(folder / file, soc)
            on_cpu = fallen_back(session)
            nodes = sum(len(names) for names in placement(session).values()) - len(on_cpu)
            sample = samples.get(source)
            worst = None if sample is None else _proved(session, sample, source)
            done.append(Compiled(file=file, nodes=nodes, snr_db=worst, on_cpu=tuple(on_cpu)))
            if not share:
                sessions.clear()
    finally:
        sessions.clear()
    return done


def _opened(source: Path, options: Mapping[str, str], entries: Mapping[str, str]) -> Any:
    """Return a session of a graph that runs on the provider as a whole.

    Raises:
        BundleError: operators would fall back to the CPU; names them.
    """
    try:
        return open_graph(PROVIDER, source, options=options, entries=entries)
    except CpuFallbackError as error:
        places = placement(open_graph(PROVIDER, source, fallback=True, options=options))
        raise BundleError(
            f"{source.name}: {fallen_back_text(places)}, expected every node on {PROVIDER}; export without --target"
        ) from error


def _check_soc(context_model: Path, soc: str) -> None:
    """Refuse an unknown SoC: QNN compiles for a generic one then; the file has the SoC it used."""
    notes = {entry.key: entry.value for entry in onnx.load(context_model, load_external_data=False).metadata_props}
    fields = notes.get(COMPATIBILITY, "").split(":")
    if len(fields) > SOC_FIELD and fields[SOC_FIELD] == "0":
        raise InputError(f"soc is '{soc}', which QNN's compiler does not know, expected a name such as sm8750")


def _proved(session: Any, sample: Calibrated, source: str) -> float:
    """Return the worst SNR of the outputs, after checking it."""
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(names, dict(sample.feeds)), strict=True))
    worst = min(snr_db(sample.outputs[name], found[name]) for name in names)
    if worst < LEAST_SNR_DB:
        raise BundleError(
            f"{source}: compiled, its outputs are {worst:.1f} dB from float32's, expected at least {LEAST_SNR_DB:g}"
        )
    return worst


def snr_db(wanted: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Return the signal-to-noise ratio in decibels."""
    noise = float(np.square(wanted.astype(np.float64) - found).sum())
    signal = float(np.square(wanted.astype(np.float64)).sum())
    return 200.0 if noise == 0 else float(10 * np.log10(max(signal, 1e-30) / noise))


def binary_of(file: str) -> str:
    """Return the path of the binary beside a context model, as onnxruntime names it."""
    return f"{file.removesuffix('.onnx')}_qnn.bin"
