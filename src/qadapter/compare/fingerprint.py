"""What determines the result of a job: its arguments, and the content of the files they name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..baselines import METHODS, TrainingJob, checked_hyperparameters
from ..baselines.content import content_of, content_of_common
from ..baselines.shared_file import digest_of
from ..baselines.training_pairs import content_of_pairs
from ..evaluate import EvaluationArguments, EvaluationInputs
from ..evaluate.judges import JudgeArguments
from ..evaluate.judges.making import default_cache
from ..evaluate.local_tasks import read_questions
from .module_source import source_of

# They change how long it takes, or where it is looked up, but no result beyond rounding (of judge_cache see below).
_WITHOUT_INFLUENCE = {
    *("batch_size", "reward_batch_size", "judge_api_key_env", "judge_cache", "judge_timeout", "judge_retries"),
    *("judge_concurrency", "judge_price_in", "judge_price_out"),
}
_FILES = {
    "preference_file",
    "prompts_file",
    "neutral_file",
    "text_file",
    "replay_prompts",
    "reward_model",
    "model",
}
# Of tasks and plain text alone.
_OF_BENCHMARKS = {"tasks", "task_limit", "num_fewshot", "task_chat_template", "text_file", "max_documents"}
_OF_BOTH = {"seed", "max_length"}
# The pairs themselves stand for how they were chosen.
_OF_PAIRS = {"train_file", "style", "on_bad_row", "train_pairs", "data_seed"}


def training_inputs(job: TrainingJob, pairs: Mapping[str, Any]) -> dict[str, Any]:
    """What determines a trained adapter.

    Args:
        job: the job; where its result goes does not matter.
        pairs: `content_of_pairs` of its training pairs, those with flipped labels included.
    """
    hyperparameters = METHODS[job.method].resolved(checked_hyperparameters(job.method, job.hyperparameters))
    return {
        "method": job.method,
        "hyperparameters": _with_content(hyperparameters),
        "common": _with_content(
            {name: value for name, value in content_of_common(job.common).items() if name not in _OF_PAIRS}
        ),
        "pairs": dict(pairs),
        "seed": job.seed,
    }


def evaluation_inputs(
    evaluation: EvaluationArguments,
    judges: JudgeArguments,
    *,
    with_benchmarks: bool,
    read: EvaluationInputs | None = None,
) -> dict[str, Any]:
    """What determines a record, beside the policy.

    The source of checkers counts, but for comments and docstrings; what they import or read does not. The names of
    reward models and of task files count as well: their scores stand under them in the record. So does the file of a
    server's judgments, where it is not the default one: another file says that the server's model is another one. Its
    address does not: a moved server changes nothing.

    Args:
        evaluation: what is measured.
        judges: who judges.
        with_benchmarks: whether the record holds tasks and plain text.
        read: what was read; of what came from the hub, whose sets change under their names, it is the content.

    Raises:
        DataError: a task file that cannot be read.
    """
    asked = {"judge_endpoint": judges.judge_endpoint is not None or None}
    arguments = {**dataclasses.asdict(evaluation), **dataclasses.asdict(judges), **asked}
    without = _WITHOUT_INFLUENCE if with_benchmarks else _WITHOUT_INFLUENCE | _OF_BENCHMARKS
    inputs = {name: value for name, value in arguments.items() if name not in without | {"reward_model"}}
    return {
        **_with_content(inputs),
        "reward_model": [[name, content_of(name)] for name in judges.reward_model],
        "checker_source": [source_of(name.partition(":")[0]) for name in judges.checker],
        **_named_cache(judges),
        **_as_read(evaluation, read, {"preference_file", "prompts_file", "neutral_file", "text_file"} - without),
    }


def benchmark_inputs(evaluation: EvaluationArguments, *, read: EvaluationInputs | None = None) -> dict[str, Any]:
    """What determines the scores in tasks and on plain text, beside the policy; arguments as above.

    Raises:
        DataError: a task file that cannot be read.
    """
    arguments = dataclasses.asdict(evaluation)
    found = _with_content({name: arguments[name] for name in sorted(_OF_BENCHMARKS | _OF_BOTH)})
    return {**found, **_as_read(evaluation, read, {"text_file"})}


def _as_read(evaluation: EvaluationArguments, read: EvaluationInputs | None, names: set[str]) -> dict[str, Any]:
    """The content of what is no file here; files are hashed as they lie."""
    of_hub = [name for name in sorted(names) if (path := getattr(evaluation, name)) and not Path(path).is_file()]
    if read is None or not of_hub:
        return {}
    content = {
        "preference_file": read.pairs and content_of_pairs(read.pairs),
        "prompts_file": read.prompts,
        "neutral_file": read.neutral,
        "text_file": read.documents,
    }
    return {f"{name} as read": digest_of(content[name]) for name in of_hub}


def _named_cache(judges: JudgeArguments) -> dict[str, str]:
    """The file of a server's judgments; nothing for the default one, so that what was finished with it stays so."""
    if judges.judge_endpoint is None or not judges.judge_cache:
        return {}
    file = Path(judges.judge_cache).resolve()
    return {} if file == default_cache().resolve() else {"judge_cache": str(file)}


def _with_content(values: dict[str, Any]) -> dict[str, Any]:
    found = {name: content_of(value) if name in _FILES else value for name, value in values.items()}
    if "tasks" in found:
        found["tasks"] = [[Path(task).stem, _asked(task)] for task in found["tasks"]]
    return found


def _asked(task: str) -> str:
    """What stands for a task: of a file what is asked, which another release may read otherwise off the same rows."""
    if not task.endswith(".jsonl"):
        return task
    schema, rows = read_questions(task)
    return digest_of([schema.config, rows])
