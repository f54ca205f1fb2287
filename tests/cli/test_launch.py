"""`qadapter train --launch`: two processes, one of which is killed; wrong configs; what the configs in recipes say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from safetensors.torch import load_file

from qadapter.cli import launch as launching
from qadapter.cli.main import main

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes" / "accelerate"
WEIGHTS = Path("adapter") / "adapter_model.safetensors"
# In process 1, as soon as the second checkpoint is complete.
KILL = """
import os, signal, threading, time

KILL_AFTER = {!r}

def wait():
    while not os.path.isfile(KILL_AFTER):
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)

if os.environ.get("LOCAL_RANK") == "1":
    threading.Thread(target=wait, daemon=True).start()
"""


def test_a_killed_process_ends_the_run_with_one_error_and_the_run_goes_on(
    tiny_base: Path, pairs_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    flags = ["--model", str(tiny_base), "--train-file", str(pairs_file), "--dtype", "float32", "--use-cpu"]
    flags += ["--max-length", "64", "--pairs-per-step", "24", "--max-steps", "12", "--save-steps", "2"]
    # SGD: AdamW makes a full step of the rounding where a gradient is zero.
    flags += ["--logging-steps", "1", "--optim", "sgd", "--learning-rate", "0.03", "--save-total-limit", "10"]
    flags += ["--anchors", "0"]
    assert main(["train", *flags, "--output-dir", str(whole), "--per-device-train-batch-size", "24"]) == 0

    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(KILL.format(str(out / "checkpoint-4" / "trainer_state.json")))
    path = [str(tmp_path / "site"), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    launched = ["--launch", str(RECIPES / "ddp.yaml"), "--num-processes", "2"]
    command = ["train", *flags, "--output-dir", str(out), "--per-device-train-batch-size", "1", *launched]
    result = subprocess.run(
        [sys.executable, "-m", "qadapter", *command], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if "rror" in line]
    killed = "error: process 1 was ended by SIGKILL (by the system where memory runs out); the others were stopped."
    assert errors == [killed], result.stderr
    latest = max(int(path.name.partition("-")[2]) for path in out.glob("checkpoint-*"))
    assert 4 <= latest < 12
    resume = f"qadapter train --output-dir {out} --resume"
    assert f"hint: continue from checkpoint-{latest} with: {resume} --launch {launched[1]} --num-processes 2" in (
        result.stderr
    )
    assert not (out / "qadapter_config.json").exists()

    capsys.readouterr()
    assert main([*resume.split()[1:], "--per-device-train-batch-size", "12"]) == 0
    ours, theirs = load_file(out / WEIGHTS), load_file(whole / WEIGHTS)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-5)
    logs = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (out, whole)]
    for mine, other in zip(*([line for line in log if "loss" in line] for log in logs), strict=True):
        assert mine["step"] == other["step"]
        assert mine["loss"] == pytest.approx(other["loss"], abs=1e-5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no such file"),
        ("- 1\n", "is not a config of accelerate"),
        ("distributed_type: MULTI_GPU\nnum_proceses: 2\n", "num_proceses"),
        ("distributed_type: [\n", "is not a config of accelerate"),
        ("distributed_type: MULTI_CATS\n", "MULTI_CATS"),
        ("distributed_type: 'NO'\n", "distributed_type NO: one process, which needs no launcher"),
        ("distributed_type: MULTI_CPU\n", "distributed_type MULTI_CPU: one process"),
    ],
)
def test_a_wrong_config_is_refused(
    text: str | None, said: str, pairs_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(launching, "launch_command", lambda args: pytest.fail("processes were started"))
    config = tmp_path / "config.yaml"
    if text is not None:
        config.write_text(text)
    argv = ["train", "--train-file", str(pairs_file), "--output-dir", str(tmp_path / "out"), "--launch", str(config)]
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "hint:" in error
    assert "recipes/accelerate" in error


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["train", "--train-file", "x.jsonl", "--output-dir", "out", *argv]) == 2
    return capsys.readouterr().err


def test_what_accelerate_would_leave_out_in_silence_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(["--launch", str(RECIPES / "fsdp2.yaml"), "--use-cpu"], capsys)
    assert "asks for FSDP, which accelerate leaves out in silence on a CPU" in error


def test_deepspeed_is_an_extra(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching.importlib.util, "find_spec", lambda name: None)
    error = refused(["--launch", str(RECIPES / "zero2.yaml")], capsys)
    assert "needs the package 'deepspeed'" in error
    assert "pip install -e '.[deepspeed]'" in error


def test_a_number_of_processes_needs_a_launch(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--num-processes is for --launch" in refused(["--num-processes", "2"], capsys)


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero2", "zero3"])
def test_the_configs_are_accelerates(name: str) -> None:
    """Read and completed as `accelerate launch` does it."""
    path = RECIPES / f"{name}.yaml"
    load_config_from_file(str(path))
    args = launch_command_parser().parse_args(["--config_file", str(path), "--module", "qadapter", "train"])
    args, _, _ = _validate_launch_command(args)
    assert args.num_processes == 8
    assert args.mixed_precision == "no"
    assert (args.multi_gpu, args.use_fsdp, args.use_deepspeed) == (
        (name == "ddp"), (name == "fsdp2"), name.startswith("zero")
    )  # fmt: skip
    if name == "fsdp2":
        assert args.fsdp_version == 2
    if name.startswith("zero"):
        assert args.zero_stage == int(name[-1])
