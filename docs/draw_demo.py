"""Draw what ``palmtop demo`` prints as ``docs/demo.svg``: ``python -m docs.draw_demo``."""

from __future__ import annotations

import base64
import io
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.text import Text

from palmtop.runtime.reference import samples_path

PICTURE = Path(__file__).with_name("demo.svg")


def main() -> None:
    """Run the demonstration and write the picture."""
    done = subprocess.run(["palmtop", "demo"], capture_output=True, text=True, check=True)
    console = Console(record=True, width=80, file=io.StringIO())
    console.print(Text("$ palmtop demo", style="bold green"))
    for line in done.stdout.splitlines():
        short = re.sub(r"(?<=\s)\S*/(?=[^/\s]+\.(?:png|wav))", "", line)
        style = "bold" if "(right)" in short else "dim" if short.startswith("  adapter") else ""
        console.print(Text(short, style=style))
    drawing = console.export_svg(title="palmtop demo", font_aspect_ratio=0.61)
    drawing = re.sub(r"@font-face \{.*?\n    \}", "", drawing, flags=re.DOTALL)  # fonts of another host
    PICTURE.write_text(drawing.replace("</svg>", "".join(pictures()) + "</svg>"), "utf-8")


def pictures() -> Iterator[str]:
    """The sample pictures at the right edge, beside their questions."""
    for name, top in (("image.png", 96), ("image-audio.png", 226)):
        data = base64.b64encode((samples_path() / name).read_bytes()).decode()
        yield f'<image x="830" y="{top}" width="120" height="120" href="data:image/png;base64,{data}"/>\n'


if __name__ == "__main__":
    main()
