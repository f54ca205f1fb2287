"""The memory of a device: what is free, what a piece of work takes at its peak, and whether it ran out."""

from __future__ import annotations

import ctypes
import gc
import resource
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from accelerate.utils.memory import clear_device_cache

# CUDA and others; torch's allocator on the CPU; cuBLAS, which takes its workspace by itself.
_OUT_OF_MEMORY_TEXTS = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
# Seconds between two looks at the process on the CPU. Its peak counter could be read instead, but only after a reset
# that takes it from everybody else.
_SAMPLING_INTERVAL = 0.002


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY_TEXTS)


def release_memory() -> None:
    """Give back what is no longer used. An exception that is being handled still holds its frames' tensors."""
    gc.collect()
    clear_device_cache()
    # glibc keeps freed blocks for itself, where neither the kernel nor a measurement sees that they are free.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def used_memory(device: torch.device) -> int:
    """Bytes in use now: by tensors on a CUDA device, by this process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return psutil.Process().memory_info().rss


def available_memory(device: torch.device) -> int | None:
    """Bytes that can be taken beyond those in use; None where that is not known (neither CPU nor CUDA)."""
    if device.type == "cuda":
        free, _total = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    limits = (psutil.virtual_memory().available, cgroup_available(), _address_space_left())
    return min(limit for limit in limits if limit is not None)


def peak_memory(device: torch.device, work: Callable[[], object]) -> int:
    """The most bytes in use at a time while `work` ran, what was in use before included.

    Args:
        device: a CUDA device (exact; its peak statistics are reset) or the CPU (sampled).
        work: called once; its errors pass through.
    """
    release_memory()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device)
    peak, done = used_memory(device), threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(_SAMPLING_INTERVAL):
            peak = max(peak, used_memory(device))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return peak


def cgroup_available(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int | None:
    """Bytes left under the tightest memory limit of this process's control groups; None where there is none.

    Args:
        root: where the control groups are mounted.
        membership: the file that names the groups of this process, of version 1 or 2.
    """
    left = []
    for line in membership.read_text().splitlines() if membership.is_file() else ():
        _id, controllers, path = line.split(":", 2)
        if not controllers:
            top, files = root, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top, files = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        own = top / path.lstrip("/")
        # A limit on any group above holds too; inside a container the named path itself may not be visible.
        left += [_left_in(group, *files) for group in (own, *own.parents) if group.is_relative_to(top)]
    return min((bytes_left for bytes_left in left if bytes_left is not None), default=None)


def _address_space_left() -> int | None:
    """Bytes left under `ulimit -v`."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else max(0, limit - psutil.Process().memory_info().vms)


def _left_in(group: Path, limit_file: str, use_file: str, cache_key: str) -> int | None:
    try:
        limit, use = (group / limit_file).read_text().strip(), int((group / use_file).read_text())
        # The file cache counts as used, but gives way.
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    return None if limit == "max" else max(0, int(limit) - use + int(statistics.get(cache_key, 0)))
