"""What a run leaves behind while it runs: a file of metrics, and a line on the terminal."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..data.whole_file import write_whole

METRICS_FILE = "metrics.jsonl"


def metrics_lines(path: Path) -> list[str]:
    """The lines of a `metrics.jsonl`, but for a last one that a killed run did not write to its end."""
    *lines, _unfinished = path.read_text(encoding="utf-8").split("\n")
    return lines


class MetricsFile(TrainerCallback):
    """Every log line of the Trainer as one JSON line in `output_dir/metrics.jsonl`.

    A resumed run drops the lines past its checkpoint, which it is about to repeat, and appends.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            path = Path(args.output_dir) / METRICS_FILE
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = metrics_lines(path) if state.global_step and path.exists() else []
            kept = [line for line in lines if json.loads(line)["step"] <= state.global_step]
            write_whole(path, "".join(line + "\n" for line in kept))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero and logs:
            path = Path(args.output_dir) / METRICS_FILE
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")


class Progress(TrainerCallback):
    """Pairs per second and time left: a bar on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self.bar: tqdm | None = None
        self.first_step = 0
        self.started = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.first_step, self.started = state.global_step, time.monotonic()
        if state.is_world_process_zero and sys.stderr.isatty() and not args.disable_tqdm:
            self.bar = tqdm(
                total=state.max_steps * _pairs_per_step(args),
                initial=state.global_step * _pairs_per_step(args),
                unit="pair",
                dynamic_ncols=True,
            )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(_pairs_per_step(args))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or not logs:
            return
        kind = "eval_" if any(name.startswith("eval_") for name in logs) else ""
        shown = {
            "loss": logs.get(f"{kind}loss"),
            "accuracy": logs.get(f"{kind}rewards/accuracies"),
            "margin": logs.get(f"{kind}rewards/margins"),
            "chi2": logs.get(f"{kind}chi2"),
        }
        text = "  ".join(f"{name} {float(value):.3f}" for name, value in shown.items() if value is not None)
        if not text:
            return
        if self.bar is not None and not kind:
            self.bar.set_postfix_str(text)
            return
        steps, elapsed = state.global_step - self.first_step, time.monotonic() - self.started
        pace = ""
        if steps and not kind:
            left = elapsed / steps * (state.max_steps - state.global_step)
            pace = f"  {steps * _pairs_per_step(args) / elapsed:.2f} pairs/s  left {left // 60:.0f}:{left % 60:02.0f}"
        label = "eval" if kind else f"step {state.global_step}/{state.max_steps}"
        tqdm.write(f"{label}  {text}{pace}", file=sys.stderr)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def _pairs_per_step(args: TrainingArguments) -> int:
    return args.train_batch_size * args.gradient_accumulation_steps * args.world_size
