"""A tokenized pair for the eye: what is prompt, what is response, what was cut off."""

from __future__ import annotations

from typing import Any

from .tokenization import TokenizedPair

_MARKS = {"prompt": ("«", "»"), "response": ("[", "]"), "truncated": ("{", "}")}
_COLOURS = {"prompt": "36", "response": "32", "truncated": "9;31"}

# Text that comes from a file must not steer the terminal: control characters are shown as their pictures.
_VISIBLE = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"} | {0x7F: "\u2421"}
_VISIBLE |= {code: f"\\x{code:02x}" for code in range(0x80, 0xA0)}


def legend(*, colour: bool) -> str:
    """The line that explains the marks of `render_pair`."""
    return "  ".join(_marked(kind, kind, colour) for kind in _MARKS)


def render_pair(pair: TokenizedPair, tokenizer: Any, *, colour: bool, longest: int | None = 1200) -> str:
    """The decoded tokens of a pair, special tokens included.

    Args:
        pair: the pair as tokens.
        tokenizer: decodes them.
        colour: ANSI colours for a terminal; else the marks «prompt», [response], {truncated}.
        longest: largest number of characters shown of one part, the middle is left out; None for all.

    Returns:
        Three paragraphs: prompt, chosen, rejected, each headed by its number of tokens.
    """

    def part(kind: str, ids: list[int]) -> str:
        if not ids:
            return ""
        text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return _marked(kind, _shortened(visible(text), longest), colour)

    paragraphs = [f"prompt, {_tokens(pair.prompt_ids)}:\n{part('prompt', pair.prompt_ids)}"]
    for side, ids, cut, terminated in (
        ("chosen", pair.chosen_ids, pair.chosen_cut_ids, pair.chosen_terminated),
        ("rejected", pair.rejected_ids, pair.rejected_cut_ids, pair.rejected_terminated),
    ):
        ending = "" if terminated else f", {len(cut)} more cut off"
        paragraphs.append(f"{side}, {_tokens(ids)}{ending}:\n{part('response', ids)}{part('truncated', cut)}")
    return "\n".join(paragraphs)


def visible(text: str) -> str:
    """The text with control characters other than newline and tab replaced by visible ones."""
    return text.translate(_VISIBLE)


def _tokens(ids: list[int]) -> str:
    return "1 token" if len(ids) == 1 else f"{len(ids)} tokens"


def _marked(kind: str, text: str, colour: bool) -> str:
    if colour:
        return f"\x1b[{_COLOURS[kind]}m{text}\x1b[0m"
    before, after = _MARKS[kind]
    return f"{before}{text}{after}"


def _shortened(text: str, longest: int | None) -> str:
    if longest is None or len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]} … {len(text) - 2 * half} characters … {text[-half:]}"
