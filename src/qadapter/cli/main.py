"""`qadapter`: finds the command, runs it, and turns errors into one or two lines and an exit status."""

from __future__ import annotations

import errno
import importlib
import logging
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import QAdapterError
from .parser import CommandParser

COMMANDS = ("demo", "train", "eval", "compare", "generate", "chat", "serve", "playground", "export", "data", "env")

EXIT_ERROR, EXIT_INTERRUPTED = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after `qadapter`; default those of the process.

    Returns:
        The exit status: 0, what the command returned, 2 for a user's error or a file that cannot be used (printed
        without a traceback), 130 after Ctrl-C.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_PlainFormatter())
    logger = logging.getLogger("qadapter")
    # Of several processes of a run one speaks.
    level, logger.level = logger.level, logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR
    logger.addHandler(handler)
    # While it is imported, by whichever library comes first, it warns of kernels that it did without.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except QAdapterError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt as interrupt:
        print(f"\n{interrupt}" if interrupt.args else "\ninterrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (`| head`). Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    except OSError as error:
        # A place that cannot be written, or read, names itself; what does not (a lost connection) keeps its traceback.
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        place = "" if error.filename is None else f"{error.filename}: "
        print(f"error: {place}{error.strerror}", file=sys.stderr)
        return EXIT_ERROR
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def build_parser() -> CommandParser:
    """The parser of all commands. It imports no library but argparse."""
    parser = CommandParser(
        prog="qadapter",
        description="Customize a frozen language model to a preference without making it forget what it could do.",
    )
    parser.add_argument("--version", action="version", version=f"qadapter {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name in COMMANDS:
        importlib.import_module(f".{name}", __package__).add_parser(subparsers)
    return parser


def _run(argv: list[str]) -> int:
    parser = build_parser()
    try:
        args, rest = parser.parse_known_args(argv)
    except SystemExit as done:  # --help and --version
        return int(done.code or 0)
    if args.command is None:
        parser.print_help(sys.stderr)
        return EXIT_ERROR
    args.rest = rest
    return int(args.run(args) or 0)


class _PlainFormatter(logging.Formatter):
    """`warning: text`; plain text for information."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"
