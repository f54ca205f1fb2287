"""Q-Adapter itself, with the arguments of the comparison."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..data import Anchor, read_anchors, write_anchors
from ..model import QConstants
from ..train import PRESETS, QAdapterTrainer, QAdapterTrainingArguments, sample_anchors
from ..train.arguments import check_anchors
from ..train.memory import release_memory
from .arguments import CommonArguments
from .content import content_of_base
from .method import Hyperparameter, Method, Run, Trained, optimization, trained_parameters
from .policy import base_policy, plain_base
from .shared_file import digest_of, made_once
from .trl_run import trainer_arguments

_ANCHORS, _SECONDS = "anchors.jsonl", "seconds.json"


def train_qadapter(run: Run) -> Trained:
    """`QAdapterTrainer` with a preset and what is said beside it; the LoRA is the common one."""
    args = qadapter_arguments(run)
    anchors, seconds = _anchors(run, args.anchors)
    trainer = QAdapterTrainer(
        plain_base(run.common),
        args,
        train_dataset=run.pairs,
        processing_class=run.tokenizer,
        peft_config=run.common.lora_config,
        anchors=anchors,
    )
    started = time.monotonic()
    trainer.train()
    rows = trainer.train_dataset
    pairs = (list(rows["anchor"]).count(False) if anchors else len(rows)) * args.num_train_epochs
    seconds["training"] = time.monotonic() - started
    return Trained(trainer.model, seconds, round(pairs), trained_parameters(trainer.model))


def _anchors(run: Run, count: int | None) -> tuple[list[Anchor], dict[str, float]]:
    """The base's own answers, sampled once for all runs with the same base and seed; and the seconds that this took."""
    if not count:
        return [], {}
    common = run.common
    inputs = ["anchors", *content_of_base(common), common.max_length, count, run.seed]

    def make(folder: Path) -> None:
        model = base_policy(run.common)
        if torch.cuda.is_available() and not run.common.use_cpu:
            model.to("cuda")
        started = time.monotonic()
        anchors = sample_anchors(model, run.tokenizer, count, max_length=run.common.max_length, seed=run.seed)
        folder.mkdir()
        write_anchors(folder / _ANCHORS, anchors)
        (folder / _SECONDS).write_text(json.dumps(time.monotonic() - started), encoding="utf-8")
        del model  # it lies in a cycle, and the training loads another one
        release_memory()

    folder = made_once(run.shared_dir / f"anchors-{digest_of(inputs)}", make)
    seconds = json.loads((folder / _SECONDS).read_text(encoding="utf-8"))
    return read_anchors(folder / _ANCHORS), {"anchors": seconds}


def qadapter_arguments(run: Run) -> QAdapterTrainingArguments:
    """The arguments of our trainer. Raises `ConfigError` for constants that make no sense."""
    own = {name: value for name, value in run.hyperparameters.items() if value is not None}
    return QAdapterTrainingArguments(
        **{**own, **trainer_arguments(run)},
        max_length=run.common.max_length,
        on_bad_row=run.common.on_bad_row,
    )


def constants_of(hyperparameters: Mapping[str, Any]) -> QConstants:
    """The constants that the hyperparameters of `qadapter` come to, without any training arguments.

    Raises:
        ConfigError: they make no sense.
    """
    values = resolved(hyperparameters)
    return QConstants(**{name: values[name] for name in QConstants.__dataclass_fields__})


def resolved(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters with the values of their preset where they have none."""
    preset = PRESETS[hyperparameters["preset"]]
    return {name: preset.get(name) if value is None else value for name, value in hyperparameters.items()}


def _constants() -> dict[str, Hyperparameter]:
    """One hyperparameter for each constant of the method and for the anchors, as the training arguments say it."""
    kinds = {field.name: type(field.default) for field in dataclasses.fields(QConstants)} | {"anchors": int}
    fields = {field.name: field for field in dataclasses.fields(QAdapterTrainingArguments)}
    return {name: Hyperparameter(_meaning(fields[name]), kind=kind) for name, kind in kinds.items()}


def _meaning(field: dataclasses.Field[Any]) -> str:
    return str(field.metadata["help"])


def _check_constants(_common: CommonArguments, hyperparameters: Mapping[str, Any]) -> None:
    constants_of(hyperparameters)
    values = resolved(hyperparameters)
    check_anchors(values["anchors"], values["anchor_coef"])


QADAPTER = Method(
    "Q-Adapter: a residual Q-function on the frozen base",
    train_qadapter,
    optimization(None) | {"preset": Hyperparameter("named constants", "default", str, tuple(PRESETS))} | _constants(),
    resolved=resolved,
    check=_check_constants,
)
