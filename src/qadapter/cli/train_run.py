"""A training run from the command line: plan it, check what is cheap to check, train, save, and say what comes next."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from datasets import Dataset
from transformers import PreTrainedTokenizerBase, set_seed

from ..data import Anchor, load_preference_dataset, read_anchors, write_anchors
from ..errors import BatchTooLargeError, ConfigError
from ..model import QAdapterForCausalLM, load_base, load_base_tokenizer
from ..train import PRESETS, QAdapterTrainer, QAdapterTrainingArguments, sample_anchors
from . import run_folder
from .config import Values, build, parse_flags, read_yaml
from .holdout import split_by_prompt
from .run_arguments import COMMAND_DEFAULTS, GROUPS, MAY_CHANGE_ON_RESUME, TYPES, RunArguments, default_values

logger = logging.getLogger(__name__)

_NOT_SAVED = {"config", "resume", "overwrite", "hub_token"}


class Plan(NamedTuple):
    """A run whose arguments have been checked; nothing was written or loaded yet."""

    run: RunArguments
    training: QAdapterTrainingArguments
    output_dir: Path
    config: Values
    """What `config.yaml` will hold."""
    checkpoint: Path | None
    """Where the run is resumed from."""


def train(argv: Sequence[str]) -> int:
    """Train as the flags say.

    Args:
        argv: the words after `qadapter train`.

    Returns:
        0.

    Raises:
        QAdapterError: arguments, data, a model or an output_dir that cannot be used.
        KeyboardInterrupt: after Ctrl-C, with a message that says how to go on.
    """
    plan = plan_run(argv)
    run, training = plan.run, plan.training
    output_dir = plan.output_dir
    train_dataset, eval_dataset = _datasets(run, training)
    tokenizer = load_base_tokenizer(run.model, revision=run.revision, trust_remote_code=run.trust_remote_code)
    attention = {} if run.attn_implementation is None else {"attn_implementation": run.attn_implementation}
    base = load_base(
        run.model, dtype=run.dtype, revision=run.revision, trust_remote_code=run.trust_remote_code, **attention
    )
    set_seed(training.seed)  # the LoRA's first weights
    model = QAdapterForCausalLM(base, training.constants, training.lora_config)
    anchors = _anchors(plan, model, tokenizer)
    trainer = QAdapterTrainer(model, training, None, train_dataset, eval_dataset, tokenizer, anchors=anchors)
    if trainer.is_world_process_zero():
        # Not before now: a run that cannot start must not cost the earlier one.
        if run.overwrite:
            run_folder.clear_run(output_dir)
        run_folder.save_run_config(output_dir, plan.config)
    try:
        trainer.train(resume_from_checkpoint=None if plan.checkpoint is None else str(plan.checkpoint))
        metrics = trainer.evaluate() if eval_dataset is not None else None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_how_to_go_on(output_dir)) from None
    except BatchTooLargeError as error:
        resume = _resume_command(output_dir)
        if resume is None or training.auto_micro_batch:
            raise
        raise BatchTooLargeError(str(error), hint=f"{resume} --auto-micro-batch") from error
    trainer.save_model(str(output_dir))
    if trainer.is_world_process_zero():
        _report(output_dir, metrics, run, len(eval_dataset or []))
    return 0


def plan_run(argv: Sequence[str]) -> Plan:
    """Everything that can be decided without loading data or a model.

    Raises:
        ConfigError: unknown or contradictory arguments; an output_dir that holds a run, or on --resume none.
    """
    flags = parse_flags(TYPES, argv)
    config_file = flags.get("config")
    from_file = {} if config_file is None else _under_flags(read_yaml(config_file, TYPES), flags)
    given = {**from_file, **flags}
    if not given.get("output_dir"):
        raise ConfigError("--output-dir is required", hint="the folder to which the adapter is written")
    output_dir, saved = Path(given["output_dir"]), {}
    if given.get("resume"):
        saved = _saved_config(output_dir)
    elif not given.get("overwrite"):
        run_folder.refuse_existing_run(output_dir)

    run, training = build(TYPES, COMMAND_DEFAULTS, saved, given)
    if training.eval_strategy != "no" and run.eval_file is None and run.eval_split is None:
        raise ConfigError(f"--eval-strategy {training.eval_strategy.value} needs --eval-file or --eval-split.")
    resolved = {**default_values(), **saved, **given}
    resolved |= {name: getattr(training, name) for name in PRESETS[training.preset]}
    checkpoint = None
    if run.resume:
        run_folder.refuse_contradictions({**default_values(), **saved}, resolved, MAY_CHANGE_ON_RESUME)
        checkpoint = run_folder.last_complete_checkpoint(output_dir)
        logger.info("resuming from %s", checkpoint)
    return Plan(run, training, output_dir, _worth_saving(resolved), checkpoint)


def _under_flags(values: Values, flags: Values) -> Values:
    """The values of a file below a preset given as a flag: constants that only spell out the file's preset go."""
    if "preset" not in flags:
        return values
    own = PRESETS.get(values.get("preset", "default"), {})
    return {name: value for name, value in values.items() if name not in own or own[name] != value}


def _saved_config(output_dir: Path) -> Values:
    path = output_dir / run_folder.RUN_CONFIG_FILE
    if not path.is_file():
        raise ConfigError(f"--resume: {path} does not exist.", hint="leave --resume out to start a run")
    return read_yaml(path, TYPES)


def _worth_saving(resolved: Values) -> Values:
    """The arguments that the help shows, and the others that are not at their defaults."""
    defaults = default_values()
    main = [name for names in GROUPS.values() for name in names]
    names = main + [name for name in resolved if name not in main and resolved[name] != defaults[name]]
    return {name: resolved[name] for name in names if name not in _NOT_SAVED and resolved[name] is not None}


def _datasets(run: RunArguments, training: QAdapterTrainingArguments) -> tuple[Dataset, Dataset | None]:
    assert run.train_file is not None
    pairs = load_preference_dataset(run.train_file, style=run.style, on_bad_row=training.on_bad_row)
    if run.eval_file is not None:
        return pairs, load_preference_dataset(run.eval_file, style=run.style, on_bad_row=training.on_bad_row)
    if run.eval_split is None:
        return pairs, None
    train_part, eval_part = split_by_prompt(pairs, run.eval_split, training.seed)
    logger.info("%d pairs to train on, %d held out", len(train_part), len(eval_part))
    return train_part, eval_part


def _anchors(plan: Plan, model: QAdapterForCausalLM, tokenizer: PreTrainedTokenizerBase) -> list[Anchor]:
    """The anchors of the run: sampled and kept in its folder, or read from there where the run is resumed."""
    path, count = plan.output_dir / run_folder.ANCHORS_FILE, plan.training.anchors
    if not count:
        return []
    if plan.checkpoint is not None:
        return read_anchors(path)
    plan.output_dir.mkdir(parents=True, exist_ok=True)

    def say(done: int) -> None:
        print(f"\rsampling the base: {done}/{count} anchors", end="\n" if done == count else "", file=sys.stderr)

    limits = {"max_length": plan.training.max_length, "seed": plan.training.seed}
    anchors = sample_anchors(model, tokenizer, count, **limits, on_batch=say)
    write_anchors(path, anchors)
    return anchors


def _how_to_go_on(output_dir: Path) -> str:
    resume = _resume_command(output_dir)
    if resume is None:
        return "interrupted before the first checkpoint was written (--save-steps says when)"
    return f"interrupted; {resume}"


def _resume_command(output_dir: Path) -> str | None:
    written = run_folder.checkpoints(output_dir)
    if not written:
        return None
    return f"continue from {written[0].name} with: qadapter train --output-dir {shlex.quote(str(output_dir))} --resume"


def _report(output_dir: Path, metrics: dict[str, float] | None, run: RunArguments, eval_pairs: int) -> None:
    where = shlex.quote(str(output_dir))
    print(f"\nthe adapter is saved in {output_dir}")
    if metrics is not None:
        path = output_dir / run_folder.EVAL_METRICS_FILE
        path.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        print(f"held-out accuracy {metrics['eval_rewards/accuracies']:.3f} on {eval_pairs} pairs ({path})")
    print("\nnext:")
    print(f'  qadapter generate {where} "a prompt of yours" --strength 0 0.5 1')
    print(f"  qadapter chat {where}")
    print(f"  qadapter eval {where} --preference-file {shlex.quote(run.eval_file or 'held-out-pairs.jsonl')}")
