"""Draw every picture of the documents from measured data: ``python -m docs.draw_all [--check] [--record] [--screens]``.

``docs/pictures/*.svg`` and ``docs/house.svg`` need nothing but the data in ``docs/data`` and the sources. ``--check``
writes nothing and fails where a picture is out of date. ``--record`` first asks the packaged model again, ``--screens``
also draws the app's screens, whose fonts are downloaded. The pictures of the server's page need a browser
(``docs/serve/page_check.mjs``).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from docs import draw_house
from docs.drawing.cards import CARDS, card
from docs.drawing.measured import error_by_layer, memory_against_context, size_against_loss, speed_against_peers
from docs.drawing.routing import routing

FOLDER = Path(__file__).with_name("pictures")
PICTURES: Mapping[Path, Callable[[], str]] = {
    FOLDER / "routing.svg": routing,
    FOLDER / "size_against_loss.svg": size_against_loss,
    FOLDER / "speed_against_peers.svg": speed_against_peers,
    FOLDER / "memory_against_context.svg": memory_against_context,
    FOLDER / "error_by_layer.svg": error_by_layer,
    **{FOLDER / f"{name}.svg": partial(card, name) for name in CARDS},
    draw_house.PICTURE: draw_house.draw,
}


def main() -> None:
    """Draw, or say what is out of date."""
    asked = set(sys.argv[1:])
    if unknown := asked - {"--check", "--record", "--screens"}:
        raise SystemExit(f"{', '.join(sorted(unknown))}: expected --check, --record or --screens")
    if "--record" in asked:
        subprocess.run([sys.executable, "-m", "docs.record_runs"], check=True)
    old = [path for path, draw in PICTURES.items() if not path.is_file() or path.read_text("utf-8") != draw()]
    if "--check" in asked:
        if old:
            raise SystemExit(f"out of date: {', '.join(path.name for path in old)}; python -m docs.draw_all")
        return
    for path in old:
        path.write_text(PICTURES[path](), "utf-8")
        print(path)
    if "--screens" in asked:
        subprocess.run([sys.executable, "-m", "tests.android.screens.gallery"], check=True)


if __name__ == "__main__":
    main()
