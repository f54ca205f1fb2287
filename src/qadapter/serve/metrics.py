"""Counters, gauges and histograms in the text format of Prometheus."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Sequence


class Counter:
    """A number that only grows, one per combination of label values.

    Args:
        name: ends in `_total`.
        help: one line.
        labels: names of the labels.
    """

    kind = "counter"

    def __init__(self, name: str, help: str, labels: Sequence[str] = ()) -> None:
        self.name, self.help, self.labels = name, help, tuple(labels)
        self._lock = threading.Lock()
        self._values: dict[tuple[str, ...], float] = {} if labels else {(): 0}

    def add(self, amount: float, *values: str) -> None:
        """Grow by `amount`."""
        with self._lock:
            self._values[values] = self._values.get(values, 0) + amount

    def value(self, *values: str) -> float:
        """What it has grown to."""
        return self._values.get(values, 0)

    def samples(self) -> list[str]:
        """Its lines."""
        with self._lock:
            return [f"{self.name}{_labels(self.labels, values)} {value}" for values, value in self._values.items()]


class Gauge(Counter):
    """A number that goes up and down."""

    kind = "gauge"

    def set(self, value: float) -> None:
        """Replace it."""
        with self._lock:
            self._values[()] = value


class Histogram:
    """How often values fell below each of some bounds.

    Args:
        name: with its unit.
        help: one line.
        bounds: ascending.
    """

    kind = "histogram"

    def __init__(self, name: str, help: str, bounds: Sequence[float]) -> None:
        self.name, self.help, self.bounds = name, help, tuple(bounds)
        self._lock = threading.Lock()
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        with self._lock:
            self._counts[bisect_left(self.bounds, value)] += 1
            self._sum += value

    def samples(self) -> list[str]:
        """Its lines; buckets are cumulative."""
        with self._lock:
            lines, total = [], 0
            for bound, count in zip([*self.bounds, "+Inf"], self._counts, strict=True):
                total += count
                lines.append(f'{self.name}_bucket{{le="{bound}"}} {total}')
            return [*lines, f"{self.name}_sum {self._sum}", f"{self.name}_count {total}"]


Metric = Counter | Histogram

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class EngineMetrics:
    """What the decoder counts."""

    def __init__(self) -> None:
        self.answered = Counter("qadapter_requests_answered_total", "Prompts whose choices were all finished.")
        self.cancelled = Counter("qadapter_requests_cancelled_total", "Prompts whose client went away.")
        self.failed = Counter("qadapter_requests_failed_total", "Prompts ended by a deadline, a shutdown or a fault.")
        self.refused = Counter("qadapter_requests_refused_total", "Prompts turned away because the queue was full.")
        self.prompt_tokens = Counter("qadapter_prompt_tokens_total", "Prompt tokens read.")
        self.completion_tokens = Counter("qadapter_completion_tokens_total", "Tokens chosen.")
        self.waiting = Gauge("qadapter_requests_waiting", "Prompts in the queue.")
        self.slots = Gauge("qadapter_slots_used", "Choices that decode.")
        self.kv_bytes = Gauge("qadapter_kv_bytes", "Memory reserved for keys and values of choices that decode.")
        self.view_kv_bytes = Gauge("qadapter_view_kv_bytes", "The same of the token view that is being made.")
        self.step_seconds = Histogram("qadapter_step_seconds", "Duration of a decode step.", _SECONDS)
        self.step_rows = Histogram(
            "qadapter_step_rows", "Rows of a decode step, of both policies.", (1, 2, 4, 8, 16, 32, 64)
        )
        self.first_token_seconds = Histogram(
            "qadapter_first_token_seconds", "From a prompt's admission to its first token.", _SECONDS
        )
        self.first_token_steps = Histogram(
            "qadapter_first_token_steps",
            "Decode steps from a prompt's admission to its first token.",
            (0, 1, 2, 4, 8, 16),
        )

    def observe_load(self, waiting: int, slots: int, kv_bytes: int) -> None:
        """How busy the decoder is now."""
        self.waiting.set(waiting)
        self.slots.set(slots)
        self.kv_bytes.set(kv_bytes)

    def all(self) -> list[Metric]:
        """Every metric."""
        return list(vars(self).values())


def render(metrics: Sequence[Metric]) -> str:
    """The text that Prometheus reads."""
    lines = []
    for metric in metrics:
        lines += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}", *metric.samples()]
    return "\n".join(lines) + "\n"


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    if not names:
        return ""
    # Values are ours: paths of routes and status codes, nothing that a client wrote.
    return "{" + ",".join(f'{name}="{value}"' for name, value in zip(names, values, strict=True)) + "}"
