"""lm-evaluation-harness on the policy at a strength.

`QAdapterLM` is lm-eval's `HFLM` with the dial fixed. It is made when it is first asked for, since lm-eval is optional;
then lm-eval knows it as `qadapter`. Where lm-eval reads the entry points `lm_eval.models`, that name works there too:

    lm_eval --model qadapter --model_args pretrained=DIR,strength=0.5 --tasks mmlu
"""

from __future__ import annotations

import copy
import functools
import logging
import math
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase

from ..errors import ConfigError, MissingExtraError
from ..model import QAdapterForCausalLM, load_tokenizer
from .policy import policy_at
from .tasks import HEADLINES, LoadedTask, no_headline, quiet_harness, task_manager
from .token_scores import ScoredText, score_tokens

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

# Of generated answers: the more forgiving reading first.
_FILTERS = ("flexible-extract", "custom-extract", "get-answer", "none")


def run_tasks(
    model: QAdapterForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[LoadedTask],
    *,
    strength: float = 1.0,
    limit: int | None = None,
    num_fewshot: int | None = None,
    chat_template: bool = False,
    batch_size: int = 16,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Run tasks on the policy at a strength.

    Args:
        model: the model; put in eval mode.
        tokenizer: its tokenizer.
        tasks: from `load_tasks`.
        strength: η; 0 is the base.
        limit: ask the first so many questions of each task, and of each task of a group.
        num_fewshot: solved examples before each question; default as each task says.
        chat_template: whether questions are put as a user's message.
        batch_size: sequences at a time; changes no result beyond rounding.
        seed: of drawing examples and of sampled answers.

    Returns:
        task → {metric, value, stderr, count, items, higher_is_better, other}. `metric` is acc_norm, acc, exact_match
        or prompt_level_strict_acc, the first that the task has; `items` are its values, question by question, of a
        group over all its tasks; `value` is their mean. `other` holds lm-eval's other figures, of a group those of its
        tasks.

    Raises:
        ConfigError: a task without a metric that is a mean over its questions, or questions that exceed the context.
    """
    from lm_eval import evaluator

    with quiet_harness(), _without_commit(evaluator):
        policy = _lm_class()(model, strength=strength, tokenizer=tokenizer, batch_size=batch_size)
        results = evaluator.simple_evaluate(
            model=policy,
            tasks=[entry.task for entry in tasks],
            task_manager=task_manager(include_defaults=False),
            limit=limit,
            num_fewshot=num_fewshot,
            apply_chat_template=chat_template,
            bootstrap_iters=0,
            log_samples=True,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
    if policy.cut_texts:
        _warn_once(
            f"{policy.cut_texts} texts of the tasks have more tokens than the model's {policy.max_length} positions "
            "leave room for: their beginning (solved examples, where there are some) was cut off."
        )
    return {entry.name: _task_record(entry, results) for entry in tasks}


@functools.cache
def _warn_once(text: str) -> None:
    """Each policy of an evaluation meets the same texts."""
    logger.warning(text)


@contextmanager
def _without_commit(evaluator: ModuleType) -> Iterator[None]:
    """Keep lm-eval from asking git for a commit: git says `fatal: not a git repository` on the terminal elsewhere."""
    name = "get_git_commit_hash"
    before = getattr(evaluator, name, None)
    setattr(evaluator, name, lambda: None)
    try:
        yield
    finally:
        setattr(evaluator, name, before)


def _task_record(entry: LoadedTask, results: dict[str, Any]) -> dict[str, Any]:
    metric, filter_name, items = _headline(entry, results)
    figures = results["results"]
    if entry.leaves == [entry.name]:
        other = {
            key: value if math.isfinite(value) else None  # JSON has no infinity
            for key, value in _figures(figures[entry.name]).items()
            if key != f"{metric},{filter_name}"
        }
    else:
        other = {leaf: figures[leaf][f"{metric},{filter_name}"] for leaf in entry.leaves}
    return {
        "metric": metric if filter_name == "none" else f"{metric},{filter_name}",
        "value": statistics.fmean(items),
        "stderr": statistics.stdev(items) / len(items) ** 0.5 if len(items) > 1 else None,
        "count": len(items),
        "items": items,
        "higher_is_better": bool(results["higher_is_better"][entry.leaves[0]][metric]),
        "other": other,
    }


def _headline(entry: LoadedTask, results: dict[str, Any]) -> tuple[str, str, list[float]]:
    """The task's metric, its filter, and the value of each question."""
    shared = set.intersection(*(set(_figures(results["results"][leaf])) for leaf in entry.leaves))
    known = [key for key in shared if key.split(",")[0] in HEADLINES]
    if not known:
        raise no_headline(entry.name, {key.split(",")[0] for key in shared})
    metric, filter_name = min((tuple(key.split(",", 1)) for key in known), key=_rank)
    samples = [
        sample
        for leaf in entry.leaves
        for sample in sorted(results["samples"][leaf], key=lambda sample: sample["doc_id"])
        if sample["filter"] == filter_name
    ]
    return metric, filter_name, [float(sample[metric]) for sample in samples]


def _rank(key: tuple[str, ...]) -> tuple[int, int, str]:
    metric, filter_name = key
    place = _FILTERS.index(filter_name) if filter_name in _FILTERS else len(_FILTERS)
    return HEADLINES.index(metric), place, filter_name


def _figures(entry: dict[str, Any]) -> dict[str, float]:
    """lm-eval's "metric,filter" keys that hold a figure, without the standard errors."""
    return {
        key: value
        for key, value in entry.items()
        if "," in key and not key.split(",")[0].endswith("_stderr") and isinstance(value, (int, float))
    }


@functools.cache
def _lm_class() -> Any:
    try:
        from lm_eval.api.registry import register_model
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise MissingExtraError("lm-eval", "eval", "the tasks of an evaluation") from error

    @register_model("qadapter")
    class QAdapterLM(HFLM):
        """The policy at a strength.

        Args:
            pretrained: the model, or the folder of an artifact.
            strength: η ≥ 0; 0 is the base.
            tokenizer: of the model; default the artifact's.
            base: where the base model of an artifact lies; default as trained.
            dtype: of an artifact's weights.
            device: that an artifact is loaded to; default the GPU if there is one.
            **kwargs: of `HFLM`.
        """

        def __init__(
            self,
            pretrained: str | QAdapterForCausalLM,
            strength: float = 1.0,
            tokenizer: PreTrainedTokenizerBase | None = None,
            base: str | None = None,
            dtype: str = "auto",
            device: str | None = None,
            **kwargs: Any,
        ) -> None:
            import torch

            if isinstance(pretrained, str):
                tokenizer = tokenizer or load_tokenizer(pretrained)
                pretrained = QAdapterForCausalLM.from_pretrained(pretrained, base, dtype=dtype)
                pretrained.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            self.policy = policy_at(pretrained, float(strength))
            self.strength = float(strength)
            self.cut_texts = 0
            # HFLM gives its tokenizer a padding token where it has none.
            super().__init__(pretrained=pretrained, tokenizer=copy.deepcopy(tokenizer), backend="causal", **kwargs)

        def loglikelihood(self, requests: list, disable_tqdm: bool = True) -> list[tuple[float, bool]]:
            return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

        def loglikelihood_rolling(self, requests: list, disable_tqdm: bool = True) -> list[float]:
            return super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)

        def generate_until(self, requests: list, disable_tqdm: bool = True) -> list[str]:
            try:
                return super().generate_until(requests, disable_tqdm=disable_tqdm)
            except AssertionError as error:  # how HFLM says that an answer may be longer than the model's positions
                raise ConfigError(
                    f"a task cannot be answered by this model: {error}", hint="choose a task with shorter answers"
                ) from error

        def tok_batch_encode(
            self, strings: list[str], padding_side: str = "left", left_truncate_len: int | None = None, **kwargs: Any
        ) -> tuple[torch.Tensor, torch.Tensor]:
            encoded = super().tok_batch_encode(strings, padding_side, left_truncate_len, **kwargs)
            if left_truncate_len and encoded[0].shape[1] == left_truncate_len:
                self.cut_texts += sum(len(self.tok_encode(text)) > left_truncate_len for text in strings)
            return encoded

        def _loglikelihood_tokens(
            self, requests: list, disable_tqdm: bool = True, override_bs: int | None = None
        ) -> list[tuple[float, bool]]:
            longest = max((len(continuation) for _, _, continuation in requests), default=0)
            if longest > self.max_length:
                raise ConfigError(
                    f"a task scores {longest} tokens at once, and the model takes {self.max_length}.",
                    hint="choose a task with shorter answers",
                )
            self.cut_texts += sum(
                len(context) + len(continuation) > self.max_length + 1 for _, context, continuation in requests
            )
            size = override_bs or self.batch_size
            scores = score_tokens(
                self.model,
                # What is too long loses its beginning, as in HFLM: the last token itself is not fed.
                [
                    ScoredText((context + continuation)[-self.max_length - 1 :], len(continuation))
                    for _, context, continuation in requests
                ],
                strength=self.strength,
                batch_size=size if isinstance(size, int) else self.max_batch_size,
            )
            answers = [(float(score.logp.sum()), bool(score.is_greedy.all())) for score in scores]
            for (texts, _, _), answer in zip(requests, answers, strict=True):
                if texts is not None:
                    self.cache_hook.add_partial("loglikelihood", texts, answer)
            return answers

        def _model_call(self, inps: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            import torch

            with torch.inference_mode():
                return self.model(inps, use_cache=False, **self.policy).logits

        def _model_generate(self, context: torch.Tensor, max_length: int, stop: list[str], **kwargs: Any) -> Any:
            return super()._model_generate(context, max_length, stop, **self.policy, **kwargs)

        def get_model_info(self) -> dict[str, Any]:
            return {
                "model_num_parameters": self.model.num_parameters(),
                "model_dtype": self.model.dtype,
                "model_strength": self.strength,
            }

    return QAdapterLM


def __getattr__(name: str) -> Any:
    """`QAdapterLM`, which the entry point names."""
    if name == "QAdapterLM":
        return _lm_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
