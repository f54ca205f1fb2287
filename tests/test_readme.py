"""The README tells the truth: its figures come from result files, its example runs, its links and commands exist."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
from pathlib import Path

import pytest
from conftest import make_base

from qadapter.cli.config import parse_config
from qadapter.cli.run_arguments import TYPES
from qadapter.model import QConstants

ROOT = Path(__file__).parents[1]
FLAG = re.compile(r"--([a-z][a-z0-9-]+)")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_measured_part_is_what_the_script_writes() -> None:
    spec = importlib.util.spec_from_file_location("readme_results", ROOT / "examples" / "readme_results.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    part = README.partition(script.START)[2].partition(script.END)[0].strip()
    assert part == script.measured().strip(), "run: python examples/readme_results.py"


def test_the_python_example_runs(tmp_path: Path, tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    make_base().save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    row = {
        "prompt": [{"role": "user", "content": "wa wb"}],
        "chosen": [{"role": "assistant", "content": "wc"}],
        "rejected": [{"role": "assistant", "content": "wd we"}],
    }
    (tmp_path / "pairs.jsonl").write_text((json.dumps(row) + "\n") * 4)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    code = code.replace("HuggingFaceTB/SmolLM2-135M-Instruct", "base").replace("max_new_tokens=80", "max_new_tokens=4")
    assert "base" in code
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "runs" / "mine" / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    "name", ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
)
def test_links_exist(name: str) -> None:
    page = ROOT / name
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{name} links to {target}"


def test_named_tests_exist() -> None:
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    for name in re.findall(r"`(test_\w+)`", (ROOT / "docs" / "official-code.md").read_text(encoding="utf-8")):
        assert f"def {name}(" in tests, name


def test_the_flags_for_those_who_come_from_trl() -> None:
    page = (ROOT / "docs" / "from-trl.md").read_text(encoding="utf-8")
    known = {entry.name for one in TYPES for entry in dataclasses.fields(one)}
    ours = [flag for row in re.findall(r"^\|.*?\|(.*?)\|", page, flags=re.MULTILINE) for flag in FLAG.findall(row)]
    assert len(ours) > 10
    assert {flag.replace("-", "_") for flag in ours} <= known
    (dpo,) = re.findall(r"special case.*?`(--alpha-0.*?)`", page, flags=re.DOTALL)
    run, training = parse_config(TYPES, ["--train-file", "x", "--output-dir", "y", *dpo.split()])
    assert run.train_file == "x"
    assert training.anchors == 0
    without_anchors = dataclasses.replace(training.constants, anchor_coef=0.0)
    assert without_anchors == QConstants("residual", alpha_0=0.1, alpha_tilde=0.1, gamma=1.0, chi2_coef=0.0)
