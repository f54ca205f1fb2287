"""Q-Adapter itself, with the arguments of the comparison."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

from ..model import QConstants
from ..train import PRESETS, QAdapterTrainer, QAdapterTrainingArguments
from .arguments import CommonArguments
from .method import Hyperparameter, Method, Run, Trained, optimization, trained_parameters
from .policy import plain_base
from .trl_run import trainer_arguments


def train_qadapter(run: Run) -> Trained:
    """`QAdapterTrainer` with a preset and what is said beside it; the LoRA is the common one."""
    args = qadapter_arguments(run)
    trainer = QAdapterTrainer(
        plain_base(run.common),
        args,
        train_dataset=run.pairs,
        processing_class=run.tokenizer,
        peft_config=run.common.lora_config,
    )
    started = time.monotonic()
    trainer.train()
    pairs = len(trainer.train_dataset) * args.num_train_epochs
    seconds = {"training": time.monotonic() - started}
    return Trained(trainer.model, seconds, round(pairs), trained_parameters(trainer.model))


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
    preset = PRESETS[hyperparameters["preset"]]
    given = {name: value for name, value in hyperparameters.items() if value is not None}
    return QConstants(**{name: {**preset, **given}[name] for name in QConstants.__dataclass_fields__})


def _constants() -> dict[str, Hyperparameter]:
    """One hyperparameter for each constant of the method, as the training arguments describe them."""
    kinds = {field.name: type(field.default) for field in dataclasses.fields(QConstants)}
    fields = {field.name: field for field in dataclasses.fields(QAdapterTrainingArguments)}
    return {name: Hyperparameter(_meaning(fields[name]), kind=kind) for name, kind in kinds.items()}


def _meaning(field: dataclasses.Field[Any]) -> str:
    return str(field.metadata["help"])


def _check_constants(_common: CommonArguments, hyperparameters: Mapping[str, Any]) -> None:
    constants_of(hyperparameters)


QADAPTER = Method(
    "Q-Adapter: a residual Q-function on the frozen base",
    train_qadapter,
    optimization(None) | {"preset": Hyperparameter("named constants", "default", str, tuple(PRESETS))} | _constants(),
    check=_check_constants,
)
