"""Benchmark tasks by name (of lm-eval) or from local files, checked and with their data before a model is loaded."""

from __future__ import annotations

import difflib
import functools
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from ..errors import ConfigError, MissingExtraError, QAdapterError
from .local_tasks import local_task

logger = logging.getLogger(__name__)

# The metric that stands for a task, the first that it has; lm-eval reports others beside it.
HEADLINES = ("acc_norm", "acc", "exact_match", "prompt_level_strict_acc")


class LoadedTask(NamedTuple):
    """A task that can be run."""

    name: str
    task: Any
    """lm-eval's Task, or its Group of them."""
    leaves: list[str]
    """The names of the tasks in it: of a group's, or its own alone."""


def load_tasks(specs: Sequence[str], *, num_fewshot: int | None = None) -> list[LoadedTask]:
    """Find tasks and read their data; that of lm-eval's own tasks comes from the Hugging Face hub or its cache.

    Args:
        specs: names of lm-eval's tasks, groups and tags (a tag stands for each of its tasks), or paths of .jsonl files.
        num_fewshot: what they will be run with; of tasks that take no solved examples, whatever is asked for, the log
            says so.

    Raises:
        MissingExtraError: lm-eval is not installed.
        ConfigError: an unknown name, a task that is there twice (a group's among them), data that cannot be had, a file
            with too few rows for `num_fewshot`, or a task without a metric of `HEADLINES`.
        DataError: a file that is no task.
    """
    configs = {spec: local_task(spec) for spec in specs if spec.endswith(".jsonl")}
    loaded: list[LoadedTask] = []
    with quiet_harness():
        manager = task_manager(include_defaults=len(configs) < len(set(specs)))
        _check_names([spec for spec in specs if spec not in configs], manager.all_tasks)
        for spec in specs:
            try:
                found = manager.load([configs.get(spec, spec)])
            except QAdapterError:
                raise
            except Exception as error:  # whatever a data set's loading raises
                raise ConfigError(
                    f"the data of task {spec!r} cannot be had: {_first_line(error)}",
                    hint="lm-eval's tasks read the Hugging Face hub; offline, give .jsonl files of the benchmark",
                ) from error
            named = _named(spec, found)
            _check_metrics(named, found["tasks"])
            loaded += named
            if num_fewshot and (without := [leaf for leaf, task in found["tasks"].items() if _takes_none(task)]):
                logger.warning(
                    "num_fewshot=%d does not change %s: by its own definition it has no solved examples.",
                    num_fewshot, ", ".join(without),
                )  # fmt: skip
    _check_once(loaded)
    for spec, config in configs.items():
        rows = len(config["custom_dataset"]()["test"])
        if num_fewshot and num_fewshot >= rows:
            raise ConfigError(
                f"num_fewshot is {num_fewshot}, but {spec} holds {rows} questions, and its solved examples are drawn "
                "from the others."
            )
    return loaded


@functools.cache
def task_manager(include_defaults: bool) -> Any:
    """lm-eval's index of tasks. Reading that of its own tasks takes seconds; both are read once.

    Raises:
        MissingExtraError: lm-eval is not installed.
    """
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise MissingExtraError("lm-eval", "eval", "the tasks of an evaluation") from error
    return TaskManager(include_defaults=include_defaults)


def _check_names(names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
            hint = f"did you mean {', '.join(near)}?" if near else "`lm_eval ls tasks` lists the names"
            raise ConfigError(f"unknown task {name!r}: neither a task of lm-eval nor a .jsonl file", hint=hint)


def _named(spec: str, found: Any) -> list[LoadedTask]:
    """A group under its own name; a task, and each task of a tag, under its own."""
    group = found["groups"].get(spec)
    if group is not None:
        return [LoadedTask(spec, group, list(found["tasks"]))]
    return [LoadedTask(name, task, [name]) for name, task in found["tasks"].items()]


def _check_once(loaded: Sequence[LoadedTask]) -> None:
    """lm-eval takes no task twice, also not within two groups."""
    first: dict[str, str] = {}
    for entry in loaded:
        for leaf in entry.leaves:
            if leaf in first:
                of = [f" (of {name})" if name != leaf else "" for name in (first[leaf], entry.name)]
                raise ConfigError(
                    f"the task {leaf!r}{of[0]} is there twice{of[1]}.",
                    hint="leave one of them out, or rename one of the files",
                )
            first[leaf] = entry.name


def _check_metrics(named: Sequence[LoadedTask], tasks: Mapping[str, Any]) -> None:
    for entry in named:
        metrics = set.intersection(*(set(tasks[leaf].aggregation()) for leaf in entry.leaves))
        if (headline := next((name for name in HEADLINES if name in metrics), None)) is None:
            raise no_headline(entry.name, metrics)
        if not all(_is_mean(tasks[leaf].aggregation()[headline]) for leaf in entry.leaves):
            raise ConfigError(
                f"task {entry.name!r}: its {headline} is not the mean over its questions, as is needed here.",
                hint="leave it out, or take the whole benchmark with task_limit instead of a tiny one",
            )


def _is_mean(aggregation: Any) -> bool:
    from lm_eval.api import metrics

    return aggregation in (metrics.mean, metrics.nanmean)


def no_headline(name: str, metrics: Collection[str]) -> ConfigError:
    """The error for a task without a metric that is a mean over its questions.

    Args:
        name: of the task or group.
        metrics: those that it has; of a group, all of its tasks.
    """
    has = ", ".join(sorted(metrics)) or "none for all of its parts"
    return ConfigError(f"task {name!r} has none of the metrics {', '.join(HEADLINES)}; it has {has}.")


def _takes_none(task: Any) -> bool:
    """lm-eval leaves tasks that say num_fewshot: 0 as they are."""
    return task.get_config("num_fewshot") == 0


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def quiet_harness() -> Iterator[None]:
    """Run the body without what lm-eval says of its own defaults; errors are heard."""
    with errors_alone("lm_eval"):
        yield


@contextmanager
def errors_alone(logger_name: str) -> Iterator[None]:
    """Run the body with a logger that lets errors through alone; its level is restored."""
    logger = logging.getLogger(logger_name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
