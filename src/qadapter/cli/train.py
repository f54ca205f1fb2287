"""`qadapter train`: learn a preference on top of a frozen model.

The flags are the fields of dataclasses that only the libraries know, so this command parses its own.
"""

from __future__ import annotations

import argparse
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Register `train`.

    Args:
        subparsers: what `ArgumentParser.add_subparsers` returned. `args.run(args)` returns the exit status.
    """
    parser = subparsers.add_parser("train", add_help=False, help="learn a preference from pairs of answers")
    parser.set_defaults(run=run, keep_unknown=True)


def run(args: argparse.Namespace) -> int:
    """Train, or print the help.

    Args:
        args: `args.rest` are the words after `train`.

    Returns:
        0.

    Raises:
        QAdapterError: arguments, data, a model or an output_dir that cannot be used.
        KeyboardInterrupt: after Ctrl-C, with a message that says how to go on.
    """
    from .quiet import quiet_libraries

    if {"-h", "--help", "--help-all"} & set(args.rest):
        from .run_arguments import help_text

        print(help_text(everything="--help-all" in args.rest))
        return 0
    quiet_libraries()
    from .launch import errors_for_the_launcher, in_launched_process
    from .train_run import launch_run, train

    if not in_launched_process():
        return 0 if launch_run(args.rest) else train(args.rest)
    with errors_for_the_launcher():
        return train(args.rest)
