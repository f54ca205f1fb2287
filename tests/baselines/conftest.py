"""A job on a tiny random chat model and a handful of pairs, for every method."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import make_base
from transformers import PreTrainedTokenizerBase

from qadapter.baselines import CommonArguments, TrainingJob

WORDS = ["wa", "wb", "wc", "wd", "we", "wf", "wg", "wh"]


def make_rows(count: int) -> list[dict[str, Any]]:
    """Conversational pairs of unequal lengths: `va` is chosen over `vb`."""
    return [
        {
            "prompt": [{"role": "user", "content": " ".join(WORDS[: 1 + i % 5])}],
            "chosen": [{"role": "assistant", "content": " ".join(["va", WORDS[i % 8], *WORDS[: i % 3]])}],
            "rejected": [{"role": "assistant", "content": " ".join(["vb", WORDS[i % 8]])}],
        }
        for i in range(count)
    ]


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerBase) -> tuple[Path, Path]:
    """The folder of a tiny base with its tokenizer, and a file of ten pairs."""
    folder = tmp_path_factory.mktemp("baselines")
    make_base().save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in make_rows(10)), encoding="utf-8")
    return folder / "base", folder / "pairs.jsonl"


@pytest.fixture
def make_job(tiny_files: tuple[Path, Path], tmp_path: Path) -> Callable[..., TrainingJob]:
    def make(method: str, hyperparameters: dict[str, Any] | None = None, **overrides: Any) -> TrainingJob:
        base, pairs = tiny_files
        fields = {"seed": 0, "label_noise": 0.0, "output_dir": str(tmp_path / method)}
        fields |= {name: overrides.pop(name) for name in list(overrides) if name in fields}
        common = {
            "model": str(base), "dtype": "float32", "train_file": str(pairs), "max_length": 32,
            "per_device_train_batch_size": 4, "use_cpu": True,
        }  # fmt: skip
        return TrainingJob(method, hyperparameters or {}, CommonArguments(**{**common, **overrides}), **fields)

    return make
