"""What a result was measured on."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch


def describe(device: str) -> dict[str, Any]:
    """Hardware, versions, commit, time."""
    return {
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "hardware": _hardware(device),
        "versions": {name: _version(name) for name in ("torch", "transformers", "peft", "trl", "qadapter")},
        "python": platform.python_version(),
    }


def _commit() -> str:
    root = Path(__file__).parents[2]
    try:
        head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=root, capture_output=True, text=True)
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"], cwd=root, capture_output=True, text=True
        )
    except FileNotFoundError:
        return "unknown"
    return (head.stdout.strip() or "unknown") + ("+changes" if changed.stdout.strip() else "")


def _hardware(device: str) -> dict[str, Any]:
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        return {"gpu": properties.name, "gpu_memory_gb": properties.total_memory / 1e9, "cuda": torch.version.cuda}
    model = "unknown"
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": model,
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "memory_gb": memory / 1e9,
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
