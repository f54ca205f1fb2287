"""A folder counts by what it holds: what several runs share is made anew for another base in the same place."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from qadapter.baselines import TrainingJob, run_job
from qadapter.baselines.content import content_of
from qadapter.baselines.training_pairs import content_of_pairs, training_pairs
from qadapter.errors import DataError


def test_a_folder_is_the_content_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for file in ("a", "sub/b"):
        (tmp_path / file).write_bytes(b"12")
    before = content_of(str(tmp_path))
    assert set(before) == {"a", "sub/b"}
    assert before["a"] == before["sub/b"] == content_of(str(tmp_path / "a"))
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "FETCH_HEAD").write_bytes(b"1")
    assert content_of(str(tmp_path)) == before, "a download's own notes"
    (tmp_path / "sub" / "b").write_bytes(b"34")
    assert content_of(str(tmp_path)) != before
    assert content_of(["org/model", 3, None, ""]) == ["org/model", 3, None, ""]


@pytest.mark.parametrize(
    ("method", "hyperparameters", "shared"),
    [
        ("qadapter", {"anchors": 4}, "anchors-*"),
        ("replay", {"replay_max_new_tokens": 5}, "replay-*.json"),
        ("rloo", {"num_generations": 2, "max_completion_length": 4}, "reward-*"),
    ],
)
def test_what_runs_share_is_of_one_base(
    make_job: Callable[..., TrainingJob],
    tmp_path: Path,
    tiny_files: tuple[Path, Path],
    method: str,
    hyperparameters: dict[str, Any],
    shared: str,
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_files[0], base)
    for number, sign in enumerate((1, 1, -1)):
        weights = {name: sign * tensor for name, tensor in load_file(base / "model.safetensors").items()}
        save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
        output = tmp_path / "runs" / str(number)
        run_job(make_job(method, hyperparameters, model=str(base), output_dir=str(output), max_length=64))
        assert len(list((tmp_path / "runs").glob(shared))) == (1 if sign == 1 else 2)


def test_pairs_that_changed_since_they_were_planned(make_job: Callable[..., TrainingJob], tmp_path: Path) -> None:
    job = make_job("dpo")
    lines = Path(job.common.train_file).read_text().splitlines(keepends=True)
    file = tmp_path / "live.jsonl"
    file.write_text("".join(lines))
    common = dataclasses.replace(job.common, train_file=str(file))
    planned = content_of_pairs(training_pairs(common, label_noise=0.0, seed=0))
    file.write_text("".join(lines[:-1]))
    with pytest.raises(DataError, match=r"live\.jsonl has changed since this run was planned"):
        run_job(dataclasses.replace(job, common=common, pairs=planned))
    assert not list(Path(job.output_dir).rglob("*.safetensors"))
    file.write_text("".join(lines))
    assert run_job(dataclasses.replace(job, common=common, pairs=planned)).pairs
