"""The page: one file, nothing from elsewhere, and a policy under which only its own script and style run.

``docs/serve/page_check.mjs`` drives it in a browser.
"""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import httpx2 as httpx

from tests.runtime.serve.live_server import Running


class Tags(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_policy_admits_the_pages_own_script_and_style_alone(running: Running) -> None:
    response = httpx.get(running.url)
    policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
    for tag in ("script", "style"):
        bodies = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", response.text, re.DOTALL)
        hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}'" for body in bodies}
        assert len(bodies) == 1 and set(policy[f"{tag}-src"].split()) == hashes
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert "unsafe" not in str(policy)


def test_the_page_needs_nothing_from_elsewhere(running: Running) -> None:
    html = httpx.get(running.url).text
    assert not re.search(r"https?://|@import|url\(|innerHTML|insertAdjacentHTML|document\.write|eval\(", html)
    for tag, attributes in Tags(html).found:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert not {"src", "href", "style", "action"} & attributes.keys()
        assert not [name for name in attributes if name.startswith("on")]


def test_every_control_of_the_page_has_a_name(running: Running) -> None:
    found = Tags(httpx.get(running.url).text).found
    named = {attributes.get("for") for tag, attributes in found if tag == "label"}
    for tag, attributes in found:
        if tag in ("input", "select", "textarea") and "hidden" not in attributes:
            assert attributes["id"] in named
    assert dict(found)["html"] == {"lang": "en"}
    assert "viewport" in [attributes.get("name") for tag, attributes in found if tag == "meta"]
