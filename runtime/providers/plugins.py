"""Execution providers in packages of their own: discovery, registration and sessions.

Independent of bundles. A graph runs on its provider as a whole or is refused: onnxruntime's silent fallback to the CPU
is enabled only on request, and the nodes that fell back are counted.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palmtop.errors import BundleError, InputError, OptionError, RuntimeMissingError
from palmtop.packages import install_command
from palmtop.runtime.bundle.native_files import graph_source

LOG_FATAL = 4  # errors are raised as well
SOC_FILE = Path("/sys/devices/soc0/machine")
FALLBACK_OFF = "session.disable_cpu_ep_fallback"
RECORD = "session.record_ep_graph_assignment_info"
CPU = "CPUExecutionProvider"


class CpuFallbackError(BundleError):
    """A graph with nodes that its provider does not support, where fallback to the CPU was not allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderPackage:
    """Package, library and options of one execution provider.

    Attributes:
        name: name in options and on the command line.
        package: name on the package index.
        version: version that palmtop was tested with.
        module: module that the package installs.
        library: onnxruntime's name of the provider.
        options: provider options of every session.
        hardware: hardware that the provider needs, for messages.
    """

    name: str
    package: str
    version: str
    module: str
    library: str
    options: Mapping[str, str]
    hardware: str


PACKAGES = {
    "qnn": ProviderPackage(
        name="qnn",
        package="onnxruntime-qnn",
        version="2.7.0",
        module="onnxruntime_qnn",
        library="QNNExecutionProvider",
        # The graphs' own inputs and outputs are float: without this option their conversion would stay on the CPU.
        options={"offload_graph_io_quantization": "0", "htp_graph_finalization_optimization_mode": "3"},
        hardware="a Snapdragon's NPU, or x86-64 for its emulator",
    ),
    "openvino": ProviderPackage(
        name="openvino",
        package="onnxruntime-ep-openvino",
        version="1.8.1",
        module="onnxruntime_ep_openvino",
        library="OpenVINOExecutionProvider",
        options={},
        hardware="a processor, GPU or NPU of Intel's",
    ),
}
SHOWN_NODES = 5  # number of nodes that fell back named in the log
_registered: set[str] = set()

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderState:
    """Installed version and devices of a provider, or what is missing.

    Attributes:
        name: name of the provider.
        version: version of its package; None where it is not installed.
        devices: descriptions of its devices.
        missing: what is missing and the command that installs it; empty when nothing is.
    """

    name: str
    version: str | None
    devices: tuple[str, ...]
    missing: str


def state(name: str) -> ProviderState:
    """Return the state of a provider without opening a graph; registers the provider."""
    package = PACKAGES[name]
    version = _version(package.package)
    if version is None:
        missing = f"not installed; {install_command(name)}"
        return ProviderState(name=name, version=None, devices=(), missing=missing)
    try:
        devices = tuple(_shown(name, device) for device in find_devices(name))
    except (RuntimeMissingError, InputError) as error:
        return ProviderState(name=name, version=version, devices=(), missing=str(error))
    return ProviderState(name=name, version=version, devices=devices, missing="")


def find_devices(name: str) -> list[Any]:
    """Return onnxruntime's devices of a provider, at least one.

    Raises:
        InputError: no provider has this name.
        RuntimeMissingError: its package is not installed or cannot be loaded, or it has no device on this machine.
    """
    import onnxruntime as ort

    if name not in PACKAGES:
        raise OptionError("provider", f"found '{name}', expected cpu or one of {', '.join(PACKAGES)}")
    package = PACKAGES[name]
    if name not in _registered:
        try:
            # libsndfile crashes when it is loaded after QNN 2.51's libraries, and works when loaded before.
            importlib.import_module("soundfile")
            module = importlib.import_module(package.module)
            ort.register_execution_provider_library(package.library, module.get_library_path())
        except ModuleNotFoundError as error:
            raise RuntimeMissingError(
                f"provider '{name}' is not installed, expected {package.package}; {install_command(name)}"
            ) from error
        except Exception as error:  # onnxruntime's exceptions have no common base of their own
            raise RuntimeMissingError(
                f"provider '{name}': {package.package} {_version(package.package)} cannot be loaded "
                f"({' '.join(str(error).split())[:200]}); pip install --force-reinstall "
                f"{package.package}=={package.version}"
            ) from error
        _registered.add(name)
    devices = [device for device in ort.get_ep_devices() if device.ep_name == package.library]
    if not devices:
        raise RuntimeMissingError(
            f"provider '{name}': {package.package} {_version(package.package)} finds no device on this machine, "
            f"expected {package.hardware}; run with --provider cpu"
        )
    return devices


def open_graph(
    name: str,
    path: Path,
    *,
    fallback: bool = False,
    threads: int | None = None,
    options: Mapping[str, str] | None = None,
    entries: Mapping[str, str] | None = None,
    device: Any = None,
) -> Any:
    """Open a session whose graph runs on a provider, or on the CPU.

    Args:
        name: name of the provider, or "cpu".
        path: path of the graph.
        fallback: whether operators that the provider does not support may run on the CPU; otherwise one is refused.
        threads: number of onnxruntime's threads; None for its default.
        options: provider options, added to those of every session.
        entries: config entries of the session.
        device: device from ``find_devices``; None takes the first.

    Returns:
        ``onnxruntime.InferenceSession``.

    Raises:
        InputError: no provider has this name.
        RuntimeMissingError: the provider is not installed.
        BundleError: the graph cannot be loaded.
        CpuFallbackError: the provider does not support every node.
    """
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.log_severity_level = LOG_FATAL
    settings.enable_cpu_mem_arena = False
    settings.enable_mem_pattern = False
    settings.add_session_config_entry(RECORD, "1")
    if threads is not None:
        settings.intra_op_num_threads = threads
    for key, value in (entries or {}).items():
        settings.add_session_config_entry(key, value)
    if name == "cpu":
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return _session(path, settings, name, fallback, providers=[CPU])
    chosen = find_devices(name)[0] if device is None else device
    settings.add_session_config_entry(FALLBACK_OFF, "0" if fallback else "1")
    settings.add_provider_for_devices([chosen], _options(name) | dict(options or {}))
    return _session(path, settings, name, fallback)


def placement(session: Any) -> dict[str, list[str]]:
    """Return the operators of a session's nodes by provider, with onnxruntime's names."""
    found: dict[str, list[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        found.setdefault(part.ep_name, []).extend(f"{node.op_type} {node.name}" for node in part.get_nodes())
    return found


def fallen_back(session: Any) -> list[str]:
    """Return the nodes that run on the CPU though the session has another provider, as "operator name"."""
    found = placement(session)
    return found.get(CPU, []) if set(found) - {CPU} else []


def tell_fallen_back(session: Any, file: str, found: dict[str, list[str]]) -> None:
    """Warn about the nodes of a graph that fell back to the CPU, and store them under the file's name."""
    nodes = fallen_back(session)
    if nodes:
        found[file] = nodes
        logger.warning("palmtop: warning: %s: %s", file, fallen_back_text(placement(session)))


def fallen_back_text(places: Mapping[str, list[str]]) -> str:
    """Return the number of a graph's nodes that run on the CPU, and their names (``placement``), as text.

    >>> fallen_back_text({"NPU": ["Conv a", "Relu b"], "CPUExecutionProvider": ["Det c"]})
    '1 of 3 nodes fell back to the CPU: Det c'
    """
    nodes, total = places.get(CPU, []), sum(map(len, places.values()))
    shown = ", ".join(nodes[:SHOWN_NODES]) + (", ..." if len(nodes) > SHOWN_NODES else "")
    return f"{len(nodes)} of {total} nodes fell back to the CPU: {shown}"


def compiler_versions(name: str) -> dict[str, str]:
    """Return the versions that a compiled graph depends on, by name."""
    import onnxruntime as ort

    package = PACKAGES[name]
    found = {"onnxruntime": str(ort.__version__), package.package: str(_version(package.package))}
    if name == "qnn":
        info = importlib.import_module(f"{package.module}.build_and_package_info")
        found["qairt"] = str(info.qnn_version)
    return found


def is_emulated(name: str) -> bool:
    """Return whether the provider's NPU is emulated in software on this machine: QNN's HTP on x86."""
    return name == "qnn" and platform.machine().lower() not in ("aarch64", "arm64")


def this_soc(file: Path = SOC_FILE) -> str | None:
    """Return the name of the system on chip, such as "sm8750"; None where the system does not report it."""
    try:
        return file.read_text("utf-8", "replace").strip().lower() or None
    except OSError:
        return None


def _session(path: Path, settings: Any, name: str, fallback: bool, **how: Any) -> Any:
    import onnxruntime as ort

    ort.disable_telemetry_events()
    try:
        with graph_source(path) as source:
            return source.open(ort.InferenceSession, settings, **how)
    except BundleError:
        raise
    except Exception as error:  # onnxruntime's exceptions have no common base of their own
        reason = " ".join(str(error).split())
        if "fallback to CPU EP has been explicitly disabled" in reason:
            raise CpuFallbackError(
                f"{path.name}: provider '{name}' does not take every operator of it, expected all; "
                f"pass --fallback (fallback=True) to run the rest on the CPU"
            ) from error
        raise BundleError(f"{path.name}: provider '{name}' cannot load it ({reason[:300]})") from error


def _options(name: str) -> dict[str, str]:
    package = PACKAGES[name]
    found = dict(package.options)
    if name == "qnn":
        found["backend_path"] = str(importlib.import_module(package.module).get_qnn_htp_path())
    return found


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _shown(name: str, device: Any) -> str:
    kind = str(device.device.type).rpartition(".")[2]
    if is_emulated(name):
        return f"HTP emulated on the {kind} ({device.device.vendor}): right numbers, no speed"
    return f"{kind} ({device.device.vendor})"
