"""Columns beside those of a format: which are ignored, and which hold text that must not be lost in silence.

Most are ignored: ids, scores, sources, the answers of other models. A question, a system message or a picture decides
what the responses mean; without it the pairs would train something else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import takewhile
from typing import Any

from .pairs import RowProblem, Text

_READ = {"prompt", "chosen", "rejected"}
_READ_OF_DSP = {"query", "responses"}
_ASKS = ("question", "instruction", "input", "query", "context", "history", "conversation", "conversations")
_SYSTEM = ("system", "system_prompt")
_MEDIA = ("images", "image", "videos", "video")
_TEMPLATE = {"tools": "", "chat_template_kwargs": " for one row; the option of that name is for all"}


def unread(row: Mapping[str, Any], *, dsp: bool) -> Iterable[str]:
    """The columns of a row that hold something which its format does not read.

    Args:
        row: the fields.
        dsp: whether it is a DSP raw record.
    """
    read = _READ_OF_DSP if dsp else _READ
    return (name for name, value in row.items() if name not in read and _holds_something(value))


def refuse_media(row: Mapping[str, Any]) -> None:
    """Stop at pictures and videos.

    Raises:
        RowProblem: naming the column.
    """
    for name in _MEDIA:
        if _holds_something(row.get(name)):
            raise RowProblem(f"{name!r} belongs to the prompt, and only text is supported")


def refuse_template_input(row: Mapping[str, Any]) -> None:
    """Stop at what the chat template would write into the prompt beside the messages.

    Raises:
        RowProblem: naming the column.
    """
    for name, instead in _TEMPLATE.items():
        if _holds_something(row.get(name)):
            raise RowProblem(
                f"{name!r} would change the prompt that the chat template writes, and is not supported{instead}"
            )


def refuse_other_prompt(row: Mapping[str, Any], chosen: Text, rejected: Text) -> None:
    """Stop where a row without a prompt has a column that reads like one, and that its responses do not begin with.

    Raises:
        RowProblem: naming the columns and the way out.
    """
    if isinstance(chosen, str) and isinstance(rejected, str):
        alike = takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))
        shared = "".join(character for character, _ in alike)
    else:
        shared = _joined(chosen[:-1])
    names = _lost(row, _ASKS, shared)
    asked = shared if isinstance(chosen, str) else chosen[:-1]
    if _holds_something(row.get("messages")) and not _begins_with(row["messages"], asked):
        names.append("messages")
    if names:
        way_out = "rename that column to 'prompt'" if len(names) == 1 else "make one column 'prompt' of them"
        raise RowProblem(
            f"missing field 'prompt', and {', '.join(map(repr, names))} would be lost, since no format reads it beside "
            f"chosen and rejected: {way_out}"
        )


def refuse_other_system(row: Mapping[str, Any], prompt: Text) -> None:
    """Stop where a row has a system message in a column of its own that its prompt does not hold.

    Raises:
        RowProblem: naming the column and the way out.
    """
    for name in _SYSTEM:
        if _holds_something(row.get(name)) and not _is_in(row[name], _joined(prompt)):
            raise RowProblem(
                f"{name!r} would be lost, since no format reads it: make it the first message of 'prompt', with the "
                "role 'system', or remove the column"
            )


def refuse_rest_of_prompt(row: Mapping[str, Any], prompt: Text, *others: str) -> None:
    """Stop where a row with a prompt has more of what is asked in a column of its own.

    Args:
        row: the fields.
        prompt: what was read.
        others: further columns that belong to what is asked.

    Raises:
        RowProblem: naming the columns and the way out.
    """
    if names := _lost(row, (*_ASKS, *others), _joined(prompt)):
        raise RowProblem(
            f"{', '.join(map(repr, names))} would be lost beside the prompt: make it part of the prompt (a system "
            "message is the first of its messages), or remove the column"
        )
    if _holds_something(row.get("messages")) and not _begins_with(row["messages"], prompt):
        raise RowProblem(
            "'messages' would be lost beside 'prompt', which is not what they begin with: remove one column"
        )


def refuse_more_than_prompt(row: Mapping[str, Any], prompt: Text, field: str) -> None:
    """Stop where a row of prompts without responses asks more than its prompt does.

    Args:
        row: the fields.
        prompt: what was read.
        field: the column that it was read from.

    Raises:
        RowProblem: naming the columns and the way out.
    """
    refuse_media(row)
    refuse_template_input(row)
    rest = {name: value for name, value in row.items() if name != field}
    refuse_rest_of_prompt(rest, prompt, "documents", *_SYSTEM)


def _holds_something(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value.strip())
    return value is not None and (not isinstance(value, (list, Mapping)) or bool(value))


def _lost(row: Mapping[str, Any], names: Iterable[str], text: str) -> list[str]:
    """The columns among those named that hold something which a text does not repeat."""
    return [name for name in names if _holds_something(row.get(name)) and not _is_in(row[name], text)]


def _begins_with(messages: Any, prompt: Text) -> bool:
    """Whether a conversation is the prompt, and perhaps the answer to it and what followed."""
    if not isinstance(messages, list) or not all(isinstance(message, Mapping) for message in messages):
        return False
    asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    said = [(message.get("role"), str(message.get("content")).strip()) for message in messages]
    return said[: len(asked)] == [(one["role"], one["content"].strip()) for one in asked] and (
        len(said) == len(asked) or said[len(asked)][0] == "assistant"
    )


def _is_in(value: Any, text: str) -> bool:
    """Whether a text repeats what a column holds: text or messages; anything else is in no text."""
    is_text = isinstance(value, str) or (isinstance(value, list) and all(isinstance(part, Mapping) for part in value))
    return is_text and _joined(value).strip() in text


def _joined(text: Any) -> str:
    return text if isinstance(text, str) else "\n".join(str(message.get("content")).strip() for message in text)
