"""Every screen, light and dark, with large fonts and on a small phone: readable, reachable, named for TalkBack."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.android.requirements import is_required, make_or_skip
from tests.android.screens.faults import contrast, contrast_faults, faults
from tests.android.screens.gallery import KEPT, LOOKS, PICTURES, RESOURCES, ROOT, SCREENS, load_fonts, render
from tests.android.screens.paint import paint, polylines
from tests.android.screens.resources import Resources
from tests.android.screens.views import View, build, place, wrap
from tests.android.screens.views import font as roboto

APP = ROOT / "android_demo/app"


@pytest.fixture(scope="module", autouse=True)
def fonts() -> None:
    make_or_skip(lambda: load_fonts(offline=not is_required()))


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("name", SCREENS)
def test_a_screen_is_readable_and_can_be_used(name: str, look: str) -> None:
    screen = render(name, LOOKS[look])
    assert faults(screen) + contrast_faults(screen) == []


def test_every_layout_is_on_some_screen() -> None:
    drawn: set[str] = set()

    def note(layout: str, changes: object) -> None:
        drawn.add(layout)
        for change in changes.values() if isinstance(changes, dict) else ():
            for item in change.get("children", ()):
                note(*item)

    for layout, changes in SCREENS.values():
        note(layout, dict(changes))
    assert drawn == {path.stem for path in (RESOURCES / "layout").glob("*.xml")}


def test_every_string_and_picture_is_used() -> None:
    text = "".join(p.read_text("utf-8") for p in APP.rglob("*") if p.suffix in (".java", ".xml"))
    resources = Resources(RESOURCES, night=False, density=1, font_scale=1)
    names = {name for kind, name in resources.values if kind == "string"}
    unused = {n for n in names if not re.search(rf"(R\.string\.|@string/){n}\b", text)}
    assert unused == set()
    drawables = {path.stem for path in (RESOURCES / "drawable").glob("*.xml")}
    assert {d for d in drawables if not re.search(rf"(R\.drawable\.|@drawable/){d}\b", text)} == set()


def test_dark_colours_are_all_given() -> None:
    def colours(folder: str) -> set[str]:
        return set(re.findall(r'color name="(\w+)"', (RESOURCES / folder / "colors.xml").read_text("utf-8")))

    assert colours("values") == colours("values-night")


def test_the_pictures_in_the_documents_are_of_todays_screens() -> None:
    expected = {f"{name}.png" if look == "light" else f"{name}-{look}.png" for name, look in KEPT}
    assert {path.name for path in PICTURES.glob("*.png")} == expected
    from PIL import Image, ImageChops

    for name, look in KEPT:
        path = PICTURES / (f"{name}.png" if look == "light" else f"{name}-{look}.png")
        with Image.open(path) as kept:
            now = paint(render(name, LOOKS[look])).resize(kept.size, Image.Resampling.LANCZOS)
            difference = ImageChops.difference(now.convert("L"), kept.convert("L"))
        # 128 colours, and another release of Pillow, shift shades by a little; a moved word by far more.
        changed = sum(difference.histogram()[64:]) / (kept.width * kept.height)
        assert changed < 0.002, f"{path.name} is out of date: python -m tests.android.screens.gallery"


BAD = {
    "too small": '<ImageButton {ns} android:layout_width="20dp" android:layout_height="20dp" '
    'android:contentDescription="x" />',
    "has no contentDescription": '<ImageButton {ns} android:layout_width="48dp" android:layout_height="48dp" />',
    "neither a hint nor a label": '<EditText {ns} android:layout_width="99dp" android:layout_height="48dp" />',
    "does not fit": '<TextView {ns} android:layout_width="40dp" android:layout_height="wrap_content" '
    'android:textColor="#000000" android:text="unbreakable" />',
    "sticks out": '<FrameLayout {ns} android:layout_width="match_parent" android:layout_height="match_parent">'
    '<ImageView android:layout_width="900dp" android:layout_height="9dp" android:contentDescription="x" />'
    "</FrameLayout>",
    "contrast 1.6": '<TextView {ns} android:layout_width="90dp" android:layout_height="wrap_content" '
    'android:textColor="#CCCCCC" android:text="pale" />',
}


def bad_screen(folder: Path, xml: str) -> View:
    (folder / "layout").mkdir()
    (folder / "values").mkdir()
    ns = 'xmlns:android="http://schemas.android.com/apk/res/android"'
    size = 'android:layout_width="match_parent" android:layout_height="match_parent"'
    body = f"<LinearLayout {ns} {size}>{xml}</LinearLayout>"
    (folder / "layout/bad.xml").write_text(body.replace("{ns}", ""), "utf-8")
    return place(build(Resources(folder, night=False, density=1, font_scale=1), "bad"), 320, 500)


@pytest.mark.parametrize("fault", BAD)
def test_each_fault_is_found(fault: str, tmp_path: Path) -> None:
    screen = bad_screen(tmp_path, BAD[fault])
    found = faults(screen) + contrast_faults(screen)
    words = "for a finger" if fault == "too small" else fault
    assert len(found) == 1
    assert words in found[0]


def test_contrast_is_that_of_the_web_guidelines() -> None:
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((119, 119, 119), (255, 255, 255)) == pytest.approx(4.48, abs=0.01)


def test_text_is_broken_at_blanks_and_line_ends() -> None:
    face = roboto(False, 20)
    width = int(face.getlength("one two")) + 1
    assert wrap("one two three\nfour", face, width) == ["one two", "three", "four"]


def test_arcs_go_round_the_right_way() -> None:
    quarter = polylines("M0,10 A10,10 0 0 1 10,0")[0]
    assert quarter[-1] == pytest.approx((10, 0))
    assert all((x - 10) ** 2 + (y - 10) ** 2 == pytest.approx(100) for x, y in quarter)
