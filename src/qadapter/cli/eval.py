"""`qadapter eval`: what an adapter gained and what it kept, the base and the customized policy in one run.

The flags are the fields of dataclasses that only the libraries know, so this command parses its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..evaluate import EvaluationArguments
    from ..evaluate.judges import JudgeArguments
    from .eval_arguments import EvalRunArguments


def add_parser(subparsers: Any) -> None:
    """Register `eval`.

    Args:
        subparsers: what `ArgumentParser.add_subparsers` returned. `args.run(args)` returns the exit status.
    """
    parser = subparsers.add_parser("eval", add_help=False, help="what an adapter gained and what it kept")
    parser.set_defaults(run=run, keep_unknown=True)


def run(args: argparse.Namespace) -> int:
    """Evaluate; print the table (or the JSON), and write what was asked for.

    Args:
        args: `args.rest` are the words after `eval`.

    Returns:
        0.

    Raises:
        QAdapterError: what the input has wrong, before anything slow starts.
        OSError: the result cannot be written; it names the file. It was printed before.
    """
    from .eval_arguments import TYPES, help_text
    from .quiet import quiet_libraries

    if {"-h", "--help"} & set(args.rest):
        print(help_text())
        return 0
    from ..errors import ConfigError
    from .config import parse_config

    if not args.rest or args.rest[0].startswith("-"):
        raise ConfigError("the adapter's folder comes first: qadapter eval DIR ...", hint="see qadapter eval --help")
    quiet_libraries()
    _evaluate(args.rest[0], *parse_config(TYPES, args.rest[1:]))
    return 0


def _evaluate(
    directory: str, run_args: EvalRunArguments, measured: EvaluationArguments, judged: JudgeArguments
) -> None:
    from ..data import encode_prompt
    from ..errors import ConfigError, QAdapterError
    from ..evaluate import difference_to_base, is_finite, measure_benchmarks, measure_policy, read_inputs
    from ..evaluate.comparison import judge_agreement
    from ..evaluate.inputs import check_lengths
    from ..evaluate.judges import make_judges
    from ..evaluate.plots import subplots
    from ..generate import encode_prompts
    from ..model import load_tokenizer
    from ..model.artifact_folder import adapter_file_sha256, local_folder, read_config
    from .decoding import load
    from .eval_table import failures, table

    # What can be wrong with the input shows before the model is loaded, the quickest checks first.
    tokenizer = load_tokenizer(directory, trust_remote_code=run_args.trust_remote_code)
    if run_args.report:
        subplots(1, (1, 1), "eval")
    inputs = read_inputs(measured, tokenizer)
    judges = make_judges(judged)
    if judges and not inputs.prompts:
        raise ConfigError("there are judges but no prompts to answer.", hint="give --prompts-file or --preference-file")
    if judges or measured.prompts_file:
        encode_prompt(inputs.prompts[0], tokenizer)
    for judge in judges:
        judge.check(may_be_cached=True)
    loading = {name: getattr(run_args, name) for name in ("base", "dtype", "load_in", "trust_remote_code")}
    model, tokenizer = load(argparse.Namespace(directory=directory, seed=measured.seed, **loading))

    check_lengths(inputs, measured, tokenizer, model.max_positions)
    if judges or measured.prompts_file:
        encode_prompts(model, tokenizer, inputs.prompts, max_new_tokens=measured.max_new_tokens)

    started = time.monotonic()

    def label_of(strength: float) -> str:
        return f"strength {strength:g}" if strength else "base"

    def saying(strength: float) -> Callable[[str], None]:
        label = label_of(strength)
        return lambda name: print(f"{time.monotonic() - started:6.0f} s  {label}: {name}", file=sys.stderr)

    # The benchmarks take longest and come last: what a judge has to complain about shows before them.
    without_benchmarks = inputs._replace(documents=[], tasks=[])

    def measure(strength: float, base: dict[str, Any] | None) -> dict[str, Any]:
        record = measure_policy(
            model, tokenizer, measured, judges, strength=strength, base=base, inputs=without_benchmarks,
            on_stage=saying(strength),
        )  # fmt: skip
        if not is_finite(record):
            raise QAdapterError(
                f"at {label_of(strength)} the adapter in {directory} gives values that are no numbers: it diverged in "
                "training.",
                hint="train it with a smaller learning_rate",
            )
        for line in failures(label_of(strength), record):
            print(f"warning: {line}", file=sys.stderr)
        return record

    base = measure(0.0, None)
    policies = [measure(strength, base) for strength in run_args.strength]
    # --base may name a copy that lies elsewhere; that it is the same model was checked when it was loaded.
    folder = local_folder(directory)
    trained_on = read_config(folder)["base"]["name_or_path"]
    loaded = {
        "base": model.config.name_or_path,
        "trained_on": trained_on,
        "dtype": str(model.dtype).removeprefix("torch."),
        "adapter_sha256": adapter_file_sha256(folder),
        "dial_from_base": model.constants.alpha_0 == model.constants.alpha_tilde,
    }

    def result() -> dict[str, Any]:
        for record in policies:
            record["difference"] = difference_to_base(record, base, seed=measured.seed)
            record["agreement"] = judge_agreement(record, base)
        return _result(directory, measured, loaded, base, policies)

    if run_args.output and (inputs.documents or inputs.tasks):
        _save(result(), run_args.output)
    for record in (base, *policies):
        strength = record["strength"]
        slow = measure_benchmarks(
            model, tokenizer, measured, inputs, strength=strength, on_stage=saying(strength)
        )  # fmt: skip
        record |= {**slow, "seconds": record["seconds"] | slow["seconds"]}
    finished = result()
    # Hours of work: seen also where there is no room to save it, and saved also where nobody reads any more.
    try:
        print(_as_json(finished) if run_args.json else table(base, policies), flush=True)
    finally:
        if run_args.output:
            _save(finished, run_args.output)
    if run_args.report:
        _report(finished, Path(run_args.report))


def _result(
    directory: str,
    measured: EvaluationArguments,
    loaded: dict[str, Any],
    base: dict[str, Any],
    policies: list[dict[str, Any]],
) -> dict[str, Any]:
    settings = {name: value for name, value in dataclasses.asdict(measured).items() if value not in (None, [])}
    # The first strength's figures stand at the top, where scripts look for them.
    result: dict[str, Any] = {"adapter": directory, **loaded, "arguments": settings}
    for part in ("preference", "retention"):
        if part in policies[0]:
            result[part] = {name: value for name, value in policies[0][part].items() if name != "items"}
    return result | {"policies": [base, *policies]}


def _as_json(result: dict[str, Any]) -> str:
    return json.dumps(result, indent=2, ensure_ascii=False)


def _save(result: dict[str, Any], path: str) -> None:
    """Called before the benchmarks, too, so that a crash in them loses nothing else."""
    from ..data.whole_file import write_whole

    write_whole(Path(path), _as_json(result) + "\n")


def _report(result: dict[str, Any], path: Path) -> None:
    from ..evaluate.evaluation_report import write_evaluation_report

    base, *policies = result["policies"]
    cut = base.get("preference", {}).get("cut_responses")
    write_evaluation_report(
        path, title=f"Q-Adapter evaluation: {result['adapter']}", base=base, policies=policies,
        dial_from_base=result["dial_from_base"],
        facts={
            "adapter": result["adapter"], "base model": result["base"], "dtype": result["dtype"],
            **result["arguments"], **({"held-out responses cut at max_length": cut} if cut else {}),
            **_seconds([base, *policies]),
        },
    )  # fmt: skip


def _seconds(records: list[dict[str, Any]]) -> dict[str, str]:
    parts = dict.fromkeys(part for record in records for part in record["seconds"])
    return {
        f"seconds for {part}": " · ".join(
            f"{record['seconds'][part]:.1f}" for record in records if part in record["seconds"]
        )
        for part in parts
    }
