"""A training run from the command line: plan it, check what is cheap to check, train, save, and say what comes next."""

from __future__ import annotations

import json
import logging
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from datasets import Dataset
from transformers import set_seed

from ..data import Anchor, load_preference_dataset, read_anchors, write_anchors
from ..errors import BatchTooLargeError, ConfigError, did_you_mean
from ..evaluate import EvaluationArguments
from ..model import QAdapterForCausalLM, load_base, load_base_tokenizer, machine_dtype
from ..model.artifact_folder import LATER_CONSTANTS
from ..train import PRESETS, QAdapterTrainer, QAdapterTrainingArguments, usable_pairs
from ..train.checkpoints import checkpoints, last_complete_checkpoint
from ..train.metrics import EVALUATED
from . import run_folder
from .config import Values, build, parse_flags, read_yaml
from .holdout import split_by_prompt
from .launch import launch
from .run_arguments import COMMAND_DEFAULTS, GROUPS, MAY_CHANGE_ON_RESUME, TYPES, RunArguments, default_values

logger = logging.getLogger(__name__)

# pairs_per_step is saved, and gives the accumulation for any number of processes.
_NOT_SAVED = {*("config", "resume", "overwrite", "hub_token", "launch", "num_processes"), "gradient_accumulation_steps"}


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
    tokenizer = load_base_tokenizer(
        run.model, revision=run.revision, trust_remote_code=run.trust_remote_code,
        chat_template_kwargs=run.chat_template_kwargs,
    )  # fmt: skip
    if eval_dataset is not None and training.on_bad_row == "skip":
        # Before the trainer skips them: what is written and counted is what is measured.
        eval_dataset = usable_pairs(eval_dataset, tokenizer, max_length=training.max_length, on_bad_row="skip")
    attention = {} if run.attn_implementation is None else {"attn_implementation": run.attn_implementation}
    base = load_base(
        run.model,
        dtype=run.dtype,
        revision=run.revision,
        trust_remote_code=run.trust_remote_code,
        load_in=run.load_in,
        device_map=run.device_map,
        **attention,
    )
    set_seed(training.seed)  # the LoRA's first weights
    model = QAdapterForCausalLM(base, training.constants, training.lora_config)
    anchors_file = output_dir / run_folder.ANCHORS_FILE
    kept = _kept_anchors(anchors_file) if training.anchors and plan.checkpoint is not None else None
    trainer = QAdapterTrainer(model, training, None, train_dataset, eval_dataset, tokenizer, anchors=kept)
    if trainer.is_world_process_zero():
        # Not before now: a run that cannot start must not cost the earlier one.
        if run.overwrite:
            run_folder.clear_run(output_dir, in_use=(run.train_file, run.eval_file))
        run_folder.save_run_config(output_dir, plan.config)
        if run.eval_split is not None and eval_dataset is not None and plan.checkpoint is None:
            held_out = eval_dataset.remove_columns("location")
            held_out.to_json(output_dir / run_folder.HELD_OUT_FILE, force_ascii=False)
        if kept is None and trainer.anchors:
            write_anchors(anchors_file, trainer.anchors)
    try:
        trainer.train(resume_from_checkpoint=None if plan.checkpoint is None else str(plan.checkpoint))
        # Before the held-out pairs are evaluated: what may go wrong there costs no training.
        trainer.save_model(str(output_dir))
        metrics = trainer.evaluate() if eval_dataset is not None else None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_how_to_go_on(output_dir)) from None
    except BatchTooLargeError as error:
        resume = _resume_command(output_dir)
        if resume is None or training.auto_micro_batch or training.world_size > 1:
            raise
        raise BatchTooLargeError(str(error), hint=f"{resume} --auto-micro-batch") from error
    if trainer.is_world_process_zero():
        _report(output_dir, metrics, plan, len(eval_dataset or []))
    return 0


def _kept_anchors(path: Path) -> list[Anchor] | None:
    if path.exists():
        return read_anchors(path)
    logger.warning(
        "%s is missing: the anchors are sampled again, the same ones as before only on the same machine.", path
    )
    return None


def launch_run(argv: Sequence[str]) -> bool:
    """Run in several processes if the flags or the config file say so.

    Returns:
        Whether they did.

    Raises:
        QAdapterError: see `launch`.
        KeyboardInterrupt: after Ctrl-C, with a message that says how to go on.
    """
    given = _given(argv)
    config, processes, output_dir = given.get("launch"), given.get("num_processes"), given.get("output_dir")
    if not config:
        return False
    cpu = bool(given.get("use_cpu"))

    def resume() -> str | None:
        command = None if not output_dir else _resume_command(Path(output_dir))
        count = "" if processes is None else f" --num-processes {processes}"
        return command and f"{command} --launch {shlex.quote(config)}{count}"

    launch(config, processes, argv, resume, cpu=cpu)
    return True


def plan_run(argv: Sequence[str]) -> Plan:
    """Everything that can be decided without loading data or a model.

    Raises:
        ConfigError: unknown or contradictory arguments; an output_dir that holds a run, or on --resume none.
    """
    given = _given(argv)
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
    if training.eval_on_start and run.eval_file is None and run.eval_split is None:
        raise ConfigError("--eval-on-start needs --eval-file or --eval-split.")
    metric = training.metric_for_best_model
    if metric is not None and (name := metric.removeprefix("eval_")) not in EVALUATED:
        raise ConfigError(
            f"--metric-for-best-model: unknown {metric!r}{did_you_mean(name, EVALUATED)}",
            hint=f"one of {', '.join(EVALUATED)}",
        )
    resolved = {**default_values(), **saved, **given}
    resolved |= {name: getattr(training, name) for name in (*PRESETS[training.preset], "pairs_per_step")}
    resolved["chat_template_kwargs"] = run.chat_template_kwargs
    run.dtype = resolved["dtype"] = run.dtype or machine_dtype("bfloat16", training.device.type)
    checkpoint = None
    if not run.resume:
        run_folder.refuse_files_of_others(
            output_dir, (run.train_file, run.eval_file), splits=run.eval_split is not None
        )
    else:
        run_folder.refuse_contradictions({**default_values(), **saved}, resolved, MAY_CHANGE_ON_RESUME)
        checkpoint = last_complete_checkpoint(output_dir)
        logger.info("resuming from %s", checkpoint)
    return Plan(run, training, output_dir, _worth_saving(resolved), checkpoint)


def _given(argv: Sequence[str]) -> Values:
    """The values of the flags, and below them those of the config file."""
    flags = parse_flags(TYPES, argv)
    config_file = flags.get("config")
    from_file = {} if config_file is None else _under_flags(read_yaml(config_file, TYPES), flags)
    given = {**from_file, **flags}
    if given.get("output_dir"):
        # As TrainingArguments does: all of a run lies in one folder.
        given["output_dir"] = os.path.expanduser(given["output_dir"])
    return given


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
    # A run of before there was such a term was trained without it.
    return {**LATER_CONSTANTS, **read_yaml(path, TYPES)}


def _worth_saving(resolved: Values) -> Values:
    """The arguments that the help shows, and the others that are not at their defaults.

    None goes without saying, but where it is no default: `save_total_limit: null` keeps every checkpoint.
    """
    defaults = default_values()
    main = [name for names in GROUPS.values() for name in names]
    names = main + [name for name in resolved if name not in main and resolved[name] != defaults[name]]
    said = [name for name in names if resolved[name] is not None or defaults[name] is not None]
    return {name: resolved[name] for name in said if name not in _NOT_SAVED}


def _datasets(run: RunArguments, training: QAdapterTrainingArguments) -> tuple[Dataset, Dataset | None]:
    assert run.train_file is not None
    pairs = load_preference_dataset(run.train_file, style=run.style, on_bad_row=training.on_bad_row)
    if run.eval_file is not None:
        held_out = load_preference_dataset(run.eval_file, split="test", style=run.style, on_bad_row=training.on_bad_row)
        return pairs, held_out
    if run.eval_split is None:
        return pairs, None
    train_part, eval_part = split_by_prompt(pairs, run.eval_split, training.seed)
    logger.info("%d pairs to train on, %d held out", len(train_part), len(eval_part))
    return train_part, eval_part


def _how_to_go_on(output_dir: Path) -> str:
    resume = _resume_command(output_dir)
    if resume is None:
        return "interrupted before the first checkpoint was written (--save-steps says when)"
    return f"interrupted; {resume}"


def _resume_command(output_dir: Path) -> str | None:
    written = checkpoints(output_dir)
    if not written:
        return None
    return f"continue from {written[0].name} with: qadapter train --output-dir {shlex.quote(str(output_dir))} --resume"


def _report(output_dir: Path, metrics: dict[str, float] | None, plan: Plan, eval_pairs: int) -> None:
    where = shlex.quote(str(output_dir))
    print(f"\nthe adapter is saved in {output_dir}")
    if metrics is not None:
        path = output_dir / run_folder.EVAL_METRICS_FILE
        path.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        print(f"held-out accuracy {metrics['eval_rewards/accuracies']:.3f} on {eval_pairs} pairs ({path})")
    print("\nnext:")
    print(f'  qadapter generate {where} "a prompt of yours" --strength 0 0.5 1')
    print(f"  qadapter chat {where}")
    run, max_length = plan.run, plan.training.max_length
    written = None if run.eval_split is None else str(output_dir / run_folder.HELD_OUT_FILE)
    held_out = shlex.quote(run.eval_file or written or "held-out-pairs.jsonl")
    same_length = "" if max_length in (None, EvaluationArguments.max_length) else f" --max-length {max_length}"
    print(f"  qadapter eval {where} --preference-file {held_out}{same_length}")
