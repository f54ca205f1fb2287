"""What a preference pair is, and what makes a row of data a bad one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Messages = list[dict[str, str]]
Text = str | Messages

ROLES = ("system", "user", "assistant")
_MAY_FOLLOW = {None: ("system", "user"), "system": ("user",), "user": ("assistant",), "assistant": ("user",)}


@dataclass(frozen=True)
class PreferencePair:
    """A prompt with two responses; all three are message lists (conversational) or all three strings (standard)."""

    prompt: Text
    chosen: Text
    rejected: Text
    location: str
    """Where it was read, such as "train.jsonl:17" (line) or "train.csv row 17"; both count from 1."""

    @property
    def conversational(self) -> bool:
        return not isinstance(self.prompt, str)


@dataclass(frozen=True)
class BadRow:
    """A row that gives no pair, where it was read, and why."""

    location: str
    reason: str

    def __str__(self) -> str:
        return f"{self.location}: {self.reason}"


class RowProblem(Exception):
    """Raised where a problem is found; the place that knows the location turns it into a `BadRow`."""


def checked_messages(value: Sequence[Any], field: str) -> Messages:
    """The messages of a field with their role and content only.

    Raises:
        RowProblem: a message without a known role, without text, or with something that text cannot hold.
    """
    messages = []
    for number, message in enumerate(value, start=1):
        where = f"message {number} of {field}"
        if not isinstance(message, dict):
            raise RowProblem(f"{where} is not an object with role and content")
        for key in ("role", "content"):
            if message.get(key) is None:
                raise RowProblem(f"{where} has no {key!r}")
        role, content = message["role"], message["content"]
        if role not in ROLES:
            raise RowProblem(f"role {role!r} is unknown ({', '.join(ROLES)})")
        if not isinstance(content, str):
            raise RowProblem(f"content of {where} is of type {type(content).__name__}, not text")
        if message.get("tool_calls"):
            raise RowProblem(f"{where} has tool calls, which are not supported")
        for key in ("reasoning_content", "thinking"):
            if message.get(key):
                raise RowProblem(f"{where} has {key!r} apart from its content, which is not supported")
        if not content.strip() and role != "system":
            last_response = field != "prompt" and role == "assistant" and number == len(value)
            raise RowProblem(f"{field} is empty" if last_response else f"{where} is empty")
        messages.append({"role": role, "content": checked_text(content, where)})
    return messages


def checked_text(text: str, field: str) -> str:
    """The text itself.

    Raises:
        RowProblem: it holds half of a surrogate pair, which JSON can write but no tokenizer can read.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowProblem(f"{field} holds a lone surrogate {text[error.start]!r}, which is no character") from None
    return text


def check_role_order(messages: Messages, field: str, *, after: str | None = None, ends_with: str) -> None:
    """Check that roles alternate; a system message may come first.

    Args:
        messages: a conversation or its continuation.
        field: the name of the field, for the reason.
        after: the role before the first message; None where a conversation starts.
        ends_with: the role that the last message must have.

    Raises:
        RowProblem: naming the first message out of order.
    """
    previous = after
    for number, message in enumerate(messages, start=1):
        role = message["role"]
        if role not in _MAY_FOLLOW[previous]:
            rule = "where 'user' must come" if previous is None else f"after {previous!r}"
            raise RowProblem(f"role order: message {number} of {field} is {role!r} {rule}")
        previous = role
    if previous != ends_with:
        raise RowProblem(f"role order: {field} ends with {previous!r}, must end with {ends_with!r}")


def checked_pair(prompt: Text, chosen: Text, rejected: Text, location: str) -> PreferencePair:
    """A pair whose parts are not empty and whose responses differ.

    Raises:
        RowProblem: an empty part, a response of several turns, or responses that are the same.
    """
    for field, value in (("prompt", prompt), ("chosen", chosen), ("rejected", rejected)):
        if not (value.strip() if isinstance(value, str) else value):
            raise RowProblem(f"{field} is empty")
        if field != "prompt" and not isinstance(value, str) and len(value) > 1:
            # The user's turns in between are not actions of the policy, so they must not be scored.
            raise RowProblem(f"{field} has {len(value)} messages; only the last turn of a conversation can be compared")
    if chosen == rejected:
        raise RowProblem("chosen and rejected are identical")
    if _stripped(chosen) == _stripped(rejected):
        # Chat templates strip messages: such a pair would have no difference left to learn from.
        raise RowProblem("chosen and rejected differ in outer white space only")
    return PreferencePair(prompt, chosen, rejected, location)


def as_conversation(pair: PreferencePair) -> PreferencePair:
    """A standard pair as a user message and two assistant messages; a conversational pair as it is.

    White space at the seam of strings only keeps their words apart, which messages do by themselves: it is left out,
    but for the indentation of a first line, which belongs to code.
    """
    if not (isinstance(pair.prompt, str) and isinstance(pair.chosen, str) and isinstance(pair.rejected, str)):
        return pair
    return PreferencePair(
        prompt=[{"role": "user", "content": _without_seam(pair.prompt)}],
        chosen=[{"role": "assistant", "content": _without_seam(pair.chosen)}],
        rejected=[{"role": "assistant", "content": _without_seam(pair.rejected)}],
        location=pair.location,
    )


def _without_seam(text: str) -> str:
    """Without blank lines before it, one space, and white space at its end."""
    text = re.sub(r"^(?:[^\S\n]*\n)+", "", text.rstrip())
    return text[1:] if re.match(r" \S", text) else text


def _stripped(text: Text) -> list[str]:
    return [text.strip()] if isinstance(text, str) else [message["content"].strip() for message in text]
