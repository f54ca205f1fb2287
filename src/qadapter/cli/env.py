"""`qadapter env`: versions and hardware, as lines that can be pasted into a bug report. No paths, no host names."""

from __future__ import annotations

import argparse
import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .. import __version__

_REQUIRED = ("torch", "transformers", "peft", "accelerate", "datasets", "safetensors", "tokenizers", "PyYAML")
_OPTIONAL = ("trl", "gguf", "matplotlib", "bitsandbytes", "flash-attn", "deepspeed", "vllm")
_TRACKERS = ("tensorboard", "trackio", "wandb")


def add_parser(subparsers: Any) -> None:
    """Register `env`.

    Args:
        subparsers: what `ArgumentParser.add_subparsers` returned. `args.run(args)` returns the exit status.
    """
    parser = subparsers.add_parser("env", help="versions and hardware, for bug reports")
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what `environment()` finds. Returns 0."""
    found = environment()
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    for name, value in found.items():
        print(f"{name + ':':<15} {', '.join(value) if isinstance(value, list) else value}")
    return 0


def environment() -> dict[str, Any]:
    """Name → version, text or number; "not installed" for a missing package, a list for the GPUs."""
    return {
        "qadapter": __version__,
        "python": platform.python_version(),
        **{package: _version(package) for package in (*_REQUIRED, *_OPTIONAL, *_TRACKERS)},
        "os": platform.platform(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": _memory(),
        "cuda": _cuda_devices() or ["none"],
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    except (AttributeError, ValueError, OSError):
        return "unknown"


def _cuda_devices() -> list[str]:
    try:
        import torch
    except (ImportError, OSError) as error:
        # A broken torch is what a bug report is most often about.
        return [f"unknown: torch cannot be imported ({type(error).__name__}: {str(error).splitlines()[0]})"]
    if not torch.cuda.is_available():
        return []
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append(f"{properties.name} ({properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda})")
    return found
