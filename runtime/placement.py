"""Which part of a bundle runs on which provider. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .option_checks import wrong

PARTS = ("vision", "audio", "decoder")
PROVIDERS = ("cpu", "qnn", "openvino")

Provider = str | Mapping[str, str]
"""One for every part that the bundle has graphs for, or part to provider; parts left out run on the CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A provider for each part; None where the user left it to the bundle's target."""

    vision: str | None = None
    audio: str | None = None
    decoder: str | None = None
    everywhere: str = "cpu"

    def of(self, part: str) -> str:
        """The provider of a part."""
        return getattr(self, part) or self.everywhere

    def is_named(self, part: str) -> bool:
        """Whether the user named this part: then it must be there."""
        return getattr(self, part) is not None

    @property
    def providers(self) -> tuple[str, ...]:
        """Those in use, without the CPU."""
        return tuple(dict.fromkeys(p for p in (self.of(part) for part in PARTS) if p != "cpu"))


def read_placement(provider: object) -> Placement:
    """What the option ``provider`` says.

    Raises:
        InputError: an unknown provider or part.
    """
    expected = f"one of {', '.join(PROVIDERS)}, or parts among {', '.join(PARTS)} with one each"
    if isinstance(provider, str):
        if provider not in PROVIDERS:
            raise wrong("provider", provider, expected)
        return Placement(everywhere=provider)
    if not isinstance(provider, Mapping) or not set(provider) <= set(PARTS):
        raise wrong("provider", provider, expected)
    for name in provider.values():
        if name not in PROVIDERS:
            raise wrong("provider", name, expected)
    return Placement(**dict(provider))


def parse_provider(text: str) -> Provider:
    """The command line's form.

    >>> parse_provider("qnn"), parse_provider("vision=qnn,audio=qnn")
    ('qnn', {'vision': 'qnn', 'audio': 'qnn'})
    """
    if "=" not in text:
        return text.strip()
    pairs = (item.partition("=") for item in text.split(","))
    return {part.strip(): name.strip() for part, _, name in pairs}
