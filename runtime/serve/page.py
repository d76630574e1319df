"""The page at ``/``: one file; a browser may run only its own script and style."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from starlette.responses import HTMLResponse, Response


@cache
def page() -> tuple[str, str]:
    """Return the page and its content security policy."""
    html = (files(__package__) / "page.html").read_text("utf-8")
    policy = (
        "default-src 'none'; "
        f"script-src {_hashes(html, 'script')}; style-src {_hashes(html, 'style')}; "
        "img-src data: blob:; media-src data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return html, policy


def page_response() -> Response:
    """Return the page with its policy as a response."""
    html, policy = page()
    return HTMLResponse(html, headers={"content-security-policy": policy})


def _hashes(html: str, tag: str) -> str:
    bodies = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() for body in bodies)
    return " ".join(f"'sha256-{digest}'" for digest in digests)
