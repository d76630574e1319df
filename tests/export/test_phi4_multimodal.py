"""Entry of ``phi4_multimodal`` in the journey test; tests/export/test_port_layout.py has the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.export import test_phi4mm
from tests.export.families import Family
from tests.export.test_port_layout import write_port_layout


def write(folder: Path, seed: int, **changes: Any) -> Any:
    upstream = folder.with_name(f"{folder.name}-upstream")
    port = test_phi4mm.write(upstream, seed, **changes)
    write_port_layout(upstream, folder)
    return port


FAMILY = Family(write=write, shapes=test_phi4mm.SHAPES)
