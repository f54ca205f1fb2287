"""The digest of the package's sources."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from qadapter.baselines.code_digest import code_digest


def package(folder: Path, **texts: str) -> Path:
    (folder / "part").mkdir(parents=True)
    for name, text in {"a.py": "x = 1\n", "part/b.py": "y = 2\n", "prompts.jsonl": "{}\n", **texts}.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_it_is_of_all_sources_and_of_nothing_else(tmp_path: Path) -> None:
    plain = code_digest(package(tmp_path / "plain"))
    assert code_digest(package(tmp_path / "elsewhere", **{"part/b.pyc": "compiled", "style.css": "x"})) == plain
    for number, change in enumerate([{"part/b.py": "y = 3\n"}, {"prompts.jsonl": "[]\n"}, {"part/c.py": ""}]):
        assert code_digest(package(tmp_path / str(number), **change)) != plain


def test_it_is_the_same_in_every_process() -> None:
    code = "from qadapter.baselines.code_digest import code_digest; print(code_digest())"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert printed == code_digest()
    assert len(printed) == 12
