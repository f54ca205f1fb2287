"""`qadapter demo`: the whole method on a small real model in minutes."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "demo",
        help="teach a small real model a preference on this machine, and measure what it gained and kept",
        description="Trains SmolLM2-135M-Instruct on 400 shipped preference pairs (answer briefly, then ask one "
        "follow-up question) and measures held-out accuracy, fulfilment in fresh answers, and what was kept. "
        "Needs 5 to 11 minutes on two CPU cores (23 without bfloat16 instructions) and 4 GB of memory; the model is "
        "93 MB to download.",
    )
    parser.add_argument("--output-dir", default="runs/demo", help="receives the adapter, report.html and summary.json")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run it; an earlier demo in the folder is replaced."""
    from ..demo.run import run_demo
    from .quiet import quiet_libraries

    quiet_libraries()
    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    run_demo(output_dir)
