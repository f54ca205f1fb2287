"""A comparison on a tiny random chat model, trained within this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from conftest import make_base, randomize_adapter
from transformers import PreTrainedTokenizerBase

from qadapter import __version__
from qadapter.baselines import TrainingFacts, TrainingJob, base_policy, run_job
from qadapter.baselines.code_digest import code_digest
from qadapter.baselines.library_versions import library_versions
from qadapter.compare import decode_time, running
from qadapter.model import load_base_tokenizer

WORDS = ["wa", "wb", "wc", "wd", "we", "wf", "wg", "wh"]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerBase) -> Path:
    """A folder with a tiny base, pairs, neutral prompts and a checker module."""
    folder = tmp_path_factory.mktemp("compare")
    make_base().save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    rows = [
        {
            "prompt": [{"role": "user", "content": f"{WORDS[i]} {WORDS[(3 * i + 1) % 8]}"}],
            "chosen": [{"role": "assistant", "content": f"va {WORDS[i]}"}],
            "rejected": [{"role": "assistant", "content": f"vb {WORDS[i]} {WORDS[i]}"}],
        }
        for i in range(8)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "neutral.jsonl").write_text('{"prompt": "wa wb"}\n{"prompt": "wc", "kind": "document"}\n')
    (folder / "tiny_checker.py").write_text(
        "def odd(text):\n    return len(text) % 2 == 1\n\n"
        "def picky(text):\n    number = sum(map(ord, text))\n"
        "    if number % 3 == 0:\n        raise ValueError('no')\n    return number % 7 / 6\n"
    )
    return folder


@pytest.fixture
def values(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """The content of a config file; the answers of a tiny model hardly end, so no judge but the margin is asked."""
    monkeypatch.syspath_prepend(str(files))
    monkeypatch.setattr(decode_time, "_NEW_TOKENS", 2)

    def make(**overrides: Any) -> dict[str, Any]:
        return {
            "model": str(files / "base"), "dtype": "float32", "use_cpu": True, "max_length": 32,
            "train_file": str(files / "pairs.jsonl"), "eval_file": str(files / "pairs.jsonl"),
            "neutral_file": str(files / "neutral.jsonl"), "output_dir": str(tmp_path / "out"),
            "per_device_train_batch_size": 4, "max_prompts": 3, "max_new_tokens": 3,
            "checker": ["tiny_checker:odd"], "frontier_y": "logp_margin",
            "methods": {
                "ours <b>": {"method": "qadapter", "learning_rate": 0.02, "anchors": 4},
                "DPO": {"method": "dpo", "learning_rate": [1e-5, 0.02]},
            },
            **overrides,
        }  # fmt: skip

    return make


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[TrainingJob]:
    """The jobs that were trained; each in this process instead of in one of its own."""
    return _replace_training(monkeypatch, run_job)


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> list[TrainingJob]:
    """The jobs that would have been trained; their adapters are random, another one for every job."""

    def pretend(job: TrainingJob) -> TrainingFacts:
        model = base_policy(job.common)
        given = sorted(job.hyperparameters.items())
        randomize_adapter(model, seed=crc32(repr((job.method, given, job.seed, job.label_noise)).encode()), std=0.2)
        model.save_pretrained(job.output_dir, tokenizer=load_base_tokenizer(job.common.model))
        return TrainingFacts(
            {"training": 2.0}, 8, 100, 400, 10**9, "process", [f"{job.method} leaves out 1 prompt"],
            __version__, code_digest(), library_versions(),
        )  # fmt: skip

    return _replace_training(monkeypatch, pretend)


def _replace_training(
    monkeypatch: pytest.MonkeyPatch, train: Callable[[TrainingJob], TrainingFacts]
) -> list[TrainingJob]:
    jobs: list[TrainingJob] = []

    def run(job: TrainingJob, log_file: Path) -> TrainingFacts:
        jobs.append(job)
        log_file.write_text("")
        return train(job)

    monkeypatch.setattr(running, "run_in_process", run)
    return jobs
