"""`qadapter compare` from its config file to its reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qadapter.baselines import TrainingFacts, TrainingJob, checked_hyperparameters, run_job
from qadapter.cli.config import build, read_yaml
from qadapter.cli.main import main
from qadapter.compare import TYPES, running
from qadapter.compare.methods import lines_of
from qadapter.demo.run import _training_defaults

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def config(tiny_base: Path, pairs_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def run(job: TrainingJob, log_file: Path) -> TrainingFacts:
        return run_job(job)

    monkeypatch.setattr(running, "run_in_process", run)
    neutral = tmp_path / "neutral.jsonl"
    neutral.write_text('{"prompt": "Is the cat here?"}\n')
    path = tmp_path / "compare.yaml"
    path.write_text(
        f"""
model: {tiny_base}
train_file: {pairs_file}
eval_file: {pairs_file}
neutral_file: {neutral}
dtype: float32
use_cpu: true
max_length: 64
train_pairs: 8
methods:
  SFT: {{method: sft, learning_rate: 1e-3}}
  ours: {{method: qadapter}}
strengths: [1]
"""
    )
    return path


def test_the_files_it_writes(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["compare", "--config", str(config), "--output-dir", str(tmp_path / "out")]
    assert main(argv) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("[1/7] measure the base")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [line["hyperparameters"] for line in results["lines"]] == [{"learning_rate": 0.001}, {}]
    for name in ("report.html", "frontier.png", "results.md"):
        (tmp_path / "out" / name).unlink()
    assert main([*argv, "--report-only"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")][4].count("done before") == 1
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("strengths", "strenghts", "unknown key 'strenghts' (did you mean 'strengths'?)"),
        ("method: sft", "method: stf", "methods: SFT: unknown method 'stf' (did you mean 'sft'?)"),
        ("learning_rate", "learning-rate", "hyperparameter 'learning-rate' (did you mean 'learning_rate'?)"),
        ("1e-3", "fast", "learning_rate of sft must be of type float, got 'fast'"),
        ("max_length: 64", "max_length: long", "max_length must be an integer, got 'long'"),
        ("use_cpu", "output_dir: x\nuse_cpu", ""),
    ],
    ids=str,
)
def test_wrong_configs(
    config: Path, before: str, after: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(config.read_text().replace(before, after))
    assert main(["compare", "--config", str(config), "--output-dir", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_ctrl_c_says_how_to_go_on(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "measure_policy", interrupt)
    assert main(["compare", "--config", str(config), "--output-dir", str(tmp_path / "out")]) == 130
    assert "interrupted; the same command goes on with what is not finished" in capsys.readouterr().err


def test_an_output_dir_is_needed(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--config", str(config)]) == 2
    assert "output_dir is required\nhint: name it in the config file or with --output-dir" in capsys.readouterr().err


def test_the_demo_recipe_is_valid() -> None:
    arguments, common, evaluation, judging = build(TYPES, read_yaml(RECIPES / "compare_demo.yaml", TYPES))
    lines = lines_of(arguments, common)
    assert [(line.label, line.method) for line in lines] == [("Q-Adapter", "qadapter"), ("DPO", "dpo")]
    (ours,) = lines[0].candidates
    demo = _training_defaults(Path("runs"))
    constants = checked_hyperparameters("qadapter", {}).keys() & demo.keys()
    assert ours == {name: demo[name] for name in constants}, "the demo's own constants"
    assert len(arguments.dials) == 1
    assert common.max_length == evaluation.max_length
    assert judging.checker == ["qadapter.demo.checker:brief_with_follow_up"]
    for file in (common.train_file, arguments.eval_file):
        assert (RECIPES.parent / file).is_file()
