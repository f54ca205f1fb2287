"""`--to vllm`: what lies in the folder, and what is refused. Whether vLLM serves it: tests/vllm_plugin."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from conftest import PAPER, make_base
from peft import LoraConfig
from safetensors.torch import load_file

from qadapter import QConstants
from qadapter.cli.main import main
from qadapter.vllm.packing import factors_by_layer
from qadapter.vllm.served_policy import served_policy

Artifact = Callable[..., Path]


def export(adapter: Path, output: Path, *flags: str) -> int:
    return main(["export", str(adapter), "--to", "vllm", "--output", str(output), *flags])


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_the_folder(family: str, make_artifact: Artifact, tmp_path: Path) -> None:
    adapter, out = make_artifact(family, PAPER), tmp_path / "out"
    assert export(adapter, out, "--strength", "0.5") == 0
    config = json.loads((out / "config.json").read_text())
    base = json.loads((adapter.parent / "base" / "config.json").read_text())
    assert config["architectures"] == [f"QAdapter{base['architectures'][0]}"]
    changed = {"architectures", "model_type", "qadapter"}
    assert {key: config[key] for key in config if key not in changed} == {
        key: base[key] for key in base if key not in changed
    }
    policy = served_policy(config["qadapter"])
    assert (policy.constants, policy.strength, policy.rank, policy.scaling) == (PAPER, 0.5, 8, 2.0)
    factors = load_file(out / "adapter" / "adapter_model.safetensors")
    assert len(factors) == policy.tensors == 2 * 7 * base["num_hidden_layers"]
    assert {projection for _, projection in factors_by_layer(factors)} == set(policy.targets)
    weights = out / "model.safetensors"
    assert weights.is_symlink()
    assert weights.resolve() == (adapter.parent / "base" / "model.safetensors").resolve()
    assert transformers.PreTrainedTokenizerFast.from_pretrained(out).get_vocab()
    card = (out / "README.md").read_text()
    assert "vllm serve" in card
    # The package is on no index: it is installed from a clone.
    assert "pip install --no-deps .\n" in card


def test_transformers_does_not_load_it_as_the_base(make_artifact: Artifact, tmp_path: Path) -> None:
    assert export(make_artifact("llama"), tmp_path / "out") == 0
    with pytest.raises(ValueError, match="qadapter_llama"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_copied_weights_in_several_files(
    tokenizer: transformers.PreTrainedTokenizerFast, make_artifact: Artifact, tmp_path: Path
) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    make_base("llama").save_pretrained(base, max_shard_size="20KB")
    files = {path.name: path.read_bytes() for path in base.glob("model*")}
    assert len(files) > 2
    assert export(make_artifact("llama"), out, "--base", str(base), "--copy-weights") == 0
    assert {path.name: path.read_bytes() for path in out.glob("model*")} == files
    assert not any(path.is_symlink() for path in out.iterdir())


@pytest.mark.parametrize(
    ("family", "lora", "constants", "word"),
    [
        ("gpt2", None, PAPER, "family 'gpt2' was not written"),
        ("gemma2", None, PAPER, "family 'gemma2' was not written"),
        ("llama", LoraConfig(target_modules=["q_proj"], use_dora=True), PAPER, "use_dora=True"),
        ("llama", LoraConfig(target_modules=["q_proj"], rank_pattern={"layers.0": 3}), PAPER, "rank_pattern="),
        ("llama", LoraConfig(target_modules=["embed_tokens"]), PAPER, "LoRA on the embedding"),
        ("llama", None, QConstants("logits", alpha_0=0.0), "no policy"),
    ],
)
def test_what_would_be_served_wrongly_is_refused_and_nothing_is_left(
    family: str,
    lora: LoraConfig | None,
    constants: QConstants,
    word: str,
    make_artifact: Artifact,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    adapter = make_artifact(family, constants, lora)
    assert export(adapter, tmp_path / "out") == 2
    assert word in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda adapter: (adapter / "adapter_model.safetensors").write_bytes(b"half"), "cannot be read as a LoRA"),
        (lambda adapter: (adapter / "adapter_config.json").write_text("{"), "cannot be read as a LoRA"),
        (lambda adapter: (adapter / "adapter_config.json").unlink(), "adapter_config.json is missing"),
    ],
)
def test_a_damaged_artifact_is_one_line(
    damage: Callable[[Path], object],
    said: str,
    make_artifact: Artifact,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy = shutil.copytree(make_artifact("llama").parent, tmp_path / "copy")
    (config,) = copy.glob("*/qadapter_config.json")
    damage(config.parent / "adapter")
    assert export(config.parent, tmp_path / "out") == 2
    assert said in capsys.readouterr().err


def test_the_precision_of_the_weights_is_recorded(make_artifact: Artifact, tmp_path: Path) -> None:
    assert export(make_artifact("llama"), tmp_path / "out", "--dtype", "bfloat16") == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == str(torch.bfloat16)[6:]
