"""A comparison whose arguments and files have been checked; nothing was trained yet."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset

from ..baselines import CommonArguments, TrainingJob
from ..baselines.content import content_of_base
from ..baselines.training_pairs import content_of_pairs, training_pairs
from ..data import encode_prompt
from ..errors import ConfigError, MissingExtraError
from ..evaluate import EvaluationArguments, EvaluationInputs, read_inputs
from ..evaluate.judges import Judge, JudgeArguments, make_judges
from ..evaluate.plots import subplots
from ..evaluate.tasks import errors_alone
from ..generate import as_messages
from ..model.loading import load_base_config
from ..model.positions import positions_of
from ..train import tokenize_dataset
from ..train.token_rows import refuse_more_tokens_than_positions
from .arguments import CompareArguments
from .axes import NO_JUDGE, choose_behaviour
from .fingerprint import benchmark_inputs, evaluation_inputs, training_inputs
from .jobs import finished_jobs, job_name, jobs_folder
from .methods import Line, lines_of, reference_line

logger = logging.getLogger(__name__)

TYPES = (CompareArguments, CommonArguments, EvaluationArguments, JudgeArguments)
"""The keys of a config file. Those that training and evaluation share (style, on_bad_row, max_length) mean both."""


class PlannedRun(NamedTuple):
    """One training run."""

    job: TrainingJob
    name: str
    """Of its file and its folder."""
    title: str
    inputs: dict[str, Any]
    """What determines it."""


@dataclass(frozen=True)
class Plan:
    """All that a comparison does."""

    arguments: CompareArguments
    common: CommonArguments
    evaluation: EvaluationArguments
    judging: JudgeArguments
    output_dir: Path
    lines: list[Line]
    reference: Line
    frontier_y: str
    inputs: EvaluationInputs
    judges: list[Judge]
    runs: dict[tuple[str, int], list[PlannedRun]]
    """(label of a line, number of a candidate) → one run per seed."""
    usable_pairs: int
    """Of the pairs that every run gets, those that are not bad rows."""
    evaluation_inputs: dict[str, Any]
    """What determines a record, beside the policy."""
    benchmark_inputs: dict[str, Any]
    """What determines the slow part of one, beside the policy."""

    @property
    def base_name(self) -> str:
        """Of the file of the base's record."""
        return job_name(
            ["measure", "base"], [content_of_base(self.common), self.evaluation_inputs, self.benchmark_inputs]
        )

    def record_name(self, run: PlannedRun, line: Line, strength: float) -> str:
        """Of the file of a policy's record. What was trained is the same policy under every interpolation."""
        return self._job_name("measure", run, line, strength, self.evaluation_inputs)

    def benchmarks_name(self, run: PlannedRun, line: Line, strength: float) -> str:
        """Of the file of the slow part of a policy's record."""
        # Where the frontier is drawn over tasks, `measure` has taken them, and this part holds the decoding alone.
        inputs = {"decoding": True} if self.arguments.frontier_x == "tasks" else self.benchmark_inputs
        return self._job_name("benchmarks", run, line, strength, inputs)

    def _job_name(self, kind: str, run: PlannedRun, line: Line, strength: float, inputs: dict[str, Any]) -> str:
        interpolation = None if strength == 1 else line.interpolation
        words = [kind, *run.name.split("-")[1:-1], f"strength{strength:g}", interpolation or ""]
        return job_name([word for word in words if word], [run.inputs, strength, interpolation, inputs])


def make_plan(
    arguments: CompareArguments, common: CommonArguments, evaluation: EvaluationArguments, judging: JudgeArguments
) -> Plan:
    """Check everything that can be wrong before anything slow starts.

    Raises:
        QAdapterError: an argument, a file, a task, a judge or a tokenizer that cannot be used; it says which.
        MissingExtraError: a package that the report needs is not installed.
    """
    if not arguments.output_dir:
        raise ConfigError("output_dir is required", hint="name it in the config file or with --output-dir")
    if evaluation.preference_file is not None:
        raise ConfigError("preference_file is the held-out pairs of `qadapter eval`; here their key is eval_file.")
    lines = lines_of(arguments, common)
    reference = reference_line(arguments, lines)
    subplots(1, (1, 1), "baselines")
    if find_spec("trl") is None and any(line.method != "qadapter" for line in lines):
        raise MissingExtraError("trl", "baselines", "training a baseline")
    evaluation = dataclasses.replace(evaluation, preference_file=arguments.eval_file)
    tokenizer = common.tokenizer()
    positions = positions_of(load_base_config(common.model, revision=common.revision))
    inputs = read_inputs(evaluation, tokenizer, positions=positions)
    if arguments.frontier_x == "tasks" and not inputs.tasks:
        raise ConfigError("frontier_x is tasks, but `tasks` names none.")
    tokenize_dataset(inputs.pairs, tokenizer, max_length=evaluation.max_length, on_bad_row=evaluation.on_bad_row)
    judges = make_judges(judging)
    frontier_y = choose_behaviour(arguments.frontier_y, judges)
    if frontier_y not in NO_JUDGE:
        encode_prompt(inputs.prompts[0], tokenizer)
    output_dir = Path(arguments.output_dir)
    runs = _runs(arguments, common, lines, output_dir)
    pairs = training_pairs(common, label_noise=0.0, seed=0)
    _warn_of_shared_prompts(pairs, inputs, of_a_file=evaluation.prompts_file is not None)
    with without_warnings():  # each run says of its pairs what there is to say
        usable = tokenize_dataset(pairs, tokenizer, max_length=common.max_length, on_bad_row=common.on_bad_row)
    refuse_more_tokens_than_positions(usable, positions)
    return Plan(
        arguments, common, evaluation, judging, output_dir, lines, reference, frontier_y, inputs, judges, runs,
        len(usable),
        evaluation_inputs(evaluation, judging, with_benchmarks=arguments.frontier_x == "tasks", read=inputs),
        benchmark_inputs(evaluation, read=inputs),
    )  # fmt: skip


def _warn_of_shared_prompts(training: Dataset, inputs: EvaluationInputs, *, of_a_file: bool) -> None:
    trained = {json.dumps(as_messages(prompt)) for prompt in training["prompt"]}
    pairs = list(inputs.pairs["prompt"]) if inputs.pairs is not None else []
    # Those that are answered afresh are the pairs' own, where no file names others.
    asked = inputs.prompts if of_a_file else []
    for what, prompts in (("held-out pairs have a prompt", pairs), ("prompts to answer are prompts", asked)):
        if shared := sum(json.dumps(as_messages(prompt)) in trained for prompt in prompts):
            logger.warning(
                "%d of the %d %s of the training pairs: what is measured on them was partly seen in training.",
                shared, len(prompts), what,
            )  # fmt: skip


@contextmanager
def without_warnings() -> Iterator[None]:
    """Inside, `tokenize_dataset` does not warn: where it reads pairs of which it was, or will be, said."""
    with errors_alone(tokenize_dataset.__module__):
        yield


def _runs(
    arguments: CompareArguments, common: CommonArguments, lines: list[Line], output_dir: Path
) -> dict[tuple[str, int], list[PlannedRun]]:
    runs: dict[tuple[str, int], list[PlannedRun]] = {}
    # A run is what determines it: however its settings are spelled, here or in an earlier config, it is trained once.
    known = {name.rpartition("-")[2]: name for name in finished_jobs(jobs_folder(output_dir), "train")}

    @cache
    def pairs_of(label_noise: float, seed: int) -> dict[str, Any]:
        return content_of_pairs(training_pairs(common, label_noise=label_noise, seed=seed))

    for line in lines:
        for seed in arguments.seeds:
            # Without noise the pairs of all seeds are the same.
            pairs = pairs_of(line.label_noise, seed if line.label_noise else 0)
            for number, candidate in enumerate(line.candidates):
                job = TrainingJob(line.method, candidate, common, "", seed, line.label_noise)
                inputs = training_inputs(job, pairs)
                settings = [f"{name}={value}" for name, value in sorted(candidate.items())]
                noise = [f"noise={line.label_noise:g}"] if line.label_noise else []
                name = job_name(["train", line.method, *settings, *noise, f"seed={seed}"], inputs)
                name = known.setdefault(name.rpartition("-")[2], name)
                swept = [f"{one}={candidate[one]}" for one in line.swept]
                job = dataclasses.replace(job, output_dir=str(output_dir / "runs" / name), pairs=pairs)
                title = ", ".join([line.label, *swept, f"seed {seed}"])
                runs.setdefault((line.label, number), []).append(PlannedRun(job, name, title, inputs))
    return runs
