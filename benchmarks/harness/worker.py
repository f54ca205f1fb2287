"""One measured subject per process. The processes live through the whole run and take turns, so that what else the
machine does meets all of them alike, and each has a peak memory of its own."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

Facts = dict[str, Any]


class Gate:
    """The child's side: a subject waits here for its turn and reports what the turn took."""

    def __init__(self, connection: Connection, device: str) -> None:
        self.connection, self.device = connection, device
        self._start = 0.0

    def ready(self, **facts: Any) -> None:
        """Say that the set-up is done; peak memory counts from here."""
        self._memory_before = reset_peak_memory(self.device)
        self.connection.send(facts)

    def wait(self) -> bool:
        """Block until it is this subject's turn; False where there is none to come."""
        if self.connection.recv() == "stop":
            return False
        self._start = self.now()
        return True

    def now(self) -> float:
        """Seconds; what was queued on the device has ended."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def report(self, **facts: Any) -> None:
        """End the turn."""
        seconds = self.now() - self._start
        peak = peak_memory(self.device)
        self.connection.send({"seconds": seconds, "peak_bytes": peak, "before_bytes": self._memory_before, **facts})


class Worker:
    """The parent's side of one subject."""

    def __init__(self, name: str, subject: Callable[..., None], device: str, **config: Any) -> None:
        self.name, self.turns = name, []
        context = multiprocessing.get_context("spawn")
        self._connection, child = context.Pipe()
        self._process = context.Process(target=_run, args=(child, subject, device, config), daemon=True)
        self._process.start()
        child.close()
        self.facts = self._receive()

    def turn(self) -> Facts:
        """Let the subject run once."""
        self._connection.send("go")
        self.turns.append(self._receive())
        return self.turns[-1]

    def close(self) -> None:
        """End the process."""
        with suppress(BrokenPipeError):  # it may have ended by itself after its last turn
            self._connection.send("stop")
        self._process.join(timeout=60)
        self._process.kill()

    def _receive(self) -> Facts:
        try:
            facts = self._connection.recv()
        except EOFError:
            self._process.join()
            raise SystemExit(
                f"{self.name}: its process ended with code {self._process.exitcode} (-9: out of memory)"
            ) from None
        if "error" in facts:
            raise SystemExit(f"{self.name} failed:\n{facts['error']}")
        return facts


def take_turns(workers: list[Worker], rounds: int, warmup: int) -> None:
    """`warmup` + `rounds` turns for each, one after the other; those of the warm-up are forgotten."""
    for number in range(warmup + rounds):
        for worker in workers:
            facts = worker.turn()
            if number < warmup:
                worker.turns.clear()
            print(f"  {worker.name:<28} {facts['seconds']:8.3f} s" + ("  (warm-up)" if number < warmup else ""))


def reset_peak_memory(device: str) -> int:
    """Start a new peak; returns the bytes in use now."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")
    return _status_bytes("VmRSS")


def peak_memory(device: str) -> int:
    """Bytes at the peak: allocated on the device, or resident in the whole process."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else _status_bytes("VmHWM")


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def _run(connection: Connection, subject: Callable[..., None], device: str, config: Facts) -> None:
    # What libraries print would be read as part of the table.
    log = os.open(os.environ.get("BENCH_WORKER_LOG", os.devnull), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        subject(Gate(connection, device), device=device, **config)
    except BaseException:
        connection.send({"error": traceback.format_exc()})
        raise
