"""Prompts out of a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from ..data.columns import refuse_more_than_prompt
from ..data.pairs import BadRow, RowProblem, check_role_order, checked_messages, checked_text
from ..data.reading import read_rows
from ..errors import DataError

Prompt = str | list[dict[str, str]]
_FIELDS = ("prompt", "messages", "instruction")


class PromptRow(NamedTuple):
    """One row of a file of prompts."""

    number: int
    """Its number, from 0."""
    id: Any
    """What the row calls itself; None where it does not."""
    prompt: Prompt
    """As it stands in the file: a text, or messages."""


def read_prompts(path: str | Path) -> list[PromptRow]:
    """Read a file of prompts: a text or messages under `prompt`, `messages` or `instruction`; an `id` is kept.

    Other columns are ignored (answers, scores, sources, the conversation that a prompt began), but for those that
    belong to what is asked.

    Args:
        path: .jsonl, .json, .csv or .parquet.

    Raises:
        DataError: a file that is missing, empty or damaged, or a row without a prompt, with a conversation that does
            not end with the user, with an id that JSON has no way to write, or with a question, an input, a system
            message, tools or a picture in a column of its own; it names the row.
    """
    rows = []
    for index, (location, row) in enumerate(read_rows(path)):
        if isinstance(row, BadRow):
            raise DataError(str(row))
        rows.append(PromptRow(index, _id(location, row), _prompt(location, row)))
    return rows


def chat_input(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> Prompt:
    """A prompt as it is put to the model: as a user's message where it is a chat model, else the text to go on from."""
    if isinstance(prompt, str) and tokenizer.chat_template:
        return as_messages(prompt)
    return prompt


def as_messages(prompt: Prompt) -> list[dict[str, str]]:
    """A prompt as a conversation, for those who read it as one."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def _id(location: str, row: dict[str, Any]) -> Any:
    """The id, which is to be written beside the answers: now is the time to say that it cannot be."""
    value = row.get("id")
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(
            f"{location}: the id {repr(value)[:80]} cannot be written as JSON: {error}",
            hint="give ids that are texts or numbers (write a date as text), or leave the id out",
        ) from error
    return value


def _prompt(location: str, row: dict[str, Any]) -> Prompt:
    for field in _FIELDS:
        value = row.get(field)
        try:
            prompt: Prompt | None = None
            if isinstance(value, str) and value.strip():
                prompt = checked_text(value, field)
            elif isinstance(value, list) and value:
                prompt = checked_messages(value, field)
                check_role_order(prompt, field, ends_with="user")
            if prompt is not None:
                refuse_more_than_prompt(row, prompt, field)
                return prompt
        except RowProblem as problem:
            raise DataError(f"{location}: {problem}") from None
    raise DataError(
        f"{location}: no prompt; the row has the fields {', '.join(row)}", hint='one {"prompt": "..."} per line'
    )
