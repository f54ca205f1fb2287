"""`qadapter eval`: what an adapter gained and what it kept, as JSON."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from .decoding import add_loading_flags, not_negative


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "eval",
        help="what an adapter gained and what it kept",
        description="Held-out preference accuracy and margin, and the distance to the base on unrelated prompts.",
    )
    parser.add_argument("directory", metavar="DIR", help="the folder that `qadapter train` wrote")
    parser.add_argument("--preference-file", metavar="F", help="held-out pairs, in any format that `train` reads")
    parser.add_argument("--neutral-file", metavar="F", help="JSONL {prompt, kind}; default: 60 prompts of the project")
    parser.add_argument("--output", metavar="J", help="write the result to this JSON file as well")
    parser.add_argument(
        "--strength",
        type=not_negative,
        nargs="+",
        default=[1.0],
        metavar="S",
        help="dials at which the distance to the base is measured (default: 1)",
    )
    parser.add_argument("--style", help="for DSP records: the style whose response is chosen")
    parser.add_argument("--on-bad-row", choices=("stop", "skip"), default="stop", help="default: %(default)s")
    parser.add_argument("--max-length", type=int, default=1024, metavar="N", help="default: %(default)s tokens")
    parser.add_argument(
        "--batch-size", type=int, default=16, metavar="N", help="default: %(default)s; changes no result"
    )
    add_loading_flags(parser)
    parser.set_defaults(run=run, seed=0)


def run(args: argparse.Namespace) -> None:
    """Evaluate, print the JSON, and write it where asked.

    Raises:
        ConfigError, DataError, ArtifactError: before anything slow starts, where the input is wrong.
    """
    from ..data import load_preference_dataset
    from ..errors import ConfigError
    from ..evaluate import evaluate_preference, evaluate_retention
    from ..train import tokenize_dataset
    from .decoding import load
    from .quiet import quiet_libraries

    quiet_libraries()
    if args.output and not Path(args.output).absolute().parent.is_dir():
        raise ConfigError(f"--output {args.output}: the folder does not exist.")
    if args.batch_size < 1:
        raise ConfigError(f"--batch-size must be at least 1, got {args.batch_size}")
    pairs = None
    if args.preference_file:
        pairs = load_preference_dataset(args.preference_file, style=args.style, on_bad_row=args.on_bad_row)
    neutral = _read_neutral(args.neutral_file) if args.neutral_file else None

    model, tokenizer = load(args)
    result: dict[str, Any] = {"adapter": args.directory, "base": model.config.name_or_path}
    if pairs is not None:
        tokenized = tokenize_dataset(pairs, tokenizer, max_length=args.max_length, on_bad_row=args.on_bad_row)
        pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        result["preference"] = {
            "file": args.preference_file,
            **dataclasses.asdict(evaluate_preference(model, tokenized, pad_id, batch_size=args.batch_size)),
        }
    found = evaluate_retention(model, tokenizer, neutral, strengths=args.strength, batch_size=args.batch_size)
    by_strength = [
        {"strength": strength, **dataclasses.asdict(retention)}
        for strength, retention in zip(args.strength, found, strict=True)
    ]
    # The first strength's figures stand at the top, where scripts look for them.
    result["retention"] = {**by_strength[0], "by_strength": by_strength}
    text = json.dumps(result, indent=2, ensure_ascii=False)
    print(text)
    if args.output:
        Path(args.output).write_text(text + "\n", encoding="utf-8")


def _read_neutral(path: str) -> list[dict[str, str]]:
    from ..data.pairs import BadRow
    from ..data.reading import read_rows
    from ..errors import DataError

    rows = []
    for location, row in read_rows(path):
        if isinstance(row, BadRow):
            raise DataError(str(row))
        if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
            raise DataError(f"{location}: missing or empty field 'prompt'", hint='one {"prompt": "..."} per line')
        rows.append({"prompt": row["prompt"], "kind": str(row.get("kind", "prompt"))})
    return rows
