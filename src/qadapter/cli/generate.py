"""`qadapter generate`: answers to prompts, or to a file of them, at one or several strengths."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .decoding import add_decoding_flags, checked_words, count, dial, load, not_negative

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..generate import Prompt

logger = logging.getLogger(__name__)


def add_parser(subparsers: Any) -> None:
    """Register `generate`.

    Args:
        subparsers: what `ArgumentParser.add_subparsers` returned. `args.run(args)` returns the exit status.
    """
    parser = subparsers.add_parser(
        "generate",
        help="answer prompts",
        description="Print the answers, and only those, on standard output; or answer a file of prompts into a file.",
    )
    parser.add_argument("directory", metavar="DIR", help="the folder that `qadapter train` wrote, or its hub id")
    parser.add_argument("words", nargs="*", metavar="PROMPT", help="a prompt; - reads one from standard input")
    parser.add_argument("--prompts", metavar="FILE", help="answer the prompts of this file (.jsonl and others) instead")
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="the .jsonl file that receives the answers to --prompts; what it holds already is kept, so that an "
        "interrupted run goes on",
    )
    parser.add_argument(
        "--batch-size", type=count, default=16, metavar="N", help="prompts answered at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--strength",
        type=not_negative,
        nargs="+",
        action="extend",
        metavar="S",
        help="1 is what was trained, 0 the base model (at temperature α̃/α₀, its own where they are equal), above 1 "
        "extrapolates; several are printed one after the other (default: 1)",
    )
    add_decoding_flags(parser)
    parser.prepare = partial(_words_first, parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Answer.

    Returns:
        0.

    Raises:
        QAdapterError: an artifact or a prompt that cannot be used.
    """
    if bool(args.prompts) != bool(args.out) or bool(args.prompts) == bool(args.words):
        raise ConfigError("give prompts as words, or --prompts FILE with --out FILE.")
    args.strength = args.strength or [1.0]
    decoding = dial(args)
    return _answer_file(args, decoding) if args.prompts else _answer_words(args, decoding)


def _answer_file(args: argparse.Namespace, decoding: dict[str, Any]) -> int:
    from tqdm.auto import tqdm

    from ..generate import answer_file, read_prompts
    from ..model.fingerprint import adapter_fingerprint

    out = Path(args.out)
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {out} cannot be written: name a file in a folder that exists.")
    prompts = read_prompts(args.prompts)
    model, tokenizer = load(args)
    inputs = [_as_input(row.prompt, args.system, tokenizer) for row in prompts]
    # The whole of what the answers depend on beside prompt and strength; they are not mixed with others.
    settings = {
        "adapter_sha256": adapter_fingerprint(model.peft_model),
        "constants": dataclasses.asdict(model.constants),
        "dtype": str(model.dtype),
        "load_in": args.load_in,
        "max_new_tokens": args.max_new_tokens,
        "system": args.system,
        **decoding,
        "seed": args.seed if args.temperature else None,
    }
    with tqdm(desc="answers", unit="answer", disable=None) as bar:

        def show(answered: int, missing: int) -> None:
            bar.total = missing
            bar.update(answered - bar.n)

        cut = answer_file(
            model, tokenizer, prompts, inputs, out, strengths=list(dict.fromkeys(args.strength)), settings=settings,
            batch_size=args.batch_size, max_new_tokens=args.max_new_tokens, on_batch=show,
            seed=args.seed if args.temperature else None, **decoding,
        )  # fmt: skip
    logger.info("%s: %d prompts, strength %s", out, len(prompts), " ".join(f"{value:g}" for value in args.strength))
    _warn_of_cut(cut, args.max_new_tokens)
    return 0


def _answer_words(args: argparse.Namespace, decoding: dict[str, Any]) -> int:
    prompts = _prompts(args.words)
    model, tokenizer = load(args)
    from ..generate import answer_prompts

    inputs = [_as_input(prompt, args.system, tokenizer) for prompt in prompts]
    cut = 0
    for number, strength in enumerate(args.strength):
        answers = answer_prompts(
            model,
            tokenizer,
            inputs,
            max_new_tokens=args.max_new_tokens,
            strength=strength,
            batch_size=args.batch_size,
            **decoding,
        )
        cut += sum(not answer.finished for answer in answers)
        blocks = []
        for prompt, answer in zip(prompts, answers, strict=True):
            quoted = "".join(f"> {line}\n" for line in prompt.splitlines()) if len(prompts) > 1 else ""
            blocks.append(quoted + answer.text)
        if len(args.strength) > 1:
            print(("\n" if number else "") + f"== strength {strength:g} ==")
        print("\n\n".join(blocks), flush=True)
    _warn_of_cut(cut, args.max_new_tokens)
    return 0


def _warn_of_cut(cut: int, max_new_tokens: int) -> None:
    if cut:
        logger.warning("%d of the answers end at --max-new-tokens %d.", cut, max_new_tokens)


def _prompts(words: Sequence[str]) -> list[str]:
    if words.count("-") > 1:
        raise ConfigError("standard input can be read once; give - once.")
    prompts = [_standard_input().strip() if word == "-" else checked_words(word, "a prompt") for word in words]
    if not all(prompt.strip() for prompt in prompts):
        raise ConfigError("a prompt is empty.")
    return prompts


def _standard_input() -> str:
    try:
        # Where the locale is C, bytes that are no UTF-8 are read as half characters.
        return checked_words(sys.stdin.read(), "standard input")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"standard input is not {error.encoding.upper()}: {error.reason}, 0x{error.object[error.start]:02x}.",
            hint="convert it, for example with iconv -f latin1 -t utf-8",
        ) from error


def _as_input(prompt: Prompt, system: str | None, tokenizer: PreTrainedTokenizerBase) -> Prompt:
    """The prompt as it is put to the model, behind the system message."""
    from ..generate import as_messages, chat_input

    if system is None:
        return chat_input(prompt, tokenizer)
    if not tokenizer.chat_template:
        raise ConfigError("--system needs a chat model: this tokenizer has no chat template.")
    messages = as_messages(prompt)
    if messages[0]["role"] == "system":
        raise ConfigError("--system was given, and a prompt has a system message of its own.")
    return [{"role": "system", "content": system}, *messages]


def _words_first(parser: argparse.ArgumentParser, words: list[str]) -> list[str]:
    """Move the flags with their values behind DIR and the prompts.

    argparse would take the prompt in `DIR --strength 0.5 PROMPT` for a number, and in `DIR --seed 1 PROMPT` finds the
    prompts to be none before it comes to them. What follows the first `--` are prompts, whatever they look like; then
    the flags come first, and a `--` ends their values.
    """
    if "--" in words:
        first = words.index("--")
        positional, flags = _apart(parser, words[:first])
        return [*flags, "--", *positional, *words[first + 1 :]]
    positional, flags = _apart(parser, words)
    return positional + flags


def _apart(parser: argparse.ArgumentParser, words: list[str]) -> tuple[list[str], list[str]]:
    """DIR with the prompts, and the flags with their values."""
    positional: list[str] = []
    flags: list[str] = []
    left = iter(range(len(words)))
    for at in left:
        word = words[at]
        if not word.startswith("-") or word == "-" or _is_number(word):
            positional.append(word)
            continue
        action = parser._option_string_actions.get(word)
        end = at + 1
        if action is not None and action.nargs == "+":
            while end < len(words) and _is_number(words[end]):
                end += 1
        elif action is not None and action.nargs != 0:
            end += 1
        flags += words[at:end]
        for _ in range(at + 1, min(end, len(words))):
            next(left)
    return positional, flags


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
