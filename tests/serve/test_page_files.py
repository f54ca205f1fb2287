"""The page's files and their headers: nothing from elsewhere, and nothing that could bring a model's text to life."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

import qadapter.serve

STATIC = Path(qadapter.serve.__file__).parent / "static"
FILES = sorted(STATIC.iterdir())
# An SVG's name space is a name, not a place.
NAMES = {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_names_a_foreign_host(path: Path) -> None:
    found = re.findall(r"""(?:[a-z]+:)?//[^\s"'`)>]+\.[^\s"'`)>]+""", path.read_text(encoding="utf-8"))
    assert set(found) <= NAMES


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".js"], ids=lambda path: path.name)
def test_text_cannot_become_markup_or_script(path: Path) -> None:
    ways = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|setHTML|DOMParser"
    assert not re.findall(ways, path.read_text(encoding="utf-8"))


def test_what_files_name_is_there() -> None:
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    named = set(re.findall(r'(?:src|href)="static/([^"]+)"', page))
    for path in STATIC.glob("*.js"):
        named |= set(re.findall(r'from "\./([^"]+)"', path.read_text(encoding="utf-8")))
    assert named == {path.name for path in FILES} - {"index.html"}


@pytest.mark.parametrize("path", ["", "static/index.html", "static/main.js"])
def test_the_page_is_kept_to_itself(api: tuple[str, Any], path: str) -> None:
    headers = httpx.get(f"{api[0]}/{path}").headers
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy.pop("default-src") == "'none'"
    assert set(policy.values()) <= {"'self'", "'none'"}
    assert policy["script-src"] == "'self'"
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_a_file_that_is_not_there_is_404(api: tuple[str, Any]) -> None:
    for path in ("nothing.js", "../app.py", "%2e%2e/metrics.py"):
        response = httpx.get(f"{api[0]}/static/{path}")
        assert response.status_code == 404
        assert response.json()["error"]["type"] == "invalid_request_error"
