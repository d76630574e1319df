"""Assignment of a bundle's parts to execution providers. Values and their checks; opens nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from palmtop.errors import OptionError

CPU = "cpu"
PARTS = ("vision", "audio", "decoder")
QNN, OPENVINO = "qnn", "openvino"
PROVIDERS = (CPU, OPENVINO, QNN)
DEVICES = {OPENVINO: ("cpu", "gpu", "npu")}
"""Devices of providers that have several; the first one is the default."""

Provider = str | Mapping[str, str]
"""Name of one provider for every part, or names by part; parts that are not named run on the CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Provider of each part: "cpu", "qnn", "openvino", or with a device "openvino:gpu".

    Attributes:
        vision: provider of the vision encoder.
        audio: provider of the audio encoder.
        decoder: provider of the decoder.
    """

    vision: str = CPU
    audio: str = CPU
    decoder: str = CPU

    def parts_on(self, provider: str) -> tuple[str, ...]:
        """Return the parts that run on a provider, on any of its devices."""
        return tuple(part for part in PARTS if getattr(self, part).partition(":")[0] == provider)


def placement(provider: Provider) -> Placement:
    """Check a caller's choice of providers and return it as a placement.

    Raises:
        InputError: a part or a provider is not known.

    >>> placement({"vision": "openvino"})
    Placement(vision='openvino', audio='cpu', decoder='cpu')
    """
    if isinstance(provider, str):
        return Placement(**dict.fromkeys(PARTS, _checked("", provider)))
    if not isinstance(provider, Mapping):
        raise OptionError("provider", f"found {type(provider).__name__}, expected a name, or names by part")
    if unknown := [part for part in provider if part not in PARTS]:
        raise OptionError("provider", f"found part {unknown[0]!r}, expected {', '.join(PARTS)}")
    return Placement(**{part: _checked(f"for {part} ", name) for part, name in provider.items()})


def parse_provider(texts: tuple[str, ...]) -> Provider:
    """Parse ``NAME`` or ``PART=NAME`` from the command line.

    Raises:
        InputError: a bare name is given together with parts, or a part is given twice.

    >>> parse_provider(("vision=openvino", "audio=openvino"))
    {'vision': 'openvino', 'audio': 'openvino'}
    """
    if not texts:
        return CPU
    if len(texts) == 1 and "=" not in texts[0]:
        return texts[0]
    pairs = [text.partition("=") for text in texts]
    parts = {part: name for part, _, name in pairs}
    if len(parts) != len(texts) or not all(equals for _, equals, _ in pairs):
        raise OptionError("provider", f"found {' and '.join(texts)}, expected one NAME, or PART=NAME for each part")
    return parts


def _checked(what: str, name: object) -> str:
    """Return the name unchanged after checking it."""
    if isinstance(name, str):
        base, colon, device = name.partition(":")
        if base in PROVIDERS and (not colon or device in DEVICES.get(base, ())):
            return name
    devices = (f"{base}:{device}" for base, there in DEVICES.items() for device in there)
    raise OptionError("provider", f"{what}found {name!r}, expected one of {', '.join((*PROVIDERS, *devices))}")
