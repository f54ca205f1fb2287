"""One training job: from a method's name and a file of pairs to a folder and a few facts."""

from __future__ import annotations

import logging
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..errors import DataError
from ..model.loading import load_base_config
from ..model.positions import positions_of
from ..train import usable_pairs
from ..train.token_rows import refuse_pairs_beyond_positions
from .arguments import CommonArguments
from .code_digest import code_digest
from .library_versions import library_versions
from .method import Run
from .registry import check_job, method_of
from .training_pairs import content_of_pairs, training_pairs


@dataclass(frozen=True)
class TrainingJob:
    """All that determines a training run, and where its result goes."""

    method: str
    """A name in `METHODS`."""
    hyperparameters: dict[str, Any]
    """Those that are not at their defaults."""
    common: CommonArguments
    output_dir: str
    """Receives the artifact, or the reward model."""
    seed: int = 0
    label_noise: float = 0.0
    """Share of the training pairs whose chosen and rejected are swapped."""
    pairs: dict[str, Any] | None = None
    """`content_of_pairs` of the training pairs as they were planned; None takes them as they are."""

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> TrainingJob:
        """From what `dataclasses.asdict` made of it."""
        return cls(**{**value, "common": CommonArguments(**value["common"])})


@dataclass(frozen=True)
class TrainingFacts:
    """What a training job cost."""

    seconds: dict[str, float]
    """By part of the method: training, and what it needs before (answers of the base, a reward model)."""
    pairs: int
    """Pairs seen, over all epochs."""
    trained_parameters: int
    adapter_bytes: int
    """Of the weights that were saved: the LoRA, or the whole reward model."""
    peak_memory_bytes: int
    peak_memory_of: str
    """What that is a peak of: the tensors on the GPU, or the process."""
    warnings: list[str]
    """What was said of the data: responses cut, prompts left out, ..."""
    qadapter_version: str
    """Of the process that did it, which may have loaded another one than the process that asked for it."""
    code: str
    """The same, as a digest of the sources."""
    libraries: dict[str, str]
    """Name → version of what it trained with (see `library_versions`)."""


class _Warnings(logging.Handler):
    """Keeps the texts of warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def run_job(job: TrainingJob) -> TrainingFacts:
    """Train, save, and say what it cost.

    The peak counts from here on a GPU, what its tensors hold already included; that of a process includes all that it
    did before.

    Raises:
        QAdapterError: a method, data or a model that cannot be used.
    """
    # Before anything slow: by its end other code may lie where this one was loaded from.
    code, libraries = code_digest(), library_versions()
    method, output_dir = method_of(job.method), Path(job.output_dir)
    hyperparameters = check_job(job.method, job.hyperparameters, job.common)
    tokenizer = job.common.tokenizer()
    common = job.common
    if torch.cuda.is_initialized():
        # Without tensors so far there is no peak to forget.
        torch.cuda.reset_peak_memory_stats()
    pairs = training_pairs(common, label_noise=job.label_noise, seed=job.seed)
    if job.pairs is not None and content_of_pairs(pairs) != job.pairs:
        raise DataError(
            f"{common.train_file} has changed since this run was planned: its result would stand for other pairs.",
            hint="start again: what is finished stays, what the change concerns is trained anew",
        )
    warnings, package = _Warnings(), logging.getLogger("qadapter")
    package.addHandler(warnings)
    try:
        pairs = usable_pairs(pairs, tokenizer, max_length=common.max_length, on_bad_row=common.on_bad_row)
        # For every method alike: TRL's trainers go on beyond them.
        positions = positions_of(load_base_config(common.model, revision=common.revision))
        refuse_pairs_beyond_positions(pairs, tokenizer, max_length=common.max_length, positions=positions)
        run = Run(pairs, tokenizer, common, hyperparameters, job.seed, output_dir, output_dir.parent)
        trained = method.train(run)
    finally:
        package.removeHandler(warnings)
    memory, memory_of = peak_memory()
    if method.makes_policy:
        trained.model.save_pretrained(output_dir, tokenizer=tokenizer)
    else:
        trained.model.save_pretrained(output_dir)
        tokenizer.save_pretrained(output_dir)
    return TrainingFacts(
        seconds=trained.seconds,
        pairs=trained.pairs,
        trained_parameters=trained.parameters,
        adapter_bytes=sum(path.stat().st_size for path in output_dir.rglob("*.safetensors")),
        peak_memory_bytes=memory,
        peak_memory_of=memory_of,
        warnings=warnings.texts,
        qadapter_version=__version__,
        code=code,
        libraries=libraries,
    )


def peak_memory() -> tuple[int, str]:
    """The most bytes held at a time, and by what: tensors on the GPU where there is one, else this process."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated(), "tensors on the GPU"
    status = Path("/proc/self/status")
    if status.is_file():
        # ru_maxrss of a process starts at the size of the process that started it.
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines() if ":" in line)
        return int(lines["VmHWM"].split()[0]) * 1024, "process"
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "process"
