"""`qadapter data check` and `qadapter data convert`."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import ConfigError, DataError

if TYPE_CHECKING:
    from ..data.pairs import BadRow, PreferencePair
    from ..data.statistics import Lengths, Match
    from ..data.tokenization import TokenizedPair

logger = logging.getLogger(__name__)

_SHOWN = 10


def add_parser(subparsers: Any) -> None:
    """Register `data` with its subcommands.

    Args:
        subparsers: what `ArgumentParser.add_subparsers` returned. `args.run(args)` returns the exit status.
    """
    parser = subparsers.add_parser("data", help="look at preference data, or convert it")
    commands = parser.add_subparsers(dest="data_command", required=True, metavar="COMMAND")

    source = argparse.ArgumentParser(add_help=False)
    source.add_argument("file", metavar="FILE", help=".jsonl, .json, .csv or .parquet file, or a hub data set id")
    source.add_argument("--split", default="train", help="split of a hub data set (default: %(default)s)")
    source.add_argument("--style", metavar="NAME", help="for DSP raw records: the style whose response is chosen")
    source.add_argument(
        "--on-bad-row",
        choices=("stop", "skip"),
        default="stop",
        help="stop: bad rows are an error; skip: they are counted and left out (default: %(default)s)",
    )

    check = commands.add_parser(
        "check", parents=[source], help="count pairs, bad rows and repetitions; show lengths and tokens"
    )
    check.add_argument("--tokenizer", metavar="ID|DIR", help="count lengths in tokens and show a preview of them")
    check.add_argument(
        "--chat-template-kwargs",
        metavar="JSON",
        help="values for variables of the chat template, as `qadapter train` takes them",
    )
    check.add_argument("--max-length", type=_positive, metavar="N", help="length limit of prompt + response, in tokens")
    check.add_argument(
        "--preview", type=_count, default=2, metavar="N", help="pairs shown as tokens (default: %(default)s)"
    )
    check.set_defaults(run=run_check)

    convert = commands.add_parser("convert", parents=[source], help="write TRL conversational JSONL")
    convert.add_argument("--output", type=Path, required=True, metavar="OUT.jsonl", help="the file to write")
    convert.add_argument("--overwrite", action="store_true", help="replace the output file if there is one")
    convert.set_defaults(run=run_convert)


def run_check(args: argparse.Namespace) -> int:
    """Print all that is known about a source. It does not stop at bad rows.

    Returns:
        1 where `load_preference_dataset` would refuse the source, or where a prompt leaves no room; else 0.

    Raises:
        DataError: the source as a whole cannot be read, or the tokenizer cannot write conversations.
        ConfigError: --max-length or --chat-template-kwargs without --tokenizer, or the latter is refused.
    """
    if args.max_length is not None and args.tokenizer is None:
        raise ConfigError("--max-length counts tokens, but no tokenizer was given.", hint="add --tokenizer ID|DIR")
    if args.chat_template_kwargs is not None and args.tokenizer is None:
        raise ConfigError(
            "--chat-template-kwargs is for a tokenizer's template, but no tokenizer was given.",
            hint="add --tokenizer ID|DIR",
        )
    from ..data.dataset import collect_pairs, mixed_formats
    from ..data.statistics import token_lengths, word_lengths

    collected = collect_pairs(args.file, split=args.split, style=args.style)
    pairs, bad = collected.pairs, list(collected.bad)
    tokenizer: Any = None
    tokenized = _Tokenized([], [], [], 0)
    if args.tokenizer is not None:
        from ..model import load_base_tokenizer

        tokenizer = load_base_tokenizer(args.tokenizer, chat_template_kwargs=args.chat_template_kwargs)
        tokenized = _tokenize(pairs, tokenizer, args.max_length)
        bad += tokenized.bad

    usable = len(pairs) - len(tokenized.bad)
    print(f"{args.file}: {_n(collected.rows, 'row')}, {_n(usable, 'usable pair')}, {_n(len(bad), 'bad row')}")
    mixed = mixed_formats(pairs)
    if mixed:
        print(f"mixed formats: {mixed}")
    elif pairs:
        print(f"format: {'conversational' if pairs[0].conversational else 'standard (strings)'}")
    if collected.unread:
        print(f"columns that were not used: {', '.join(collected.unread)}")
    _print_bad_rows(bad)
    if pairs:
        _print_matches(pairs)
        _print_lengths(word_lengths(pairs) if tokenizer is None else token_lengths(tokenized.whole))
    if args.max_length is not None:
        _print_truncation(tokenized, args.max_length)
    if tokenizer is None:
        print("\nno --tokenizer was given: lengths are in words, and there is no preview of the tokens")
    else:
        _print_preview(tokenized.fitting, tokenizer, args.preview)
    return int(bool(mixed) or not usable or (bool(bad) and args.on_bad_row == "stop"))


def run_convert(args: argparse.Namespace) -> int:
    """Write the pairs of a source as TRL conversational JSONL, complete or not at all.

    Returns:
        0.

    Raises:
        DataError: the source cannot be read or has bad rows (on "stop"); the output exists or cannot be written.
    """
    output: Path = args.output
    if output.suffix != ".jsonl":
        raise DataError(f"--output must end with .jsonl, got {str(output)!r}")
    if output.exists() and not args.overwrite:
        raise DataError(f"{output} exists.", hint="add --overwrite, or name another file")
    if not output.parent.is_dir():
        raise DataError(f"no such folder: {output.parent}", hint="create it first")
    from ..data.dataset import collect_pairs, report_bad_rows
    from ..data.pairs import as_conversation

    collected = collect_pairs(args.file, split=args.split, style=args.style)
    report_bad_rows(collected.bad, args.on_bad_row, logger)
    if not collected.pairs:
        raise DataError(f"{args.file}: all {collected.rows} rows are bad, there is nothing to write.")
    _write([as_conversation(pair) for pair in collected.pairs], output)
    skipped = f"; {_n(len(collected.bad), 'bad row')} skipped" if collected.bad else ""
    print(f"wrote {_n(len(collected.pairs), 'pair')} from {_n(collected.rows, 'row')} to {output}{skipped}")
    return 0


class _Tokenized(NamedTuple):
    whole: list[TokenizedPair]
    """Every pair that has tokens, without a limit: its lengths are those of the data."""
    fitting: list[tuple[PreferencePair, TokenizedPair]]
    """Those whose prompt leaves room, cut to the limit."""
    bad: list[BadRow]
    """Messages that the chat template refuses, and prompts that leave no room."""
    no_room: int
    """How many of them are prompts."""


def _tokenize(pairs: Sequence[PreferencePair], tokenizer: Any, max_length: int | None) -> _Tokenized:
    from ..data.pairs import BadRow
    from ..data.tokenization import NoRoomError, RefusedByTemplateError, tokenize_pair

    whole: list[TokenizedPair] = []
    fitting: list[tuple[PreferencePair, TokenizedPair]] = []
    bad: list[BadRow] = []
    no_room = 0
    for pair in pairs:
        try:
            uncut = cut = tokenize_pair(vars(pair), tokenizer, None)
            whole.append(uncut)
            longer = max(len(uncut.chosen_ids), len(uncut.rejected_ids))
            if max_length is not None and len(uncut.prompt_ids) + longer > max_length:
                cut = tokenize_pair(vars(pair), tokenizer, max_length)
            fitting.append((pair, cut))
        except (NoRoomError, RefusedByTemplateError) as error:
            bad.append(BadRow(pair.location, str(error)))
            no_room += isinstance(error, NoRoomError)
    return _Tokenized(whole, fitting, bad, no_room)


def _print_bad_rows(bad: Sequence[BadRow]) -> None:
    if not bad:
        return
    print("\nbad rows by reason")
    # Reasons name messages and columns by number: without the numbers, rows of one kind count as one.
    for reason, count in Counter(re.sub(r"\d+", "N", row.reason) for row in bad).most_common():
        print(f"{count:>7}  {reason}")
    print("first of them" if len(bad) > _SHOWN else "all of them")
    for row in bad[:_SHOWN]:
        print(f"  {row}")


def _print_matches(pairs: Sequence[PreferencePair]) -> None:
    from ..data.statistics import count_prompts, find_contradictions, find_duplicates

    print(f"\ndistinct prompts     {count_prompts(pairs):>7}")
    _print_match_kind("duplicate pairs", "repeats", find_duplicates(pairs))
    _print_match_kind("contradictory pairs", "contradicts", find_contradictions(pairs))


def _print_match_kind(kind: str, verb: str, matches: Sequence[Match]) -> None:
    print(f"{kind:<20} {len(matches):>7}")
    for match in matches[:_SHOWN]:
        print(f"  {match.pair.location} {verb} {match.earlier.location}")
    if len(matches) > _SHOWN:
        print(f"  … and {len(matches) - _SHOWN} more")


def _print_lengths(lengths: Lengths) -> None:
    from ..data.statistics import PERCENTILES, percentiles

    if not lengths.prompt:
        return
    heads = [f"{percent}%" if percent < 100 else "max" for percent in PERCENTILES]
    print(f"\n{'length in ' + lengths.unit:<26}" + "".join(f"{head:>7}" for head in heads))
    for name, values in (
        ("prompt", lengths.prompt),
        ("chosen", lengths.chosen),
        ("rejected", lengths.rejected),
        ("prompt + longer response", lengths.longer_sequence),
    ):
        print(f"{name:<26}" + "".join(f"{value:>7}" for value in percentiles(values)))


def _print_truncation(tokenized: _Tokenized, max_length: int) -> None:
    chosen = sum(bool(pair.chosen_cut_ids) for _, pair in tokenized.fitting)
    rejected = sum(bool(pair.rejected_cut_ids) for _, pair in tokenized.fitting)
    print(f"\nat max length {max_length}: {chosen} chosen and {rejected} rejected responses are cut, ", end="")
    print(f"{_n(tokenized.no_room, 'row')} with no room for a response")


def _print_preview(tokenized: Sequence[tuple[PreferencePair, TokenizedPair]], tokenizer: Any, count: int) -> None:
    from ..data.preview import legend, render_pair

    shown = list(tokenized[:count])
    if not shown:
        return
    cut = [item for item in tokenized if item[1].chosen_cut_ids or item[1].rejected_cut_ids]
    if cut and not any(item in cut for item in shown):
        shown[-1] = cut[0]
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    print(f"\npreview: {legend(colour=colour)}")
    for pair, tokens in shown:
        print(f"\n{pair.location}\n{render_pair(tokens, tokenizer, colour=colour)}")


def _write(pairs: Sequence[PreferencePair], output: Path) -> None:
    from ..data.whole_file import whole_file

    try:
        with whole_file(output) as part, part.open("w", encoding="utf-8", newline="\n") as file:
            for pair in pairs:
                row = {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    except OSError as error:
        raise DataError(f"{output} cannot be written: {error}") from error


def _n(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _positive(text: str) -> int:
    return _whole_number(text, at_least=1)


def _count(text: str) -> int:
    return _whole_number(text, at_least=0)


def _whole_number(text: str, at_least: int) -> int:
    if not text.isdecimal() or int(text) < at_least:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {at_least}, got {text!r}")
    return int(text)
