"""Trains and measures what is not there yet."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from ..baselines import base_policy, run_in_process, scaled_adapter
from ..errors import QAdapterError
from ..evaluate import is_finite, measure_benchmarks, measure_policy
from ..evaluate.judges import SAME_TEXT
from ..model import QAdapterForCausalLM
from ..model.artifact_folder import CONFIG_FILE
from ..train.memory import release_memory
from .axes import forgetting, gained
from .decode_time import decode_time
from .jobs import Jobs, jobs_folder
from .methods import Line
from .mixed_code import mixed_code
from .plan import Plan, PlannedRun, without_warnings


class CandidateResult(NamedTuple):
    """One set of hyperparameters."""

    hyperparameters: dict[str, Any]
    facts: list[dict[str, Any]]
    """Of training, one per seed (see `TrainingFacts`)."""
    records: list[dict[str, Any]]
    """At strength 1, one per seed."""


class LineResult(NamedTuple):
    """One line of the frontier."""

    line: Line
    candidates: list[CandidateResult]
    best: int
    """The number of the candidate that is drawn."""
    records: dict[float, list[dict[str, Any]]]
    """Strength → its records, one per seed."""


class Comparison(NamedTuple):
    """All results."""

    base: dict[str, Any]
    lines: list[LineResult]
    versions: list[str]
    """Of qadapter, that did the jobs; more than one where it was upgraded in between."""
    codes: list[str]
    """The same, as digests of the sources."""
    libraries: dict[str, list[str]]
    """Name → the versions that the jobs were done with, as far as it was noted."""
    seconds: dict[str, float]
    """Kind of job → what all of them took."""


def run_comparison(plan: Plan, say: Callable[[str], None], *, report_only: bool = False) -> Comparison:
    """Do what is not done yet, and collect everything.

    Every finished job is on disk before the next one starts. The candidates of a sweep are measured at strength 1
    alone; the best of them is measured at the other strengths, and gets what is slow: tasks, plain text, decoding time.

    Args:
        plan: what to do.
        say: prints a line of progress.
        report_only: do nothing; a job that is not finished is an error.

    Raises:
        QAdapterError: a job failed; those before it are kept.
    """
    workshop = _Workshop(plan, say, report_only)
    base = workshop.base()
    lines = []
    for line in plan.lines:
        candidates = []
        for number, hyperparameters in enumerate(line.candidates):
            runs = plan.runs[line.label, number]
            done = [(workshop.train(run), workshop.measure(run, line, 1.0)) for run in runs]
            candidates.append(CandidateResult(hyperparameters, *map(list, zip(*done, strict=True))))
        best = best_candidate(candidates, base, plan)
        if not all(map(is_finite, candidates[best].records)):
            every = " with every candidate" if len(candidates) > 1 else ""
            raise QAdapterError(
                f"{line.label} diverged{every}: its adapter gives values that are no numbers.",
                hint="give it a smaller learning_rate",
            )
        records = {1.0: candidates[best].records}
        for strength in plan.arguments.dials:
            records[strength] = [workshop.measure(run, line, strength) for run in plan.runs[line.label, best]]
        for strength in plan.arguments.slow:
            runs = plan.runs[line.label, best]
            slow = [workshop.benchmarks(run, line, strength) for run in runs]
            records[strength] = [fast | more for fast, more in zip(records[strength], slow, strict=True)]
        lines.append(LineResult(line, candidates, best, records))
    codes = sorted(workshop.jobs.codes)
    libraries = {name: sorted(versions) for name, versions in sorted(workshop.jobs.libraries.items())}
    if (mixed := mixed_code(codes, libraries)) is not None:
        say(f"warning: {mixed}")
    return Comparison(base, lines, sorted(workshop.jobs.versions), codes, libraries, workshop.jobs.seconds)


def best_candidate(candidates: list[CandidateResult], base: dict[str, Any], plan: Plan) -> int:
    """The candidate that gains the most behaviour at strength 1, mean over seeds.

    Of equal ones that with the higher accuracy on held-out pairs, then that which forgets less. One that diverged, so
    that its figures are no numbers, comes last.
    """

    def merit(number: int) -> tuple[float, float, float]:
        records = candidates[number].records
        gains = [gained(record, base, plan.frontier_y).value for record in records]
        ranked = [record["preference"]["accuracy"] for record in records]
        forgotten = [forgetting(record, base, plan.arguments.frontier_x).value for record in records]
        found = sum(gains), sum(ranked), -sum(forgotten)
        return found if all(map(math.isfinite, found)) else (-math.inf, -math.inf, -math.inf)

    return max(range(len(candidates)), key=merit)


class _Workshop:
    """Does single jobs; keeps the last loaded model."""

    def __init__(self, plan: Plan, say: Callable[[str], None], report_only: bool) -> None:
        self.plan = plan
        runs = sum(map(len, plan.runs.values()))
        dials = len(plan.lines) * len(plan.arguments.seeds) * len(plan.arguments.dials)
        slow = len(plan.lines) * len(plan.arguments.seeds) * len(plan.arguments.slow)
        self.jobs = Jobs(jobs_folder(plan.output_dir), 1 + 2 * runs + dials + slow, say, report_only=report_only)
        self.jobs.expect("measure", 1 + runs + dials)
        self.jobs.expect("benchmarks", slow)
        for planned in plan.runs.values():
            self.jobs.expect(f"train {planned[0].job.method}", len(planned))
        self.say, self._told = say, set[str]()
        self._loaded: tuple[Path, QAdapterForCausalLM] | None = None
        self._base_record: dict[str, Any] | None = None
        self._judges_checked = False

    def base(self) -> dict[str, Any]:
        """The base's record."""

        def make() -> dict[str, Any]:
            return {"record": self._record(self._placed(base_policy(self.plan.common)), 0.0, None, title)}

        title = "measure the base"
        self._base_record = self.jobs.result(self.plan.base_name, "measure", title, make)["record"]
        return self._base_record

    def train(self, run: PlannedRun) -> dict[str, Any]:
        """The facts of a training run; its artifact is there where a measurement still needs it."""

        def make() -> dict[str, Any]:
            self._check_judges()
            self._unload()
            done = run_in_process(run.job, _log_file(run))
            facts = dataclasses.asdict(done)
            # That process has loaded the code that lay there when it started, which may not be this one's.
            of_code = {"qadapter_version": done.qadapter_version, "code": done.code, "libraries": done.libraries}
            return {**of_code, "inputs": _shown(run), "facts": facts}

        facts = self.jobs.result(run.name, f"train {run.job.method}", f"train {run.title}", make)["facts"]
        for warning in facts["warnings"]:
            if warning not in self._told:
                self._told.add(warning)
                self.say(f"warning: {warning}")
        return facts

    def _check_judges(self) -> None:
        """Once, and only where something slow is about to start."""
        if not self._judges_checked:
            for judge in self.plan.judges:
                judge.check()
            self._judges_checked = True

    def measure(self, run: PlannedRun, line: Line, strength: float) -> dict[str, Any]:
        """The record of a run's policy at a strength."""

        def make() -> dict[str, Any]:
            with self._policy(run, line, strength) as (model, dial):
                record = self._record(model, dial, self._base_record, title)
            return {"inputs": {**_shown(run), "strength": strength}, "record": {**record, "strength": strength}}

        title = f"measure {run.title}, strength {strength:g}"
        return self.jobs.result(self.plan.record_name(run, line, strength), "measure", title, make)["record"]

    def benchmarks(self, run: PlannedRun, line: Line, strength: float) -> dict[str, Any]:
        """What is slow of the record of a run's policy at a strength: tasks, text and decoding."""
        plan = self.plan

        def make() -> dict[str, Any]:
            with self._policy(run, line, strength) as (model, dial):
                # Where the frontier is drawn over tasks, `measure` has taken them.
                known = plan.arguments.frontier_x == "tasks"
                inputs = plan.inputs._replace(documents=[], tasks=[]) if known else plan.inputs
                record = measure_benchmarks(model, self._tokenizer, plan.evaluation, inputs, strength=dial)
                texts = [row["prompt"] for row in plan.inputs.neutral]
                record["decoding"] = decode_time(model, self._tokenizer, texts, dial)
            return {"inputs": {**_shown(run), "strength": strength}, "record": record}

        title = f"benchmarks of {run.title}, strength {strength:g}"
        return self.jobs.result(plan.benchmarks_name(run, line, strength), "benchmarks", title, make)["record"]

    @contextmanager
    def _policy(self, run: PlannedRun, line: Line, strength: float) -> Iterator[tuple[QAdapterForCausalLM, float]]:
        """The model and the strength at which it is the run's policy."""
        model = self._artifact(run)
        if strength == 1 or line.interpolation == "logits":
            yield model, strength
        else:
            with scaled_adapter(model, strength):
                yield model, 1.0

    def _artifact(self, run: PlannedRun) -> QAdapterForCausalLM:
        folder = Path(run.job.output_dir)
        if self._loaded is None or self._loaded[0] != folder:
            self._unload()
            if not (folder / CONFIG_FILE).is_file():
                # Its facts are known, but the folder was removed, and this measurement needs it.
                run_in_process(run.job, _log_file(run))
            model = QAdapterForCausalLM.from_pretrained(folder, dtype=self.plan.common.dtype)
            self._loaded = folder, self._placed(model)
        return self._loaded[1]

    def _unload(self) -> None:
        """Make room for the process of a training run, or for the next model. Patched layers are in cycles."""
        self._loaded = None
        release_memory()

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return self.plan.common.tokenizer()

    def _placed(self, model: QAdapterForCausalLM) -> QAdapterForCausalLM:
        return model.to("cuda") if torch.cuda.is_available() and not self.plan.common.use_cpu else model

    def _record(
        self, model: QAdapterForCausalLM, strength: float, base: dict[str, Any] | None, title: str
    ) -> dict[str, Any]:
        inputs = self.plan.inputs
        if base is not None and self.plan.arguments.frontier_x != "tasks":
            inputs = inputs._replace(documents=[], tasks=[])
        with without_warnings():
            record = measure_policy(
                model, self._tokenizer, self.plan.evaluation, self.plan.judges, strength=strength, base=base,
                inputs=inputs,
            )  # fmt: skip
        for name, judged in record.get("judges", {}).items():
            asked = [
                (score, note) for score, note in zip(judged["items"], judged["notes"], strict=True) if note != SAME_TEXT
            ]
            if asked and all(score is None for score, _ in asked):
                # Not a finished job: the next attempt asks again.
                raise QAdapterError(
                    f"{title}: the judge {name} scored none of the {len(asked)} answers: {asked[0][1]}",
                    hint="where the judge is right, take this method or swept value out of the config; then, or when "
                    "the judge is repaired, run the same command again",
                )
            if judged["not_asked"]:
                reason = next(note for score, note in asked if score is None)
                raise QAdapterError(
                    f"the judge {name} was not asked about {judged['not_asked']} of {len(asked)} answers: {reason}",
                    hint="run the same command again when it answers: what it judged is not asked again",
                )
        return record


def _log_file(run: PlannedRun) -> Path:
    """Beside the run's folder. (Its name holds dots, so it has no suffix to replace.)"""
    folder = Path(run.job.output_dir)
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder.with_name(f"{folder.name}.log")


def _shown(run: PlannedRun) -> dict[str, Any]:
    """What determines a run, as its file tells it: the pairs by their number."""
    return {**run.inputs, "label_noise": run.job.label_noise, "pairs": run.inputs["pairs"]["count"]}
