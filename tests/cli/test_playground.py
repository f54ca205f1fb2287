"""`qadapter playground`: serve, and the page in the browser."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from qadapter.cli import serve
from qadapter.cli.main import main


def test_it_opens_the_page_and_serves_it(trained: Path, tmp_path: Path) -> None:
    """The browser is a program that fetches the page, and writes down the address and what it got."""
    seen = tmp_path / "seen"
    program = tmp_path / "browser.py"
    program.write_text(
        "import sys, urllib.request\n"
        "page = urllib.request.urlopen(sys.argv[1], timeout=60).read().decode()\n"
        f"open({str(seen)!r}, 'w').write(sys.argv[1] + '\\n' + page)\n"
        "print('seen', file=sys.stderr)\n"
    )
    command = [sys.executable, "-m", "qadapter", "playground", str(trained), "--port", "0", "--dtype", "float32"]
    environment = {**os.environ, "BROWSER": f"{sys.executable} {program} %s"}
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert server.stderr is not None
    try:
        said = []
        for line in server.stderr:
            said.append(line)
            if line == "seen\n":
                break
        assert seen.exists(), said
        url, page = seen.read_text().split("\n", 1)
        assert url.startswith("http://127.0.0.1:")
        assert "<title>qadapter playground" in page
        with urllib.request.urlopen(f"{url}v1/models", timeout=30) as response:
            assert response.status == 200
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
        assert "Traceback" not in server.stderr.read()
    finally:
        server.kill()


@pytest.mark.parametrize("flags", [[], ["--no-browser"]])
def test_the_browser_may_stay_closed(flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Callable[[str], None] | None] = []

    def run(args: argparse.Namespace, when_listening: Callable[[str], None] | None) -> int:
        assert args.host == "127.0.0.1"
        told.append(when_listening)
        return 0

    monkeypatch.setattr(serve, "run", run)
    assert main(["playground", "DIR", *flags]) == 0
    assert [opens is None for opens in told] == [bool(flags)]
