"""Every supported shape of a row, and the pairs that it stands for.

explicit prompt             prompt, chosen, rejected: message lists or strings (TRL)
implicit, conversational    chosen, rejected: whole conversations (TRL, the official Q-Adapter chat files)
implicit, HH-RLHF           chosen, rejected: "\\n\\nHuman: … \\n\\nAssistant: …"
implicit, standard          chosen, rejected: strings that begin alike (TRL)
DSP                         query, responses: {style: text}

A field that is null counts as missing, since that is how a table writes a field that a row does not have. Other fields
are ignored, but for those that would be missed (columns.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import DataError
from .columns import (
    refuse_media,
    refuse_other_prompt,
    refuse_other_system,
    refuse_rest_of_prompt,
    refuse_template_input,
)
from .pairs import (
    BadRow,
    Messages,
    PreferencePair,
    RowProblem,
    Text,
    check_role_order,
    checked_messages,
    checked_pair,
    checked_text,
)

_HH_TURN = re.compile(r"\n\n(Human|Assistant):")
_HH_ROLE = {"Human": "user", "Assistant": "assistant"}


def row_to_pairs(row: Mapping[str, Any], location: str, style: str | None = None) -> list[PreferencePair | BadRow]:
    """Detect the format of a row and turn it into pairs.

    Args:
        row: the fields; those of no format are ignored, or refused where they would change what is asked.
        location: where the row was read, such as "train.jsonl:17".
        style: for DSP rows, whose response is chosen. Other rows do not look at it.

    Returns:
        One pair, or for a DSP row one per other style; a `BadRow` in the place of each that cannot be used.

    Raises:
        DataError: a DSP row, but no style is given. It is one mistake in the call, not one in each row.
    """
    try:
        refuse_media(row)
        if not is_dsp(row):
            pair = _pair(row, location)
            refuse_other_system(row, pair.prompt)
            return [pair]
        refuse_other_system(row, row["query"])
    except RowProblem as problem:
        return [BadRow(location, str(problem))]
    return _dsp(row, location, style)


def is_dsp(row: Mapping[str, Any]) -> bool:
    """Whether a row is a DSP raw record: a query and a response for each style, and no pair of its own."""
    is_record = isinstance(row.get("query"), str) and isinstance(row.get("responses"), Mapping)
    return is_record and row.get("chosen") is None and row.get("rejected") is None


def parse_hh(text: str, field: str = "text") -> Messages:
    """Messages of a dialogue in HH-RLHF's notation, stripped; their order is not checked here.

    Args:
        text: "\\n\\nHuman: … \\n\\nAssistant: …"; the blank line before the first turn may be missing.
        field: the name of the field, for the reason.

    Raises:
        RowProblem: the text does not start with a turn.
    """
    before, *turns = _HH_TURN.split("\n\n" + text.lstrip())
    if before or not turns:
        raise RowProblem(f"{field} does not start with a 'Human:' turn, but the row is HH-RLHF text")
    return [
        {"role": _HH_ROLE[speaker], "content": content.strip()}
        for speaker, content in zip(turns[::2], turns[1::2], strict=True)
    ]


def _pair(row: Mapping[str, Any], location: str) -> PreferencePair:
    present = {field for field, value in row.items() if value is not None}
    refuse_template_input(row)
    if not present & {"chosen", "rejected"}:
        if present & {"query", "responses"}:
            _field(row, "query", (str,), "text")
            _field(row, "responses", (Mapping,), "an object with one text for each style")
        fields = ", ".join(repr(field) for field in row) or "none"
        raise RowProblem(f"unknown format: needs the fields 'chosen' and 'rejected', found {fields}")
    chosen, rejected = (_field(row, field, (str, list), "text or messages") for field in ("chosen", "rejected"))
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise RowProblem("of chosen and rejected, one is text and one is messages")
    if "prompt" in present:
        prompt = _field(row, "prompt", (str, list), "text or messages")
        pair = _explicit_prompt(prompt, chosen, rejected, location)
        refuse_rest_of_prompt(row, pair.prompt)
        return pair
    if isinstance(chosen, list):
        chosen, rejected = checked_messages(chosen, "chosen"), checked_messages(rejected, "rejected")
    refuse_other_prompt(row, chosen, rejected)
    if isinstance(chosen, list):
        return _conversations(chosen, rejected, location)
    if _is_hh(chosen) or _is_hh(rejected):
        return _hh(chosen, rejected, location)
    return _common_prefix(chosen, rejected, location)


def _field(row: Mapping[str, Any], field: str, types: tuple[type, ...], expected: str) -> Any:
    value = row.get(field)
    if value is None:
        raise RowProblem(f"missing field {field!r}")
    if not isinstance(value, types):
        raise RowProblem(f"{field} is of type {type(value).__name__}, expected {expected}")
    if isinstance(value, (str, list)) and not (value.strip() if isinstance(value, str) else value):
        raise RowProblem(f"{field} is empty")
    return checked_text(value, field) if isinstance(value, str) else value


def _explicit_prompt(prompt: Any, chosen: Any, rejected: Any, location: str) -> PreferencePair:
    if isinstance(prompt, str) and isinstance(chosen, str):
        if _is_hh(prompt) and prompt.rstrip().endswith("\n\nAssistant:"):
            return _hh(prompt + chosen, prompt + rejected, location)
        return checked_pair(prompt, chosen, rejected, location)
    sides: dict[str, Messages] = {}
    for field, value in (("chosen", chosen), ("rejected", rejected)):
        messages = [{"role": "assistant", "content": value}] if isinstance(value, str) else value
        sides[field] = checked_messages(messages, field)
    if isinstance(prompt, list):
        prompt = checked_messages(prompt, "prompt")
    if all(side[0]["role"] != "assistant" for side in sides.values()):
        for field, side in sides.items():
            _check_begins_with(prompt, side, field)
        return _conversations(sides["chosen"], sides["rejected"], location)
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    check_role_order(prompt, "prompt", ends_with="user")
    for field, side in sides.items():
        check_role_order(side, field, after="user", ends_with="assistant")
    return checked_pair(prompt, sides["chosen"], sides["rejected"], location)


def _check_begins_with(prompt: Text, conversation: Messages, field: str) -> None:
    """A prompt beside whole conversations says nothing new, but it must not say something else."""
    if isinstance(prompt, str):
        first = next((message["content"] for message in conversation if message["role"] == "user"), "")
        if first.strip() != prompt.strip():
            raise RowProblem(f"the prompt differs from the first user message of {field}")
    elif (number := _first_difference(prompt, conversation[: len(prompt)])) is not None:
        raise RowProblem(f"the prompt differs from {field} at message {number}")


def _conversations(chosen: Messages, rejected: Messages, location: str) -> PreferencePair:
    """Whole conversations: the last message is the response, all before it the prompt."""
    if chosen[0]["role"] == rejected[0]["role"] == "assistant":
        raise RowProblem("missing field 'prompt', and chosen and rejected start with the assistant")
    check_role_order(chosen, "chosen", ends_with="assistant")
    check_role_order(rejected, "rejected", ends_with="assistant")
    if (number := _first_difference(chosen[:-1], rejected[:-1])) is not None:
        raise RowProblem(f"prompts differ at message {number}")
    return checked_pair(chosen[:-1], chosen[-1:], rejected[-1:], location)


def _first_difference(left: Messages, right: Messages) -> int | None:
    """The number, from 1, of the first message that differs or that one side lacks; None where all are equal."""
    for number, (one, other) in enumerate(zip(left, right, strict=False), start=1):
        if one != other:
            return number
    return None if len(left) == len(right) else min(len(left), len(right)) + 1


def _is_hh(text: str) -> bool:
    return "\n\nHuman:" in text or (text.startswith("Human:") and "\n\nAssistant:" in text)


def _hh(chosen: str, rejected: str, location: str) -> PreferencePair:
    chosen_messages = checked_messages(parse_hh(chosen, "chosen"), "chosen")
    rejected_messages = checked_messages(parse_hh(rejected, "rejected"), "rejected")
    return _conversations(chosen_messages, rejected_messages, location)


def _common_prefix(chosen: str, rejected: str, location: str) -> PreferencePair:
    """Strings that begin alike: what they share is the prompt, up to the white space before the first new word.

    As in TRL the white space opens the responses. TRL stops at the first differing character, also inside a word;
    here the word is not torn, since the prompt's last token would then depend on the response.
    """
    if chosen == rejected:
        raise RowProblem("chosen and rejected are identical")
    shorter = min(len(chosen), len(rejected))
    end = next((at for at in range(shorter) if chosen[at] != rejected[at]), shorter)
    if not (chosen[end : end + 1].isspace() and rejected[end : end + 1].isspace()):
        end = max((at for at in range(end) if chosen[at].isspace()), default=0)
    if not chosen[:end].strip():
        raise RowProblem("missing field 'prompt', and chosen and rejected do not begin alike")
    return checked_pair(chosen[:end], chosen[end:], rejected[end:], location)


def _dsp(row: Mapping[str, Any], location: str, style: str | None) -> list[PreferencePair | BadRow]:
    responses = {name: text for name, text in row["responses"].items() if text is not None}
    styles = ", ".join(responses) or "none"
    if style is None:
        raise DataError(
            f"{location} has responses in several styles ({styles}), but no style was chosen.",
            hint="name the chosen one with --style NAME (style=NAME in Python)",
        )
    if style not in responses:
        return [BadRow(location, f"no response in style {style!r} (styles: {styles})")]
    if len(responses) == 1:
        return [BadRow(location, f"no style besides {style!r} to compare with")]
    try:
        prompt = [{"role": "user", "content": _field(row, "query", (str,), "text")}]
        chosen = _style_message(responses, style)
    except RowProblem as problem:
        return [BadRow(location, str(problem))]
    results: list[PreferencePair | BadRow] = []
    for other in responses:
        if other == style:
            continue
        try:
            results.append(checked_pair(prompt, chosen, _style_message(responses, other), location))
        except RowProblem as problem:
            results.append(BadRow(location, f"{style} against {other}: {problem}"))
    return results


def _style_message(responses: Mapping[str, Any], style: str) -> Messages:
    return [{"role": "assistant", "content": _field(responses, style, (str,), "text")}]
