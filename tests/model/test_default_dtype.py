"""The dtype where none is named: bfloat16 only where the machine has instructions for it."""

from __future__ import annotations

import logging

import pytest
import torch

from qadapter.baselines import CommonArguments
from qadapter.cli.run_arguments import RunArguments
from qadapter.model import machine_dtype
from qadapter.model.default_dtype import multiplies_bfloat16


def cpu_with(monkeypatch: pytest.MonkeyPatch, *names: str, accelerator: bool = False) -> None:
    """A machine whose CPU has these capabilities and no others."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: accelerator)
    found = {"avx2": True, "avx512_bf16": False, "amx_bf16": False, **dict.fromkeys(names, True)}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)


@pytest.mark.parametrize("name", ["avx512_bf16", "amx_bf16", "bf16"])
def test_a_cpu_with_instructions_keeps_bfloat16(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    cpu_with(monkeypatch, name)
    assert multiplies_bfloat16()
    assert machine_dtype("bfloat16") == "bfloat16"
    assert machine_dtype("auto") == "auto"


@pytest.mark.parametrize("names", [(), ("avx512_f", "avx512_bw"), ("neon",)])
def test_a_cpu_without_them_gets_float32_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, names: tuple[str, ...]
) -> None:
    cpu_with(monkeypatch, *names)
    with caplog.at_level(logging.INFO, "qadapter"):
        assert machine_dtype("bfloat16") == machine_dtype("auto") == "float32"
    assert "no bfloat16 instructions" in caplog.text


def test_an_accelerator_keeps_bfloat16_whatever_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu_with(monkeypatch, accelerator=True)
    assert machine_dtype("bfloat16") == "bfloat16"


def test_a_torch_that_cannot_say_keeps_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu_with(monkeypatch)
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert machine_dtype("bfloat16") == "bfloat16"


@pytest.mark.parametrize("arguments", [RunArguments, CommonArguments])
def test_what_is_named_wins(monkeypatch: pytest.MonkeyPatch, arguments: type) -> None:
    cpu_with(monkeypatch)
    assert arguments(train_file="pairs.jsonl").dtype == "float32"
    assert arguments(train_file="pairs.jsonl", dtype="bfloat16").dtype == "bfloat16"
