"""`qadapter generate`: answers to prompts at one or several strengths."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import Any

from ..errors import ConfigError
from .decoding import add_decoding_flags, dial, load, not_negative

logger = logging.getLogger(__name__)


def add_parser(subparsers: Any) -> None:
    """Register `generate`.

    Args:
        subparsers: what `ArgumentParser.add_subparsers` returned. `args.run(args)` returns the exit status.
    """
    parser = subparsers.add_parser(
        "generate",
        help="answer prompts",
        description="Print the answers, and only those, on standard output. Several prompts are answered in batches.",
    )
    parser.add_argument("directory", metavar="DIR", help="the folder that `qadapter train` wrote, or its hub id")
    parser.add_argument("prompts", nargs="+", metavar="PROMPT", help="a prompt; - reads one from standard input")
    parser.add_argument(
        "--strength",
        type=not_negative,
        nargs="+",
        default=[1.0],
        metavar="S",
        help="0 is the base model, 1 what was trained, above 1 extrapolates; several are printed one after the other",
    )
    add_decoding_flags(parser)
    parser.prepare = _strengths_last
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Answer.

    Returns:
        0.

    Raises:
        QAdapterError: an artifact or a prompt that cannot be used.
    """
    decoding = dial(args)
    prompts = _prompts(args.prompts)
    model, tokenizer = load(args)
    from ..generate import answer_prompts

    inputs = [_as_input(prompt, args.system, bool(tokenizer.chat_template)) for prompt in prompts]
    cut = 0
    for number, strength in enumerate(args.strength):
        answers = answer_prompts(
            model, tokenizer, inputs, max_new_tokens=args.max_new_tokens, strength=strength, **decoding
        )
        cut += sum(not answer.finished for answer in answers)
        blocks = []
        for prompt, answer in zip(prompts, answers, strict=True):
            quoted = "".join(f"> {line}\n" for line in prompt.splitlines()) if len(prompts) > 1 else ""
            blocks.append(quoted + answer.text)
        if len(args.strength) > 1:
            print(("\n" if number else "") + f"== strength {strength:g} ==")
        print("\n\n".join(blocks), flush=True)
    if cut:
        logger.warning("%d of the answers end at --max-new-tokens %d.", cut, args.max_new_tokens)
    return 0


def _prompts(words: Sequence[str]) -> list[str]:
    if words.count("-") > 1:
        raise ConfigError("standard input can be read once; give - once.")
    prompts = [sys.stdin.read().strip() if word == "-" else word for word in words]
    if not all(prompt.strip() for prompt in prompts):
        raise ConfigError("a prompt is empty.")
    return prompts


def _as_input(prompt: str, system: str | None, has_template: bool) -> str | list[dict[str, str]]:
    """A conversation where the model is a chat model, else the text to go on from."""
    if has_template:
        messages = [{"role": "system", "content": system}] if system else []
        return [*messages, {"role": "user", "content": prompt}]
    if system:
        raise ConfigError("--system needs a chat model: this tokenizer has no chat template.")
    return prompt


def _strengths_last(words: list[str]) -> list[str]:
    """Move `--strength 0 0.5` behind the prompts: `DIR --strength 0.5 PROMPT` would take the prompt for a number."""
    if "--strength" not in words or "--" in words:
        return words
    start = words.index("--strength")
    end = start + 1
    while end < len(words) and _is_number(words[end]):
        end += 1
    return words if end == start + 1 else words[:start] + words[end:] + words[start:end]


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
