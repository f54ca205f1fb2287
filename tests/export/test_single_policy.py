"""`peft` and `merged`: reloaded in plain transformers and PEFT, against the mixed policy of the artifact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
import transformers
from conftest import FAMILIES

from qadapter import QAdapterForCausalLM
from qadapter.cli.main import main

Artifact = Callable[..., Path]
IDS = torch.tensor([[1, 9, 10, 11, 12, 30, 31], [1, 3, 8, 20, 5, 44, 2]])


def exported(adapter: Path, target: str, output: Path, *flags: str) -> Path:
    assert main(["export", str(adapter), "--to", target, "--output", str(output), *flags]) == 0
    return output


def reload(target: str, folder: Path, adapter: Path) -> torch.nn.Module:
    if target == "merged":
        return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    base = transformers.AutoModelForCausalLM.from_pretrained(adapter.parent / "base")
    return peft.PeftModel.from_pretrained(base, folder).eval()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("target", ["peft", "merged"])
def test_the_reloaded_model_has_the_mixed_policys_logits(
    target: str, family: str, make_artifact: Artifact, tmp_path: Path
) -> None:
    adapter = make_artifact(family)
    model = reload(target, exported(adapter, target, tmp_path / "out"), adapter)
    with torch.no_grad():
        expected = QAdapterForCausalLM.from_pretrained(adapter)(IDS).logits
        torch.testing.assert_close(model(IDS).logits, expected, rtol=0, atol=1e-5)
