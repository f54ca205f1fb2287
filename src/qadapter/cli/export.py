"""`qadapter export`: a trained adapter for engines that know nothing of Q-Adapter.

The flags of a target are the fields of its dataclass, so this command parses them itself.
"""

from __future__ import annotations

import argparse
import dataclasses
import textwrap
from functools import partial
from typing import Any

from ..errors import ConfigError
from ..export.registry import TARGETS
from .decoding import add_loading_flags, load


def add_parser(subparsers: Any) -> None:
    """Register `export`.

    Args:
        subparsers: what `ArgumentParser.add_subparsers` returned. `args.run(args)` returns the exit status.
    """
    parser = subparsers.add_parser(
        "export",
        help="a trained adapter for other engines",
        description="Write a trained adapter as something that other engines load. What would be another policy than\n"
        "the trained one is refused; what only comes near it is measured first, and the figure goes into the card.",
        epilog=_targets_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="qadapter export ADAPTER --to TARGET --output DIR [--strength S] ...",
    )
    parser.add_argument("directory", metavar="ADAPTER", help="the folder that `qadapter train` wrote, or its hub id")
    parser.add_argument("--to", choices=tuple(TARGETS), required=True, metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="the folder to write; with hub the repository, OWNER/NAME"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the earlier export in --output")
    add_loading_flags(parser, as_saved=True)
    parser.prepare = _adapter_first
    parser.set_defaults(run=run, keep_unknown=True)


def run(args: argparse.Namespace) -> int:
    """Export.

    Args:
        args: `args.rest` are the target's own flags.

    Returns:
        0.

    Raises:
        QAdapterError: an artifact that cannot be used, or an export that would be wrong.
    """
    from ..export.source import open_source
    from .config import parse_config
    from .quiet import quiet_libraries

    target = TARGETS[args.to]
    (chosen,) = parse_config((target.arguments,), args.rest)
    if not target.loads_base and (args.base or args.dtype != "auto" or args.load_in or args.trust_remote_code):
        raise ConfigError(
            f"--to {args.to} loads no base: --base, --dtype, --load-in and --trust-remote-code have no meaning."
        )
    if args.load_in and not target.may_quantize(chosen):
        raise ConfigError(
            f"--load-in {args.load_in}: this export has the base's weights in it, and takes them in full precision.",
            hint="leave --load-in out; --to peft, --to distilled and --to gguf --form lora write a LoRA alone",
        )
    quiet_libraries()
    loading = argparse.Namespace(**vars(args), seed=0)
    source = open_source(args.directory, partial(load, loading))
    target.export(source, chosen, args.output, overwrite=args.overwrite)
    print(args.output)
    return 0


def _adapter_first(words: list[str]) -> list[str]:
    """argparse would take the value of a target's flag for ADAPTER."""
    if words and words[0].startswith("-") and not {"-h", "--help"} & set(words):
        raise ConfigError(
            "the adapter's folder comes first: qadapter export ADAPTER ...", hint="see qadapter export --help"
        )
    return words


def _targets_help() -> str:
    lines = ["targets and their flags:"]
    for name, target in TARGETS.items():
        lines += ["", f"  {name:<10} {target.meaning}"]
        for field in dataclasses.fields(target.arguments):
            meaning = f"--{field.name.replace('_', '-')}: {field.metadata['help']}"
            if field.default not in (None, False):
                meaning += f" (default: {field.default})"
            lines += textwrap.wrap(meaning, 100, initial_indent=" " * 13, subsequent_indent=" " * 15)
    return "\n".join(lines)
