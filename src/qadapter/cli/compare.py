"""`qadapter compare`: methods side by side, from one config file."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "compare",
        help="train and measure several methods, and draw what each gains for what it forgets",
        description="Trains and measures every method of a config file at every strength and seed, and writes "
        "report.html, frontier.png, results.json and results.md. A run that was stopped goes on where it stopped: what "
        "is finished is not repeated, and a changed config repeats only what it concerns.",
    )
    parser.add_argument(
        "--config", required=True, metavar="YAML", help="what to compare; see recipes/compare_demo.yaml"
    )
    parser.add_argument("--output-dir", metavar="D", help="receives everything (default: output_dir of the config)")
    parser.add_argument("--report-only", action="store_true", help="write the report again; train and measure nothing")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run it, or go on with it.

    Raises:
        QAdapterError: what the config or its files have wrong, before anything slow starts; a job that failed.
        KeyboardInterrupt: after Ctrl-C, with a message that says how to go on.
    """
    from ..compare import TYPES, compare_results, make_plan, run_comparison, write_reports
    from .config import build, read_yaml
    from .quiet import quiet_libraries

    quiet_libraries()
    flags = {} if args.output_dir is None else {"output_dir": args.output_dir}
    plan = make_plan(*build(TYPES, read_yaml(args.config, TYPES), flags))
    plan.output_dir.mkdir(parents=True, exist_ok=True)
    try:
        comparison = run_comparison(plan, _say, report_only=args.report_only)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; the same command goes on with what is not finished") from None
    write_reports(compare_results(plan, comparison), plan.output_dir)
    for name in ("report.html", "frontier.png", "results.md", "results.json"):
        print(Path(plan.output_dir) / name)


def _say(text: str) -> None:
    print(text, flush=True)
