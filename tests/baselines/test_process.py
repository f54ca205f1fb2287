"""A job in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import qadapter
from qadapter import QAdapterForCausalLM
from qadapter.baselines import TrainingJob, run_in_process
from qadapter.baselines.code_digest import code_digest
from qadapter.errors import QAdapterError


def test_a_job_survives_json(make_job: Callable[..., TrainingJob]) -> None:
    job = make_job("dpo", {"beta": 0.2}, lora_target_modules=["q_proj"], label_noise=0.1)
    assert TrainingJob.from_json(json.loads(json.dumps(dataclasses.asdict(job)))) == job


def test_its_result_and_its_failure(make_job: Callable[..., TrainingJob], tmp_path: Path) -> None:
    job = make_job("sft")
    facts = run_in_process(job, tmp_path / "train.log")
    assert facts.pairs == 10
    assert facts.peak_memory_of == "process"
    assert 100e6 < facts.peak_memory_bytes < 5e9
    QAdapterForCausalLM.from_pretrained(job.output_dir)


def test_the_code_is_that_of_the_process_that_trained(
    make_job: Callable[..., TrainingJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comparison that runs for days starts its last trainings with whatever has been installed meanwhile."""
    here = Path(qadapter.__file__).parent
    installed = shutil.copytree(here, tmp_path / "qadapter", ignore=shutil.ignore_patterns("__pycache__"))
    with (installed / "__init__.py").open("a") as file:
        file.write('\n__version__ = "9.9"\n')
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    facts = run_in_process(make_job("sft"), tmp_path / "train.log")
    assert facts.code == code_digest(installed) != code_digest()
    assert facts.qadapter_version == "9.9"


def test_a_failure_shows_the_end_of_the_log(
    make_job: Callable[..., TrainingJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, python = make_job("sft"), tmp_path / "python"
    python.write_text("#!/bin/sh\nfor i in $(seq 40); do echo line $i; done\necho 'error: no room' >&2\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    Path(job.output_dir).mkdir()
    (Path(job.output_dir) / "training_facts.json").write_text("{}")
    with pytest.raises(QAdapterError, match=r"training sft failed \(exit status 3\):\nline 27\n") as failure:
        run_in_process(job, tmp_path / "train.log")
    assert str(failure.value).endswith(
        f"line 40\nerror: no room\nhint: all of its output is in {tmp_path / 'train.log'}"
    )
    assert not (Path(job.output_dir) / "training_facts.json").exists(), "those of an earlier run are not its own"


def test_it_stops_with_its_parent(make_job: Callable[..., TrainingJob]) -> None:
    """The end of the standard input is all that a child sees of a parent that was killed."""
    job = make_job("sft", num_train_epochs=100000.0)
    text = json.dumps(dataclasses.asdict(job)).encode() + b"\n"
    child = subprocess.run([sys.executable, "-m", "qadapter.baselines"], input=text, capture_output=True, check=False)
    assert child.returncode == 1
    assert child.stderr.count(b"Traceback") == 0
