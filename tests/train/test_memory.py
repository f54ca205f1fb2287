"""What is measured of memory: real allocations, limits of control groups, and which errors mean that it ran out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qadapter.train import memory
from qadapter.train.memory_estimate import estimate_memory

CPU = torch.device("cpu")
MIB = 2**20


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 8 bytes"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED."), False),
        (ValueError("out of memory"), False),
    ],
)
def test_which_errors_mean_that_memory_ran_out(error: Exception, expected: bool) -> None:
    assert memory.is_out_of_memory(error) is expected


def test_the_cpus_own_error_is_recognized() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert memory.is_out_of_memory(caught.value)


def filled(mib: int) -> torch.Tensor:
    """A tensor whose pages are really there."""
    return torch.ones(mib * MIB // 4)


def busy() -> None:
    """As a model's computation would: long enough to be looked at."""
    matrix = filled(1).reshape(512, 512)
    for _ in range(20):
        matrix @ matrix


def test_the_peak_on_a_cpu_is_that_of_the_work() -> None:
    def work() -> None:
        # So much that what earlier tests left free in the process does not matter.
        held = [filled(256), filled(256)]
        busy()
        held.clear()

    memory.release_memory()
    before = memory.used_memory(CPU)
    grown = memory.peak_memory(CPU, work) - before
    assert grown == pytest.approx(512 * MIB, rel=0.2)


def test_an_estimate_tells_what_is_fixed_from_what_each_pair_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qadapter.train.memory_estimate.available_memory", lambda _device: 400 * MIB)

    def work(count: int) -> None:
        held = [filled(48), filled(64 * count)]
        busy()
        held.clear()

    estimate = estimate_memory(CPU, work, pairs=20, tokens=5)
    assert estimate is not None
    assert estimate.per_pair == pytest.approx(64 * MIB, rel=0.2)
    assert estimate.fixed == pytest.approx(48 * MIB, rel=0.3)
    assert estimate.largest_batch(20) == 4


def test_an_estimate_where_not_even_one_pair_fits() -> None:
    def work(_count: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    estimate = estimate_memory(CPU, work, pairs=4, tokens=5)
    assert estimate is not None
    assert not estimate.one_fits
    assert estimate.largest_batch(4) == 1
    assert "not even one pair of 5 tokens fits" in estimate.describe(4)


def test_an_estimate_hides_no_other_error() -> None:
    def work(_count: int) -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        estimate_memory(CPU, work, pairs=4, tokens=5)


def group(folder: Path, names: tuple[str, str, str], limit: str, used: int, cache: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\n{names[2]} {cache}\n")


def test_limits_of_control_groups(tmp_path: Path) -> None:
    """The tightest limit on the way up holds; the file cache gives way."""
    two = ("memory.max", "memory.current", "inactive_file")
    membership = tmp_path / "cgroup"
    membership.write_text("0::/outer/inner\n")
    assert memory.cgroup_available(tmp_path, membership) is None
    group(tmp_path / "outer" / "inner", two, "max", 10, 0)
    assert memory.cgroup_available(tmp_path, membership) is None
    group(tmp_path / "outer", two, "1000", 700, 50)
    assert memory.cgroup_available(tmp_path, membership) == 350

    one = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    membership.write_text("9:name=systemd:/\n4:cpu,memory:/not/visible/here\n")
    group(tmp_path / "memory", one, "500", 600, 20)
    assert memory.cgroup_available(tmp_path, membership) == 0
    assert memory.cgroup_available(tmp_path, tmp_path / "missing") is None


def test_what_is_available_respects_the_limits_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "cgroup_available", lambda: 12345)
    assert memory.available_memory(CPU) == 12345
    monkeypatch.setattr(memory, "cgroup_available", lambda: None)
    assert memory.available_memory(CPU) > 12345
    # As after `ulimit -v`, without doing that to the other tests.
    vms = memory.psutil.Process().memory_info().vms
    monkeypatch.setattr(memory.resource, "getrlimit", lambda _which: (vms + 50 * MIB, vms + 50 * MIB))
    assert 0 < memory.available_memory(CPU) <= 51 * MIB
    monkeypatch.setattr(memory.resource, "getrlimit", lambda _which: (vms // 2, vms // 2))
    assert memory.available_memory(CPU) == 0
    assert memory.available_memory(torch.device("meta")) is None
