"""Every screen of the app in the states a user meets, and the pictures of them in docs/android.

    python -m tests.android.screens.gallery        # writes docs/android/*.png

What the app sets at run time is given here in its own words (strings.xml); everything else is the app's resources.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from android_demo.packages import unpack_group
from tests.android.screens.paint import paint, save
from tests.android.screens.resources import Resources
from tests.android.screens.views import FONTS, View, build, place

ROOT = Path(__file__).resolve().parents[3]
RESOURCES = ROOT / "android_demo/app/res"
SAMPLES = ROOT / "runtime/reference/samples"
PICTURES = ROOT / "docs/android"
DENSITY = 2.0
PICTURE_WIDTH = 360
GONE = {"visibility": "gone"}
SHOWN = {"visibility": "visible"}


@dataclass(frozen=True)
class Look:
    """A phone and its user's choices; sizes in dp."""

    night: bool = False
    font_scale: float = 1.0
    width: int = 360
    height: int = 740


ON = {"alpha": "", "enabled": "true"}
MEMORY = {"memory": {"text": "Memory: 1.25 GB used of 3.40 GB", **SHOWN}}
READY = {"status": {"text": "@string/state_ready"}, **MEMORY, "attach": ON, "record": ON, "send": ON}
STOP = {**ON, "src": "@drawable/ic_stop", "contentDescription": "@string/do_stop"}


def answer(text: str, note: str = "", **others: Any) -> tuple[str, dict[str, Any]]:
    notes = {"text": note} if note else GONE
    return "item_answer", {"text": {"text": text}, "note": notes, "retry": GONE, **others}


def question(text: str, *media: tuple[str, dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    return "item_user", {"text": {"text": text}, "media": {"children": media}}


def picture(name: str) -> tuple[str, dict[str, Any]]:
    with Image.open(SAMPLES / name) as image:  # MessageList.java gives the view the picture's own proportions
        height = 200 * image.height // image.width
    return "item_picture", {"picture": {"src": str(SAMPLES / name), "layout_height": f"{height}dp"}}


def sound(length: str) -> tuple[str, dict[str, Any]]:
    return "item_sound", {"label": {"text": f"Recording, {length}"}}


def model(name: str, facts: str, *, used: bool = False, trouble: str = "") -> tuple[str, dict[str, Any]]:
    broken = {"text": trouble} if trouble else GONE
    buttons = {"use": GONE} if used or trouble else {}
    if trouble:
        buttons["details"] = GONE
    return "item_model", {"name": {"text": name}, "facts": {"text": facts}, "trouble": broken, **buttons}


def chat(title: str, facts: str) -> tuple[str, dict[str, Any]]:
    delete = {"contentDescription": f"Delete: {title}"}
    return "item_chat", {"name": {"text": title}, "facts": {"text": facts}, "delete": delete}


def result(mode: str, first: str, speed: str, prompt: int) -> tuple[str, dict[str, Any]]:
    numbers = f"First token after {first} s · {speed} tokens per second · prompt of {prompt} tokens"
    return "item_result", {"mode": {"text": f"@string/{mode}"}, "numbers": {"text": numbers}}


NOTES = "3 tokens · 41.2/s · first after 0.09 s"
TALK = [
    question("What is it?", picture("image.png")),
    answer("303", f"{NOTES} · vision"),
    question("What is it?", sound("0:01")),
    answer("75"),
]
ABOUT = (
    "palmtop\n0.1.0\n\nonnxruntime\ncom.github.asus4.onnxruntime 0.4.9\nAAR sha256 "
    + "0123456789abcdef " * 4
    + "\n\nlibonnxruntime.so\nsha256 "
    + "fedcba9876543210 " * 4
)
RECORDING = "Recording 0:07 of at most 10:14"
SCREENS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "chat-empty": ("chat", READY),
    "chat-opening": (
        "chat",
        {
            "status": {"text": "@string/state_opening"},
            "progress": {"visibility": "visible", "progress": 620},
            "example": GONE,
            "adapter": GONE,
        },
    ),
    "chat": (
        "chat",
        {
            "empty": GONE,
            "messages": {"children": TALK},
            "status": {"text": "@string/state_writing"},
            **MEMORY,
            "send": STOP,
        },
    ),
    "chat-recording": (
        "chat",
        {
            **READY,
            "record_time": {"visibility": "visible", "text": RECORDING},
            "record": {**ON, "src": "@drawable/ic_stop", "contentDescription": "@string/do_record_end"},
            "attached": {
                "children": [
                    (
                        "item_attached",
                        {
                            "preview": {"src": str(SAMPLES / "image-audio.png")},
                            "label": {"text": "Picture, 168 by 49 pixels"},
                        },
                    ),
                    ("item_attached", {"preview": {"tint": "@color/accent"}, "label": {"text": "Recording, 0:04"}}),
                ]
            },
            "message": {"text": "Which number does the voice ask for?"},
        },
    ),
    "chat-trouble": (
        "chat",
        {
            "title": {"text": "phi4mm-int4"},
            "status": {"text": "@string/chat_no_model"},
            "empty": GONE,
            "trouble": {
                "visibility": "visible",
                "text": "This model is damaged or incomplete. Copy it to the phone again.\n"
                "file 'weights/decoder.bin' has 1200 bytes, expected 1421824",
            },
            "adapter": GONE,
        },
    ),
    "chat-shared": (
        "chat",
        {
            **READY,
            "status": {"text": "@string/state_taking"},
            "progress": {"visibility": "visible", "progress": 0},
            "empty": GONE,
            "attached": {
                "children": [
                    (
                        "item_attached",
                        {
                            "preview": {"src": str(SAMPLES / "image-audio.png")},
                            "label": {"text": "Picture, 168 by 49 pixels"},
                        },
                    ),
                ]
            },
        },
    ),
    "history": (
        "history",
        {
            "chats": {
                "children": [
                    chat("What is in the picture?", "28 Nov, 10:14 · 4 messages · Open"),
                    chat("Recording, 2:31", "27 Nov, 18:02 · 2 messages"),
                    chat(
                        "Write down what the first speaker says about the harbour, and then what the second answers",
                        "25 Nov, 09:40 · 12 messages",
                    ),
                    chat("This chat cannot be read.", "20 Nov, 21:15"),
                ]
            }
        },
    ),
    "history-empty": ("history", {"none": SHOWN}),
    "chat-interrupted": (
        "chat",
        {
            **READY,
            "empty": GONE,
            "messages": {
                "children": [
                    question("What is in this recording? Write it down.", sound("2:31")),
                    answer(
                        "The first speaker says that the harbour",
                        "The phone closed the app during this answer.",
                        retry=SHOWN,
                    ),
                ]
            },
        },
    ),
    "settings": ("settings", {}),
    "models": (
        "models",
        {
            "models": {
                "children": [
                    model("palmtop-reference", "4.0 MB · In use", used=True),
                    model("phi4mm-int4", "3.91 GB"),
                    model(
                        "holiday",
                        "1.20 GB",
                        trouble="This model is damaged or incomplete. Copy it to the phone again.\n"
                        "file 'vision.onnx' is missing",
                    ),
                ]
            }
        },
    ),
    "models-importing": (
        "models",
        {
            "models": {"children": [model("palmtop-reference", "4.0 MB · In use", used=True)]},
            "status": {"text": "Copying and checking: 1.68 GB of 3.91 GB"},
            "progress": SHOWN,
            "import_model": GONE,
            "cancel": SHOWN,
        },
    ),
    "benchmark": (
        "benchmark",
        {
            "rows": {
                "children": [
                    result("mode_text", "0.31", "12.4", 58),
                    result("mode_image", "1.92", "12.1", 341),
                    result("mode_audio", "0.88", "12.2", 121),
                    result("mode_image_audio", "2.41", "11.9", 404),
                ]
            },
            "status": {"text": "Memory at most: 3.12 GB of 5.40 GB"},
        },
    ),
    "about": (
        "about",
        {
            "versions": {"text": ABOUT},
            "licences": {
                "children": [
                    ("item_licence", {"licence": {"text": name}})
                    for name in ("palmtop, and the reference model", "ONNX Runtime", "ONNX Runtime GenAI")
                ]
            },
        },
    ),
}
LOOKS = {"light": Look(), "dark": Look(night=True), "large": Look(font_scale=2.0), "small": Look(width=320, height=533)}
KEPT = [(name, "light") for name in SCREENS] + [("chat", "dark"), ("models", "dark"), ("chat", "large")]


def load_fonts(*, offline: bool = False) -> None:
    """Find Roboto in the cache, or fetch it.

    Raises:
        PackageError: it cannot be had.
    """
    folder = unpack_group("screens", offline=offline) / "usr/share/fonts/truetype/roboto/unhinted/RobotoTTF"
    FONTS.update({False: folder / "Roboto-Regular.ttf", True: folder / "Roboto-Bold.ttf"})


def render(name: str, look: Look, density: float = DENSITY) -> View:
    """A screen, measured; ``paint`` draws it. ``load_fonts`` must have been called."""
    layout, changes = SCREENS[name]
    resources = Resources(RESOURCES, night=look.night, density=density, font_scale=look.font_scale)
    width, height = round(look.width * density), round(look.height * density)
    return place(build(resources, layout, changes), width, height)


def main() -> None:
    """Draw the pictures that are kept."""
    load_fonts()
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name, look in KEPT:
        path = PICTURES / (f"{name}.png" if look == "light" else f"{name}-{look}.png")
        save(paint(render(name, replace(LOOKS[look]))), path, PICTURE_WIDTH)
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
