"""Write four sample questions, held-out items that the model answers right.

`python -m tests.reference.package_samples`
"""

from __future__ import annotations

import json

from PIL import Image

from palmtop.runtime.reference import checkpoint_path, samples_path
from palmtop.runtime.reference.heldout import TASKS, Item, held_out_items
from tests.reference.score import ROUTE, Reference
from tests.reference.synthesizers import wav_bytes

SEED = 7


def main() -> None:
    """Write the media and samples.json."""
    reference = Reference.load(checkpoint_path())
    directory = samples_path()
    directory.mkdir(exist_ok=True)
    index = []
    for task in TASKS:
        reference.use(ROUTE[task])
        item = next(item for item in held_out_items(task, 200, SEED) if _is_good(item, reference))
        entry: dict[str, str | None] = {"mode": task, "text": None, "image": None, "audio": None}
        for part in item.messages[0]["content"]:
            stem = task.replace("+", "-")
            if part["type"] == "image":
                entry["image"] = f"{stem}.png"
                Image.fromarray(part["image"]).save(directory / f"{stem}.png", optimize=True)
            elif part["type"] == "audio":
                entry["audio"] = f"{stem}.wav"
                (directory / f"{stem}.wav").write_bytes(wav_bytes(part["audio"][0]))
            else:
                entry["text"] = part["text"]
        index.append(entry | {"expected": item.expected, "group": item.group})
    (directory / "samples.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _is_good(item: Item, reference: Reference) -> bool:
    """Telling ones: a number in words, three handwritten digits, three spoken ones, a question; answered right."""
    telling = {
        "text": item.group == "digits",
        "image": len(item.expected) == 3 and item.group == "handwritten",
        "audio": len(item.expected) == 3 and item.expected.isdigit() and item.group.startswith("flite"),
        "image+audio": item.group.endswith("espeak") and len(item.expected) == 1,
    }
    return telling[item.task] and reference.answer(reference.inputs(item)) == item.expected


if __name__ == "__main__":
    main()
