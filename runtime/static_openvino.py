"""OpenVINO through its onnxruntime plugin: registration, devices, sessions, and its quirks.

The plugin offers its CPU device on Intel's processors alone, and asks for them by ``load_config``, not by options.
Nodes that it does not take are not given to the CPU behind the caller's back: the session is refused.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palmtop.errors import BundleError, RuntimeMissingError

from .bundle import Bundle
from .encoders import open_session as open_on_cpu
from .placement import DEVICES
from .static_sessions import StaticSessions

if TYPE_CHECKING:
    import onnxruntime as ort

PROVIDER = "openvino"
INSTALL = "pip install 'palmtop[openvino]'"
LOG_ERRORS = 3  # onnxruntime's severity: errors and worse


def openvino_decoder(bundle: Bundle, provider: str, threads: int | None) -> StaticSessions:
    """The decoder's graphs for OpenVINO, opened when they are first run.

    Raises:
        BundleError: the bundle has none, or they cannot be loaded.
        RuntimeMissingError: the plugin is not installed, or has no such device here.
    """
    target = bundle.manifest.target(PROVIDER)
    if target is None or target.decoder is None:
        raise BundleError(
            f"{bundle.path}: has no graphs of fixed shapes for openvino, expected a bundle exported with --target"
            " openvino; provider={'vision': 'openvino', 'audio': 'openvino'} runs the encoders alone"
        )
    openvino_device(provider)  # now rather than at the first question
    return StaticSessions(
        bundle.path,
        target.decoder,
        lambda path: open_on_openvino(path, provider, threads),
        lambda path: open_on_cpu(path, threads),
    )


def open_on_openvino(path: Path, provider: str, threads: int | None) -> ort.InferenceSession:
    """A session that runs every node on OpenVINO.

    Args:
        path: of the graph.
        provider: "openvino", or with a device "openvino:npu".
        threads: of its CPU device; None leaves it to OpenVINO.

    Raises:
        BundleError: OpenVINO cannot load the graph, or not the whole of it.
        RuntimeMissingError: the plugin is not installed, or has no such device here.
    """
    device = openvino_device(provider)
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = LOG_ERRORS
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    wanted = {} if threads is None else {"CPU": {"INFERENCE_NUM_THREADS": str(threads)}}
    options.add_provider_for_devices([device], {"load_config": json.dumps(wanted)} if wanted else {})
    try:
        return ort.InferenceSession(path, options)
    except Exception as error:  # onnxruntime's exceptions have no common base of their own
        raise BundleError(
            f"{path}: OpenVINO cannot run it ({' '.join(str(error).split())}); provider 'cpu' can"
        ) from error


def openvino_device(provider: str) -> Any:
    """The plugin's device of this name: the CPU without one.

    Raises:
        RuntimeMissingError: the plugin is not installed, or has no such device here.
    """
    wanted = (provider.partition(":")[2] or DEVICES[PROVIDER][0]).upper()
    name = _register()
    import onnxruntime as ort

    offered = {d.ep_metadata.get("ov_device", ""): d for d in ort.get_ep_devices() if d.ep_name == name}
    if wanted not in offered:
        there = ", ".join(sorted(offered)) or "none (it wants a processor, GPU or NPU of Intel's)"
        raise RuntimeMissingError(
            f"provider 'openvino' has no device {wanted} on this machine, the plugin offers: {there}; "
            "provider 'cpu' runs everywhere"
        )
    return offered[wanted]


@functools.cache
def _register() -> str:
    """Load the plugin into onnxruntime, once; the provider's name there."""
    try:
        import onnxruntime as ort
        import onnxruntime_ep_openvino as plugin
    except ImportError as error:
        raise RuntimeMissingError(f"provider 'openvino' needs a plugin that is not installed; {INSTALL}") from error
    name: str = plugin.get_ep_name()
    if not any(device.ep_name == name for device in ort.get_ep_devices()):
        try:
            ort.register_execution_provider_library(name, plugin.get_library_path())
        except Exception as error:  # onnxruntime's exceptions have no common base of their own
            raise RuntimeMissingError(
                f"the OpenVINO plugin cannot be loaded ({' '.join(str(error).split())}); {INSTALL}"
            ) from error
    return name
