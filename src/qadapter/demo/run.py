"""Train on the demo's preference, measure before and after, and write summary.json and report.html."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from ..data import load_preference_dataset
from ..evaluate import (
    evaluate_preference,
    evaluate_probe,
    evaluate_retention,
    load_neutral_prompts,
    load_probe,
)
from ..evaluate.judges import Checker, mean_score
from ..evaluate.report import DialPoint, ReportRow, write_report
from ..generate import Answer, answer_prompts
from ..model import DEFAULT_MODEL, QAdapterForCausalLM, load_base, load_base_tokenizer, machine_dtype, training_device
from ..train import QAdapterTrainer, QAdapterTrainingArguments, tokenize_dataset
from ..train.callbacks import METRICS_FILE
from .checker import brief_with_follow_up

STRENGTHS = (0.0, 0.5, 1.0)
PREFERENCE = "answer briefly, then ask one follow-up question"


@dataclass(frozen=True)
class DemoSize:
    """How much the demo does; the tests run a small one."""

    train_pairs: int = 400
    heldout_pairs: int = 100
    prompts: int = 60
    """Held-out prompts that are answered afresh at each strength."""
    max_new_tokens: int = 80
    """An answer of at most 50 words fits in."""
    probe_questions: int = 200
    neutral_prompts: int = 60


def run_demo(
    output_dir: Path,
    *,
    model: str = DEFAULT_MODEL,
    size: DemoSize | None = None,
    training: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Run the demo.

    Args:
        output_dir: receives the adapter, summary.json and report.html.
        model: the base model.
        size: how much to do.
        training: fields of `QAdapterTrainingArguments` that replace the demo's.

    Returns:
        What summary.json holds.
    """
    started = time.monotonic()
    size = size or DemoSize()
    torch.manual_seed(0)
    tokenizer = load_base_tokenizer(model)
    dtype = machine_dtype("bfloat16", training_device(use_cpu=False))
    base = load_base(model, dtype=dtype)
    counts = {"train": size.train_pairs, "heldout": size.heldout_pairs}
    pairs = {name: shipped_pairs(name).select(range(count)) for name, count in counts.items()}
    args = QAdapterTrainingArguments(**{**_training_defaults(output_dir), **(training or {})})
    _say(f"base model     {model}, {sum(p.numel() for p in base.parameters()) / 1e6:.0f}M parameters, frozen, {dtype}")
    _say(f"preference     {PREFERENCE}")
    _say(f"data           {len(pairs['train'])} training pairs, {len(pairs['heldout'])} held out")

    trainer = QAdapterTrainer(base, args, train_dataset=pairs["train"], processing_class=tokenizer)
    customized: QAdapterForCausalLM = trainer.model
    heldout = tokenize_dataset(pairs["heldout"], tokenizer, max_length=args.max_length)
    with _stage("held-out pairs, before"):
        before = evaluate_preference(customized, heldout, tokenizer.pad_token_id)
    _say("\ntraining (the adapter starts at Q = 0: the base model itself)")
    train_started = time.monotonic()
    trainer.train()
    train_seconds = time.monotonic() - train_started
    trainer.save_model(str(output_dir))

    _say("\nmeasuring")
    with _stage("held-out pairs, after"):
        after = evaluate_preference(customized, heldout, tokenizer.pad_token_id)
    prompts = [row["prompt"] for row in pairs["heldout"].select(range(size.prompts))]
    answers, fulfilled, checker = {}, {}, Checker(brief_with_follow_up)
    for strength in STRENGTHS:
        with _stage(f"fresh answers, {_label(strength)}"):
            answers[strength] = answer_prompts(
                customized, tokenizer, prompts, max_new_tokens=size.max_new_tokens, strength=strength, batch_size=64
            )
        fulfilled[strength] = mean_score(checker.judge(prompts, answers[strength]))
    with _stage("distance to the base on neutral prompts"):
        neutral = _spread(load_neutral_prompts(), size.neutral_prompts)
        found = evaluate_retention(customized, tokenizer, neutral, strengths=STRENGTHS)
        retention = dict(zip(STRENGTHS, found, strict=True))
    questions = _spread(load_probe(), size.probe_questions)
    with _stage("multiple-choice probe, both policies"):
        probe = evaluate_probe(customized, tokenizer, questions)
    summary = {
        "preference_accuracy": {"before": before.accuracy, "after": after.accuracy},
        "fulfilment": {"before": fulfilled[0.0], "after": fulfilled[1.0]},
        "retention_probe": {"before": _mean(probe.base), "after": _mean(probe.customized)},
        "kl_to_base": retention[1.0].kl_to_base,
        "seconds": time.monotonic() - started,
        "peak_memory_gb": _peak_memory_gb(),
        "train_seconds": train_seconds,
        "top1_agreement": retention[1.0].top1_agreement,
        "kl_by_kind": retention[1.0].kl_by_kind,
        "by_strength": [
            {"strength": s, "fulfilment": fulfilled[s], "kl_to_base": retention[s].kl_to_base} for s in STRENGTHS
        ],
        "counts": {
            "train_pairs": len(pairs["train"]),
            "heldout_pairs": after.pairs,
            "answered_prompts": len(prompts),
            "neutral_prompts": retention[1.0].prompts,
            "probe_questions": len(questions),
        },
        "model": model,
        "dtype": dtype,
        "constants": vars(args.constants),
        "learning_rate": args.learning_rate,
    }
    (output_dir / "summary.json").write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _report(output_dir, summary, prompts, answers)
    _print_result(output_dir, summary, prompts, answers)
    return summary


def shipped_pairs(name: str) -> Dataset:
    """The demo's `train` or `heldout` pairs."""
    with as_file(files(__package__).joinpath(f"preference.{name}.jsonl")) as path:
        return load_preference_dataset(path)


def _training_defaults(output_dir: Path) -> dict[str, Any]:
    # The demo shows a change of behaviour at strength 1 after some hundred steps: they are smaller batches and larger
    # steps than the default's, its policy may move further from the base (α), its anchors weigh less, and
    # the preference alone moves it.
    return {
        "alpha_0": 0.07,
        "alpha_tilde": 0.07,
        "sft_coef": 0.0,
        "anchors": 100,
        "anchor_coef": 1.0,
        "output_dir": str(output_dir),
        "per_device_train_batch_size": 4,
        "max_length": 112,
        "logging_steps": 10,
        "save_strategy": "no",
        "disable_tqdm": True,
        "seed": 0,
        "learning_rate": 1.25e-3,
    }


def _report(
    output_dir: Path, summary: dict[str, Any], prompts: Sequence[Any], answers: dict[float, list[Answer]]
) -> None:
    def percent(key: str) -> tuple[str, str]:
        return f"{summary[key]['before']:.1%}", f"{summary[key]['after']:.1%}"

    counts = summary["counts"]
    write_report(
        output_dir / "report.html",
        title=f"Q-Adapter demo: {PREFERENCE}",
        rows=[
            ReportRow(
                "fulfilment", *percent("fulfilment"), f"fresh answers to {counts['answered_prompts']} held-out prompts"
                " that a program accepts: at most 50 words, an answer, then one question"
            ),
            ReportRow(
                "preference accuracy", *percent("preference_accuracy"),
                f"of {counts['heldout_pairs']} held-out pairs, ranked by Q; an untrained Q is zero, all pairs tie",
            ),
            ReportRow(
                "multiple-choice probe", *percent("retention_probe"),
                f"{counts['probe_questions']} easy questions: what the model still knows",
            ),
            ReportRow(
                "KL to the base", "0", f"{summary['kl_to_base']:.3f}",
                f"nats per token, in the first 32 of the base's answers to {counts['neutral_prompts']} neutral prompts",
            ),
            ReportRow(
                "same most likely token", "100%", f"{summary['top1_agreement']:.1%}", "on the same tokens"
            ),
        ],
        dial=[DialPoint(row["strength"], row["kl_to_base"], row["fulfilment"]) for row in summary["by_strength"]],
        metrics_file=output_dir / METRICS_FILE,
        prompts=[prompt[-1]["content"] for prompt in prompts[:6]],
        answers={_label(strength): [_shown(a) for a in given[:6]] for strength, given in answers.items()},
        facts={
            "model": f"{summary['model']}, {summary['dtype']}",
            "training pairs": counts["train_pairs"],
            **summary["constants"],
            "learning rate": summary["learning_rate"],
            "training": f"{summary['train_seconds']:.0f} s",
            "whole run": f"{summary['seconds']:.0f} s",
            "peak memory": f"{summary['peak_memory_gb']:.2f} GB",
        },
    )  # fmt: skip


def _print_result(
    output_dir: Path, summary: dict[str, Any], prompts: Sequence[Any], answers: dict[float, list[Answer]]
) -> None:
    for index, prompt in enumerate(prompts[:3]):
        _say(f"\n» {prompt[-1]['content']}")
        for strength, given in answers.items():
            _say(f"  {_label(strength):<13} {' '.join(_shown(given[index]).split())}")
    _say(f"\n{'':<34}{'before':>8}{'after':>8}")
    for label, key in (
        ("answers that fulfil the preference", "fulfilment"),
        ("held-out preference accuracy", "preference_accuracy"),
        ("multiple-choice probe", "retention_probe"),
    ):
        _say(f"{label:<34}{summary[key]['before']:>8.1%}{summary[key]['after']:>8.1%}")
    _say(f"{'KL to the base (nats per token)':<34}{0:>8.3f}{summary['kl_to_base']:>8.3f}")
    _say(f"\n{summary['seconds']:.0f} s, {summary['peak_memory_gb']:.2f} GB at most")
    _say(f"report   {output_dir / 'report.html'}\nsummary  {output_dir / 'summary.json'}\nadapter  {output_dir}")
    _say(f'\ntry      qadapter chat {output_dir}\n         qadapter generate {output_dir} "How do I store onions?"')


def _label(strength: float) -> str:
    return "base" if strength == 0 else f"strength {strength:g}"


def _shown(answer: Answer) -> str:
    return answer.text if answer.finished else answer.text + " …"


def _spread(rows: list[Any], count: int) -> list[Any]:
    """`count` rows at equal distances, so that all kinds of them are there."""
    return [rows[index * len(rows) // count] for index in range(count)]


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values)


def _peak_memory_gb() -> float:
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


@contextmanager
def _stage(name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    _say(f"  {name:<42}{time.monotonic() - started:6.0f} s{_peak_memory_gb():8.2f} GB")


def _say(text: str) -> None:
    print(text, flush=True)
