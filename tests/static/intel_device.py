"""Lets the OpenVINO plugin offer its CPU device on processors of other makers, for tests and benchmarks alone.

The plugin (1.8.1) offers the CPU device where onnxruntime says that the processor is Intel's; OpenVINO itself runs
on any x86-64. Here the maker's number in onnxruntime's record of the processor is changed for as long as the plugin
looks at it. Nothing of this is in the package: there a machine without such a device is told so.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

from palmtop.errors import RuntimeMissingError

INTEL = 0x8086


def register_openvino() -> bool:
    """Register the plugin with onnxruntime; whether it offers a CPU device now. False where it is not installed."""
    try:
        import onnxruntime as ort
        import onnxruntime_ep_openvino as plugin
    except ImportError:
        return False
    from palmtop.runtime.providers import plugins as providers

    name = plugin.get_ep_name()
    if any(device.ep_name == name for device in ort.get_ep_devices()):
        return True
    if "openvino" in providers._registered:  # somebody looked, and found no device
        ort.unregister_execution_provider_library(name)
        providers._registered.discard("openvino")
    device = next(d.device for d in ort.get_ep_devices() if d.ep_name == "CPUExecutionProvider")
    # pybind11 keeps the pointer behind the object's head; the record begins with kind and maker.
    record = (ctypes.c_uint32 * 2).from_address(ctypes.c_void_p.from_address(id(device) + 16).value or 0)
    maker = device.vendor_id
    if record[1] != maker:  # another layout than that of onnxruntime 1.31
        return False
    record[1] = INTEL
    try:
        providers.find_devices("openvino")
    except RuntimeMissingError:
        return False
    finally:
        record[1] = maker
    return True


def tolerance() -> float:
    """Part of the logits' range that OpenVINO's CPU device may be off: it takes bfloat16 where a processor has it."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return 0.02 if "bf16" in flags else 1e-3
