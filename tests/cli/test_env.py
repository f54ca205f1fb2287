from __future__ import annotations

import json
from importlib.metadata import version

import pytest

from qadapter import __version__
from qadapter.cli import env
from qadapter.cli.main import main


def test_lines_for_a_bug_report(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env, "_OPTIONAL", ("no-such-package",))
    assert main(["env"]) == 0
    lines = {line.partition(":")[0]: line.partition(":")[2].strip() for line in capsys.readouterr().out.splitlines()}
    assert lines["qadapter"] == __version__
    assert lines["torch"] == version("torch")
    assert lines["no-such-package"] == "not installed"
    assert {"python", "transformers", "peft", "datasets", "os", "cpu", "cores", "memory", "cuda"} <= lines.keys()
    assert all(lines.values())


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["safetensors"] == version("safetensors")
    assert found["cores"] >= 1
    assert isinstance(found["cuda"], list)
