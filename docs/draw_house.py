"""Draw the rooms of the project and the imports between them as ``docs/house.svg``.

``python -m docs.draw_house --write`` writes the picture, without ``--write`` it says whether the file is up to date;
``tests/test_house.py`` fails when it is not. Boxes are rooms with their modules, arrows are imports, those that follow
from others left out. Both journeys run down the page: a checkpoint becomes a bundle on the left, a bundle and messages
become text on the right.
"""

from __future__ import annotations

import ast
import sys
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "house.svg"
FOLDERS = ("export", "quantize", "runtime")
RECIPE = "export.recipe"  # values that every room of the exporter reads
ROOF = {"export": "export (command, conversion)", "runtime": "runtime (session)"}
WIDTH, GAP, MARGIN, LINE, LETTERS = 262, 46, 24, 15, 40
COLUMN = WIDTH + GAP


def modules() -> dict[str, Path]:
    """Dotted name under the repository's root, without ``palmtop``, to file."""
    found = {}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room_of(name: str, path: Path) -> str:
    """The folder below ``export`` or ``runtime`` that holds a module; what lies beside those folders is the roof."""
    parts = name.split(".")
    if parts[0] == "quantize" or name == RECIPE:
        return name if name == RECIPE else "quantize"
    inside = len(parts) > 2 or (len(parts) == 2 and path.name == "__init__.py")
    return ".".join(parts[:2]) if inside else parts[0]


def imported(name: str, path: Path, known: Mapping[str, Path]) -> Iterable[str]:
    """Modules of the project that a file imports, inside functions too, but for the front door's subcommands."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        base = (node.module or "").removeprefix("palmtop").removeprefix(".")
        if node.level:
            base = ".".join((*package[: len(package) - node.level + 1], *filter(None, [node.module])))
        elif not (node.module or "").startswith("palmtop"):
            continue
        for alias in node.names:
            full = f"{base}.{alias.name}"
            for target in (full, base, f"runtime.front.{base}"):
                if target in known:
                    yield target
                    break


def arrows() -> dict[str, set[str]]:
    """Room to the rooms that it imports."""
    known = modules()
    found: dict[str, set[str]] = {room_of(n, p): set() for n, p in known.items()}
    for name, path in known.items():
        room = room_of(name, path)
        if room == "runtime.front":
            continue
        found[room] |= {room_of(t, known[t]) for t in imported(name, path, known)} - {room, "runtime.front"}
    found.pop("runtime.front", None)
    return found


def reduced(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Without arrows that follow from two or more others."""

    def reach(room: str, seen: set[str]) -> set[str]:
        for target in graph[room]:
            if target not in seen:
                seen.add(target)
                reach(target, seen)
        return seen

    return {
        room: {t for t in targets if not any(t in reach(other, set()) for other in targets - {t})}
        for room, targets in graph.items()
    }


def rows(graph: Mapping[str, set[str]]) -> dict[str, int]:
    """How many rooms lie below a room on the longest way down."""
    found: dict[str, int] = {}

    def depth(room: str, trail: tuple[str, ...] = ()) -> int:
        if room in trail:
            raise SystemExit(f"rooms import each other: {' -> '.join((*trail, room))}")
        if room not in found:
            found[room] = 1 + max((depth(t, (*trail, room)) for t in graph[room]), default=-1)
        return found[room]

    for room in graph:
        depth(room)
    return found


def files_of(room: str) -> list[str]:
    """Module names of a room, those of inner folders behind the folder's name."""
    if room == RECIPE:
        return ["recipe"]
    base = "" if room in ROOF else f"{room}."
    names = []
    for name, path in modules().items():
        if room_of(name, path) != room or path.name == "__init__.py":
            continue
        names.append(name.removeprefix(base or f"{room}.").replace(".", "/"))
    return names


def title_of(room: str) -> str:
    """What a room is, from its package's docstring."""
    folder = ROOT / Path(*room.split("."))
    package = folder.with_suffix(".py") if room == RECIPE else folder / "__init__.py"
    said = ast.get_docstring(ast.parse(package.read_text("utf-8"))) or ""
    return said.split("\n")[0].split(": ")[0].replace("``", "").rstrip(".")


def draw() -> str:
    """The picture as SVG."""
    graph = arrows()
    level = rows(graph)
    short = reduced(graph)
    columns: dict[int, list[str]] = {}
    for room in sorted(graph, key=lambda r: (-level[r], r)):
        columns.setdefault(level[room], []).append(room)
    boxes: dict[str, tuple[int, int, int, list[str]]] = {}
    y = MARGIN + 40
    widest = max(len(row) for row in columns.values())
    for number in sorted(columns, reverse=True):
        row = sorted(columns[number], key=lambda r: (FOLDERS.index(r.split(".")[0]), r))
        texts = {}
        for room in row:
            files = textwrap.wrap("  ".join(files_of(room)), LETTERS, break_long_words=False, break_on_hyphens=False)
            texts[room] = [*textwrap.wrap(title_of(room), LETTERS), "", *files]
        height = max(len(t) for t in texts.values()) * LINE + 40
        for place, room in enumerate(row):
            x = MARGIN + int((widest - len(row)) * COLUMN / 2) + place * COLUMN
            boxes[room] = (x, y, len(texts[room]) * LINE + 40, texts[room])
        y += height + GAP
    lines = []
    for room, targets in sorted(short.items()):
        for target in sorted(targets):
            x1, y1, h1, _ = boxes[room]
            x2, y2, _, _ = boxes[target]
            start, end = (x1 + WIDTH // 2, y1 + h1), (x2 + WIDTH // 2, y2 - 2)
            bend = max(24, (end[1] - start[1]) // 2)
            lines.append(
                f'<path class="arrow" d="M{start[0]},{start[1]} C{start[0]},{start[1] + bend}'
                f' {end[0]},{end[1] - bend} {end[0]},{end[1]}"><title>{room} imports {target}</title></path>'
            )
    for room, (x, top, height, texts) in sorted(boxes.items()):
        kind = room.split(".")[0]
        lines.append(f'<g class="{kind}"><rect x="{x}" y="{top}" width="{WIDTH}" height="{height}" rx="6"/>')
        name = ROOF.get(room, room.replace(".", "/") + ("" if room == RECIPE else "/"))
        lines.append(f'<text class="name" x="{x + 10}" y="{top + 20}">{escape(name)}</text>')
        for number, text in enumerate(texts):
            css = "what" if number < texts.index("") else "file"
            lines.append(f'<text class="{css}" x="{x + 10}" y="{top + 38 + number * LINE}">{escape(text)}</text>')
        lines.append("</g>")
    width = 2 * MARGIN + widest * COLUMN - GAP
    return "\n".join([HEAD.format(width=width, height=y), *lines, "</svg>", ""])


HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">
<title>Rooms of palmtop and the imports between them</title>
<style>
rect {{ stroke: #57606a; stroke-width: 1; }} .export rect {{ fill: #ddf4ff; }} .runtime rect {{ fill: #dafbe1; }}
.quantize rect {{ fill: #fff8c5; }} text {{ fill: #1f2328; font-size: 11px; }}
.name {{ font-size: 14px; font-weight: bold; }}
.file {{ font-family: monospace; font-size: 10px; fill: #57606a; }} .what {{ font-style: italic; }}
.arrow {{ fill: none; stroke: #8c959f; stroke-width: 1.2; marker-end: url(#tip); }}
</style>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0,0 L8,4 L0,8 z" fill="#8c959f"/></marker></defs>
<rect x="0" y="0" width="{width}" height="{height}" style="fill:#ffffff;stroke:none"/>
<text class="name" x="24" y="32">An arrow is an import: rooms above use rooms below.</text>
<text x="24" y="48">Blue: a checkpoint becomes a bundle. Green: a bundle and messages become text.</text>"""


def main() -> None:
    """Write or compare."""
    picture = draw()
    if "--write" in sys.argv[1:]:
        PICTURE.write_text(picture, "utf-8")
    elif not PICTURE.exists() or PICTURE.read_text("utf-8") != picture:
        raise SystemExit("docs/house.svg is not what the imports say: python -m docs.draw_house --write")


if __name__ == "__main__":
    main()
