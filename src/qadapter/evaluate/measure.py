"""Everything that is measured of one policy, as plain JSON. The base is a policy too: it is measured the same way."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..errors import ConfigError
from ..generate import Answer, answer_prompts, as_messages
from ..model import QAdapterForCausalLM
from ..train import tokenize_dataset
from ..train.token_rows import refuse_more_tokens_than_positions
from .arguments import EvaluationArguments
from .harness import run_tasks
from .inputs import EvaluationInputs, read_inputs
from .perplexity import evaluate_perplexity
from .policy import policy_at
from .preference import evaluate_preference
from .repetition import repeats_itself
from .retention import answer_as_base, evaluate_retention

if TYPE_CHECKING:
    from .judges import Judge

__all__ = ["EvaluationArguments", "measure_benchmarks", "measure_policy"]

# Decoding is bound by reading the weights: many prompts at a time cost little more than few.
_ANSWERED_AT_ONCE = 4


def measure_policy(
    model: QAdapterForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    args: EvaluationArguments,
    judges: Sequence[Judge] = (),
    *,
    strength: float,
    base: dict[str, Any] | None = None,
    on_stage: Callable[[str], None] | None = None,
    inputs: EvaluationInputs | None = None,
) -> dict[str, Any]:
    """Measure the policy at a strength.

    Args:
        model: the model; put in eval mode.
        tokenizer: its tokenizer.
        args: what to measure.
        judges: who scores the fresh answers. Prompts are answered where there are judges or a prompts file.
        strength: η; 0 is the base itself (at its own temperature, whatever α₀/α̃ is).
        base: what this function gave at strength 0 with the same arguments. Needed at other strengths: its answers are
            what some judges compare with, and the distance to it is taken on its answers to the neutral prompts.
        on_stage: called with the name of each part before it starts.
        inputs: what `read_inputs` gave, to do without reading again.

    Returns:
        The record; a part is absent when it was not asked for.

            strength     number
            seconds      {part: seconds}
            preference   accuracy, margin, logp_margin, base_logp_margin, logp_chosen, pairs,
                         cut_responses (how many of theirs were longer than max_length),
                         items {margin, logp_margin, logp_chosen: one per pair; prompt: its prompt's number}
            answers      prompts, finished and repeating (shares), mean_tokens,
                         items [{prompt, answer, finished, repeating, tokens}]
            judges       {name: {kind, score, judged, failed, not_asked (of those: the judge was given up), items [score
                         or null], notes, cost}}; a judge that compares with the base's answers is absent from the
                         base's own record
            retention    kl_to_base, top1_agreement, kl_by_kind, prompts, tokens,
                         items [{kind, kl, top1_agreement, tokens}]; for the base also answer_ids
            text         perplexity, nats_per_token, tokens, documents, items [{nats, tokens}]
            tasks        {task: {metric, value, stderr, count, items, higher_is_better, other}}

    Raises:
        ConfigError: a strength other than 0 without the base's record.
        QAdapterError: what `read_inputs` raises; answers that a judge cannot take.
    """
    if (strength == 0) is not (base is None):
        raise ConfigError(
            "the base's record (strength 0, base=None) comes first; every other strength needs it as base."
        )
    inputs = read_inputs(args, tokenizer, positions=model.max_positions) if inputs is None else inputs
    record: dict[str, Any] = {"strength": strength, "seconds": {}}

    if inputs.pairs is not None:
        with _part(record, "preference", on_stage):
            record["preference"] = _preference(model, tokenizer, args, inputs.pairs, strength)
    if inputs.prompts and (judges or args.prompts_file):
        with _part(record, "answers", on_stage):
            answers = answer_prompts(
                model, tokenizer, inputs.prompts, max_new_tokens=args.max_new_tokens,
                batch_size=_ANSWERED_AT_ONCE * args.batch_size, **policy_at(model, strength),
            )  # fmt: skip
            record["answers"] = _answers(inputs, answers)
        with _part(record, "judges", on_stage):
            record["judges"] = _judged(judges, inputs, answers, base)
    with _part(record, "retention", on_stage):
        record["retention"] = _retention(model, tokenizer, args, inputs, strength, base)
    slow = measure_benchmarks(model, tokenizer, args, inputs, strength=strength, on_stage=on_stage)
    return {**record, **slow, "seconds": record["seconds"] | slow["seconds"]}


def measure_benchmarks(
    model: QAdapterForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    args: EvaluationArguments,
    inputs: EvaluationInputs,
    *,
    strength: float,
    on_stage: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """The parts `text` and `tasks` of the record of `measure_policy`, and their `seconds`; the same arguments."""
    record: dict[str, Any] = {"seconds": {}}
    if inputs.documents:
        with _part(record, "text", on_stage):
            result = evaluate_perplexity(
                model, tokenizer, inputs.documents, strength=strength, max_length=args.max_length,
                batch_size=args.batch_size,
            )  # fmt: skip
            record["text"] = {
                "perplexity": result.perplexity, "nats_per_token": result.nats_per_token, "tokens": result.tokens,
                "documents": len(result.items), "items": [item._asdict() for item in result.items],
            }  # fmt: skip
    if inputs.tasks:
        with _part(record, "tasks", on_stage):
            record["tasks"] = run_tasks(
                model, tokenizer, inputs.tasks, strength=strength, limit=args.task_limit,
                batch_size=args.batch_size, num_fewshot=args.num_fewshot, chat_template=args.task_chat_template,
                seed=args.seed,
            )  # fmt: skip
    return record


@contextmanager
def _part(record: dict[str, Any], name: str, on_stage: Callable[[str], None] | None) -> Iterator[None]:
    """Announce a part, and note its seconds in the record."""
    if on_stage is not None:
        on_stage(name)
    started = time.monotonic()
    yield
    record["seconds"][name] = round(time.monotonic() - started, 3)


def _preference(
    model: QAdapterForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    args: EvaluationArguments,
    pairs: Dataset,
    strength: float,
) -> dict[str, Any]:
    tokenized = tokenize_dataset(pairs, tokenizer, max_length=args.max_length, on_bad_row=args.on_bad_row)
    refuse_more_tokens_than_positions(tokenized, model.max_positions)
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    result = evaluate_preference(model, tokenized, pad_id, batch_size=args.batch_size, strength=strength)
    numbers: dict[str, int] = {}
    items = {
        "margin": result.margins, "logp_margin": result.logp_margins, "logp_chosen": result.logps_chosen,
        "prompt": [numbers.setdefault(json.dumps(prompt), len(numbers)) for prompt in pairs["prompt"]],
    }  # fmt: skip
    means = ("accuracy", "margin", "logp_margin", "base_logp_margin", "logp_chosen", "pairs")
    cut = sum(not ended for side in ("chosen", "rejected") for ended in tokenized[f"{side}_terminated"])
    return {**{name: getattr(result, name) for name in means}, "cut_responses": cut, "items": items}


def _answers(inputs: EvaluationInputs, answers: Sequence[Answer]) -> dict[str, Any]:
    items: list[dict[str, Any]] = [
        {
            "prompt": prompt,
            "answer": answer.text,
            "finished": answer.finished,
            "repeating": repeats_itself(answer.text, finished=answer.finished),
            "tokens": len(answer.token_ids),
        }
        for prompt, answer in zip(inputs.prompts, answers, strict=True)
    ]
    return {
        "prompts": len(items),
        "finished": sum(answer.finished for answer in answers) / len(answers),
        "repeating": sum(item["repeating"] for item in items) / len(items),
        "mean_tokens": sum(len(answer.token_ids) for answer in answers) / len(answers),
        "items": items,
    }


def _judged(
    judges: Sequence[Judge], inputs: EvaluationInputs, answers: Sequence[Answer], base: dict[str, Any] | None
) -> dict[str, Any]:
    references = None
    if base is not None:
        references = [Answer(item["answer"], [], item["finished"]) for item in base["answers"]["items"]]
    found = {}
    for judge in judges:
        if judge.needs_reference and references is None:
            continue
        verdicts = judge.judge([as_messages(prompt) for prompt in inputs.prompts], answers, references)
        scores = [verdict.score for verdict in verdicts if verdict.score is not None]
        found[judge.name] = {
            "kind": judge.kind,
            "score": sum(scores) / len(scores) if scores else None,
            "judged": len(scores),
            "failed": len(verdicts) - len(scores),
            "not_asked": sum(not verdict.asked for verdict in verdicts),
            "items": [verdict.score for verdict in verdicts],
            "notes": [verdict.note for verdict in verdicts],
            "cost": judge.cost,
        }
    return found


def _retention(
    model: QAdapterForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    args: EvaluationArguments,
    inputs: EvaluationInputs,
    strength: float,
    base: dict[str, Any] | None,
) -> dict[str, Any]:
    if base is None:
        answer_ids = answer_as_base(model, tokenizer, inputs.neutral, batch_size=args.batch_size)
    else:
        answer_ids = base["retention"]["answer_ids"]
        if len(answer_ids) != len(inputs.neutral):
            raise ConfigError(
                f"the base's record holds answers to {len(answer_ids)} neutral prompts, and there are "
                f"{len(inputs.neutral)} here.",
                hint="measure the base again with these arguments",
            )
    (result,) = evaluate_retention(
        model, tokenizer, inputs.neutral, strengths=(strength,), base_answers=answer_ids
    )  # fmt: skip
    return {
        "kl_to_base": result.kl_to_base,
        "top1_agreement": result.top1_agreement,
        "kl_by_kind": result.kl_by_kind,
        "prompts": result.prompts,
        "tokens": result.tokens,
        "items": [item._asdict() for item in result.items],
        **({"answer_ids": answer_ids} if base is None else {}),
    }
