"""`qadapter playground`: `qadapter serve`, and its page in the browser."""

from __future__ import annotations

import argparse
import logging
import threading
import webbrowser
from typing import Any

from . import serve

logger = logging.getLogger(__name__)


def add_parser(subparsers: Any) -> None:
    """Register `playground`.

    Args:
        subparsers: what `ArgumentParser.add_subparsers` returned. `args.run(args)` returns the exit status.
    """
    parser = subparsers.add_parser(
        "playground",
        help="base and customized side by side, in the browser",
        description="Serve adapters of one base model as `qadapter serve` does, and open the page that shows what they "
        "change.",
    )
    serve.add_serving_flags(parser)
    parser.add_argument("--no-browser", action="store_true", help="only say where the page is")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C; the arguments and errors are those of `qadapter serve`."""
    return serve.run(args, when_listening=None if args.no_browser else open_page)


def open_page(url: str) -> None:
    """Open the browser, which on a terminal may stay in the foreground: the server does not wait for it."""

    def opening() -> None:
        if not webbrowser.open(url):
            logger.info("no browser was found here: open %s", url)

    threading.Thread(target=opening, name="browser", daemon=True).start()
