"""JSON Lines files as lm-eval tasks: what a file asks is read off its fields.

| fields of a row | as lm-eval's task | question and choices | headline metric |
|---|---|---|---|
| question, choices {text, label}, answerKey | arc_easy, arc_challenge | text of each choice | acc_norm |
| ctx, endings, label (and activity_label, ctx_a, ctx_b) | hellaswag | each ending | acc_norm |
| goal, sol1, sol2, label | piqa | both solutions | acc_norm |
| context, continuation | lambada_openai | is the continuation the greedy one? | acc (and perplexity) |
| question, choices (list), answer (index) | mmlu | the letter of each choice | acc |
| question, answer with "#### number" | gsm8k | generated, the last number counts | exact_match |

`acc_norm` divides the log-probability of a choice by its length in characters. HellaSwag's markup is cleaned and its
choices are laid out as lm-eval does: from ctx_a and ctx_b where a row has both. Where it has `ctx` alone, that is taken
as it is, and the beginning of the last sentence, where ctx_b would begin, is not capitalised. Solved examples
(`num_fewshot`) are drawn from the file itself, never the question that is asked. Fields that the table does
not name are ignored.

IFEval ({prompt, instruction_id_list, kwargs}) needs packages and data that lm-eval does not bring: use the task
`ifeval`. Plain text ({text}) is no task: it goes to perplexity.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset

from ..data.pairs import BadRow, RowProblem, checked_text
from ..data.reading import read_rows
from ..errors import DataError

Row = dict[str, Any]
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class _BadQuestion(Exception):
    """A row that asks nothing that can be answered, and why."""


class Schema(NamedTuple):
    """One line of the table."""

    name: str
    fields: tuple[str, ...]
    """That every row has."""
    matches: Callable[[Row], bool]
    """Whether the row's values are of this schema's kind, where its fields alone do not say."""
    convert: Callable[[Row], Row]
    """The row in the fields of `config`; raises `_BadQuestion`."""
    config: dict[str, Any]
    """lm-eval's task, without its data."""


def local_task(path: str | Path) -> dict[str, Any]:
    """The configuration of a task over a file, for `TaskManager.load`.

    Args:
        path: a .jsonl file; its name without the suffix is the task's.

    Raises:
        DataError: as `read_questions`; or a name that is that of a figure.
    """
    if Path(path).stem == "mean":
        raise DataError(f"{path}: `tasks.mean` is the mean of all tasks.", hint="give the file another name")
    schema, rows = read_questions(path)
    data = {"test": Dataset.from_list(rows)}
    metrics = schema.config["metric_list"]
    metrics = [{**one, **({"aggregation": _perplexity} if one["metric"] == "perplexity" else {})} for one in metrics]
    return {
        "task": Path(path).stem,
        "custom_dataset": lambda **_: data,
        "test_split": "test",
        "fewshot_split": "test",
        **schema.config,
        "metric_list": metrics,
    }


def read_questions(path: str | Path) -> tuple[Schema, list[Row]]:
    """What a file asks: the schema of its rows, and the rows in the fields of the schema's `config`.

    Raises:
        DataError: rows of no known schema or of several, or a row whose question cannot be asked; it names the row.
    """
    rows: list[Row] = []
    schema = None
    for location, row in read_rows(path):
        if isinstance(row, BadRow):
            raise DataError(str(row))
        schema = schema or schema_of(row, location)
        try:
            missing = [name for name in schema.fields if row.get(name) is None]
            if missing or not schema.matches(row):
                raise _BadQuestion(f"not in the fields of the first row, {', '.join(schema.fields)}")
            rows.append(schema.convert(row))
        except _BadQuestion as error:
            raise DataError(
                f"{location}: {error}", hint=f"the file was taken for {schema.name} by its first row"
            ) from None
    assert schema is not None  # a file without rows is refused by read_rows
    return schema, rows


def schema_of(row: Row, location: str) -> Schema:
    """The schema of a row.

    Raises:
        DataError: none fits; it names the fields found and the known schemas.
    """
    for schema in SCHEMAS:
        if all(row.get(name) is not None for name in schema.fields) and schema.matches(row):
            return schema
    known = "; ".join(f"{schema.name}: {', '.join(schema.fields)}" for schema in SCHEMAS)
    hint = f"known fields are {known}"
    if "text" in row:
        hint = "plain text goes to --text-file"
    elif "instruction_id_list" in row:
        hint = "use lm-eval's own task, ifeval"
    raise DataError(f"{location}: no known task has the fields {', '.join(row) or '(none)'}.", hint=hint)


def _arc(row: Row) -> Row:
    texts, labels, key = row["choices"].get("text"), row["choices"].get("label"), row["answerKey"]
    if not isinstance(texts, list) or not isinstance(labels, list) or len(texts) != len(labels) or len(texts) < 2:
        raise _BadQuestion("choices needs lists 'text' and 'label' of one length, at least 2")
    if key not in labels:
        raise _BadQuestion(f"answerKey {key!r} is none of the labels {labels}")
    choices = [_choice(text, text, "choices") for text in texts]
    return {"query": f"Question: {_text(row, 'question')}\nAnswer:", "choices": choices, "gold": labels.index(key)}


def _hellaswag(row: Row) -> Row:
    if not isinstance(row["endings"], list) or len(row["endings"]) < 2:
        raise _BadQuestion("endings must be a list of at least 2 texts")
    activity = f"{row['activity_label']}: " if row.get("activity_label") else ""
    texts = [_choice(ending, ending, "endings") for ending in row["endings"]]
    choices = [_choice(_without_markup(text), text, "endings") for text in texts]
    gold = _index(row, "label", len(choices))
    return {"query": _without_markup(activity + _hellaswag_context(row)), "choices": choices, "gold": gold}


def _hellaswag_context(row: Row) -> str:
    whole, begun, going_on = _text(row, "ctx"), row.get("ctx_a"), row.get("ctx_b")
    if begun is None or going_on is None:
        return whole
    if not isinstance(begun, str) or not isinstance(going_on, str):
        raise _BadQuestion(f"ctx_a and ctx_b must be texts, got {begun!r} and {going_on!r}")
    # As lm-eval does it, which also lowers the case of the rest. An empty ctx_b is usual.
    return f"{begun} {going_on.capitalize()}"


def _piqa(row: Row) -> Row:
    return {
        "query": f"Question: {_text(row, 'goal')}\nAnswer:",
        "choices": [_text(row, "sol1"), _text(row, "sol2")],
        "gold": _index(row, "label", 2),
    }


def _lambada(row: Row) -> Row:
    return {"query": _text(row, "context"), "continuation": " " + _text(row, "continuation").lstrip()}


def _mmlu(row: Row) -> Row:
    choices = row["choices"]
    if not 2 <= len(choices) <= len(_LETTERS):
        raise _BadQuestion(f"choices must be 2 to {len(_LETTERS)} texts, got {len(choices)}")
    choices = [_choice(choice, choice, "choices") for choice in choices]
    letters = list(_LETTERS[: len(choices)])
    lines = [f"{letter}. {choice}" for letter, choice in zip(letters, choices, strict=True)]
    query = "\n".join([_text(row, "question").strip(), *lines, "Answer:"])
    return {"query": query, "choices": letters, "gold": _index(row, "answer", len(choices))}


def _gsm8k(row: Row) -> Row:
    return {"query": f"Question: {_text(row, 'question')}\nAnswer:", "answer": row["answer"]}


def _text(row: Row, field: str) -> str:
    if not isinstance(row[field], str) or not row[field].strip():
        raise _BadQuestion(f"{field} must be a text, got {row[field]!r}")
    return _readable(row[field], field)


def _choice(text: Any, written: Any, field: str) -> str:
    """One of several answers. An empty one has no length to be normalised by: it could never be chosen."""
    if not isinstance(text, str) or not text.strip():
        raise _BadQuestion(f"{field} must be texts, of which something is left without markup; got {written!r}")
    return _readable(text, field)


def _readable(text: str, field: str) -> str:
    try:
        return checked_text(text, field)
    except RowProblem as error:
        raise _BadQuestion(str(error)) from None


def _index(row: Row, field: str, count: int) -> int:
    """An index, which some files write as a text."""
    value = row[field]
    if isinstance(value, str) and value.isdigit():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < count:
        raise _BadQuestion(f"{field} must be 0 to {count - 1}, got {row[field]!r}")
    return value


def _without_markup(text: str) -> str:
    """HellaSwag's text without WikiHow's marks, exactly as lm-eval cleans it."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def _perplexity(logps: list[float]) -> float:
    """lm-eval's; of a policy that gives the continuations next to no probability it is beyond what a float holds."""
    try:
        return math.exp(-sum(logps) / len(logps))
    except OverflowError:
        return math.inf


def _means(*metrics: str) -> list[dict[str, Any]]:
    return [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in metrics]


_CHOICE: dict[str, Any] = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{query}}",
    "doc_to_target": "{{gold}}",
    "doc_to_choice": "{{choices}}",
}
_NORMALISED = {**_CHOICE, "metric_list": _means("acc_norm", "acc")}

SCHEMAS = (
    Schema(
        "arc",
        ("question", "choices", "answerKey"),
        lambda row: isinstance(row["choices"], dict),
        _arc,
        _NORMALISED,
    ),
    Schema("hellaswag", ("ctx", "endings", "label"), lambda row: True, _hellaswag, _NORMALISED),
    Schema("piqa", ("goal", "sol1", "sol2", "label"), lambda row: True, _piqa, _NORMALISED),
    Schema(
        "lambada",
        ("context", "continuation"),
        lambda row: True,
        _lambada,
        {
            "output_type": "loglikelihood",
            "doc_to_text": "{{query}}",
            "doc_to_target": "{{continuation}}",
            "target_delimiter": "",
            "metric_list": [
                *_means("acc"),
                {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
            ],
        },
    ),
    Schema(
        "mmlu",
        ("question", "choices", "answer"),
        lambda row: isinstance(row["choices"], list),
        _mmlu,
        {**_CHOICE, "metric_list": _means("acc")},
    ),
    Schema(
        "gsm8k",
        ("question", "answer"),
        lambda row: isinstance(row["answer"], str) and "####" in row["answer"],
        _gsm8k,
        {
            "output_type": "generate_until",
            "doc_to_text": "{{query}}",
            "doc_to_target": "{{answer}}",
            "generation_kwargs": {"until": ["Question:", "</s>", "<|im_end|>"], "do_sample": False},
            "metric_list": [
                {
                    **_means("exact_match")[0],
                    "ignore_case": True,
                    "ignore_punctuation": False,
                    "regexes_to_ignore": [",", r"\$", r"(?s).*#### ", r"\.$"],
                }
            ],
            "filter_list": [
                {
                    "name": "flexible-extract",
                    "filter": [
                        {
                            "function": "regex",
                            "group_select": -1,
                            "regex_pattern": r"(-?[$0-9.,]{2,})|(-?[0-9]+)",
                        },
                        {"function": "take_first"},
                    ],
                }
            ],
        },
    ),
)  # fmt: skip
