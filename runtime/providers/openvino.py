"""The OpenVINO execution provider, an onnxruntime plugin: devices and sessions.

The plugin offers its CPU device only on Intel processors, and takes device options as ``load_config``. Encoders run as
they are in the bundle; the decoder has graphs of fixed shapes, one compiled copy of its weights each.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from palmtop.errors import InputError, RuntimeMissingError
from palmtop.runtime.bundle.opening import Bundle

from .assignment import DEVICES, OPENVINO
from .plugins import find_devices, open_graph, tell_fallen_back
from .static_sessions import StaticSessions

PROVIDER = OPENVINO
COPIES = 5.0
"""Memory of prefill and decode graph together, as a multiple of their INT4 weights: measured 2.5 each (docs/npu.md)."""


def openvino_decoder(
    bundle: Bundle,
    provider: str,
    threads: int | None,
    fell_back: dict[str, list[str]],
    *,
    fallback: bool = False,
) -> StaticSessions:
    """Return the decoder's graphs for OpenVINO, opened when first run; arguments as for ``open_on_openvino``.

    Raises:
        InputError: the bundle has no graphs for OpenVINO.
        RuntimeMissingError: the plugin is not installed, or has no such device on this machine.
    """
    target = bundle.manifest.target(PROVIDER)
    if target is None or target.decoder is None:
        raise InputError(
            f"{bundle.path}: has no graphs for provider '{PROVIDER}', expected a target; palmtop export CHECKPOINT -o "
            f"BUNDLE --target {PROVIDER}, or --provider vision={PROVIDER} --provider audio={PROVIDER} for the encoders"
        )
    openvino_device(provider)  # checked at loading rather than at the first question
    return StaticSessions(
        bundle.path,
        target.decoder,
        lambda path: open_on_openvino(path, provider, threads, fell_back, fallback=fallback),
        lambda path: open_graph("cpu", path, threads=threads),
        copies=COPIES,
    )


def open_on_openvino(
    path: Path, provider: str, threads: int | None, fell_back: dict[str, list[str]], *, fallback: bool = False
) -> Any:
    """Open a session whose nodes run on OpenVINO.

    Args:
        path: path of the graph.
        provider: "openvino", or with a device "openvino:npu".
        threads: threads of its CPU device; None leaves the number to OpenVINO.
        fell_back: nodes that run on the CPU, by file; those of this graph are added.
        fallback: whether nodes that OpenVINO does not support may run on the CPU, with a warning; otherwise a single
            such node is refused.

    Raises:
        BundleError: OpenVINO cannot load the graph, or does not support all of it.
        RuntimeMissingError: the plugin is not installed, or has no such device on this machine.
    """
    wanted = {} if threads is None else {"CPU": {"INFERENCE_NUM_THREADS": str(threads)}}
    session = open_graph(
        PROVIDER,
        path,
        fallback=fallback,
        threads=threads,
        options={"load_config": json.dumps(wanted)} if wanted else {},
        device=openvino_device(provider),
    )
    tell_fallen_back(session, path.name, fell_back)
    return session


def openvino_device(provider: str) -> Any:
    """Return the plugin's device of this name; the CPU without a name.

    Raises:
        RuntimeMissingError: the plugin is not installed, or has no such device on this machine.
    """
    wanted = (provider.partition(":")[2] or DEVICES[PROVIDER][0]).upper()
    offered = {device.ep_metadata.get("ov_device", ""): device for device in find_devices(PROVIDER)}
    if wanted not in offered:
        raise RuntimeMissingError(
            f"provider '{PROVIDER}': the plugin has no device {wanted} on this machine, it offers "
            f"{', '.join(sorted(offered))}; --provider {PROVIDER}:{min(offered).lower()} takes that"
        )
    return offered[wanted]
