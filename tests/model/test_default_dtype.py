"""The dtype where none is named: bfloat16 only where the machine has instructions for it."""

from __future__ import annotations

import logging

import pytest
import torch

from qadapter.baselines import CommonArguments
from qadapter.model import machine_dtype
from qadapter.model.default_dtype import multiplies_bfloat16, training_device


def cpu_with(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """A machine whose CPU has these capabilities and no others."""
    found = {"avx2": True, "avx512_bf16": False, "amx_bf16": False, **dict.fromkeys(names, True)}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)


@pytest.mark.parametrize("name", ["avx512_bf16", "amx_bf16", "bf16"])
def test_a_cpu_with_instructions_keeps_bfloat16(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    cpu_with(monkeypatch, name)
    assert multiplies_bfloat16("cpu")
    assert machine_dtype("bfloat16", "cpu") == "bfloat16"
    assert machine_dtype("auto", "cpu") == "auto"


@pytest.mark.parametrize("names", [(), ("avx512_f", "avx512_bw"), ("neon",)])
def test_a_cpu_without_them_gets_float32_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, names: tuple[str, ...]
) -> None:
    cpu_with(monkeypatch, *names)
    with caplog.at_level(logging.INFO, "qadapter"):
        assert machine_dtype("bfloat16", "cpu") == machine_dtype("auto", "cpu") == "float32"
    assert "no bfloat16 instructions" in caplog.text


def test_an_accelerator_keeps_bfloat16_whatever_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu_with(monkeypatch)
    assert machine_dtype("bfloat16", "cuda") == machine_dtype("bfloat16", "mps") == "bfloat16"


def test_a_cpu_that_is_asked_for_counts_beside_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))
    assert training_device(use_cpu=False) == "mps"
    assert training_device(use_cpu=True) == "cpu"
    cpu_with(monkeypatch)
    assert CommonArguments(train_file="pairs.jsonl").dtype == "bfloat16"
    assert CommonArguments(train_file="pairs.jsonl", use_cpu=True).dtype == "float32"


def test_a_torch_that_cannot_say_keeps_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu_with(monkeypatch)
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert machine_dtype("bfloat16", "cpu") == "bfloat16"


def test_what_is_named_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu_with(monkeypatch)
    assert CommonArguments(train_file="pairs.jsonl", use_cpu=True, dtype="bfloat16").dtype == "bfloat16"
