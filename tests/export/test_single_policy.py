"""`peft` and `merged`: reloaded in plain transformers and PEFT, against the mixed policy of the artifact."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
import transformers
from conftest import FAMILIES, PAPER, RESIDUAL
from exported import DORA, IDS, dense_kl, export, record_of, reloaded
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from qadapter import QAdapterForCausalLM, QConstants, load_tokenizer
from qadapter.cli.main import main
from qadapter.data import encode_prompt
from qadapter.evaluate.inputs import read_neutral_prompts
from qadapter.evaluate.retention import as_input
from qadapter.export import source
from qadapter.generate import answer_prompts

MakeArtifact = Callable[..., Path]
PATTERNS = LoraConfig(
    r=4, lora_alpha=6, use_rslora=True, rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 3},
    target_modules="all-linear", task_type="CAUSAL_LM",
)  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("target", ["peft", "merged"])
def test_the_reloaded_model_has_the_mixed_policys_logits(
    target: str, family: str, make_artifact: MakeArtifact, tmp_path: Path
) -> None:
    adapter = make_artifact(family)
    folder = export(adapter, target, tmp_path / "out")
    model = reloaded(target, folder, adapter)
    with torch.no_grad():
        exact = QAdapterForCausalLM.from_pretrained(adapter)
        expected = exact(IDS).logits
        torch.testing.assert_close(model(IDS).logits, expected, rtol=0, atol=1e-5)
        assert (expected - exact(IDS, strength=0.0).logits).abs().max() > 0.05
    assert record_of(folder)["exact"]
    assert record_of(folder)["distance"] is None


@pytest.mark.parametrize("lora", [DORA, PATTERNS], ids=["dora", "rslora and patterns"])
@pytest.mark.parametrize("target", ["peft", "merged"])
def test_other_kinds_of_lora(target: str, lora: LoraConfig, make_artifact: MakeArtifact, tmp_path: Path) -> None:
    adapter = make_artifact(lora=lora)
    model = reloaded(target, export(adapter, target, tmp_path / "out"), adapter)
    with torch.no_grad():
        expected = QAdapterForCausalLM.from_pretrained(adapter)(IDS).logits
        torch.testing.assert_close(model(IDS).logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("lora", [None, DORA, PATTERNS], ids=["lora", "dora", "rslora and patterns"])
@pytest.mark.parametrize("target", ["peft", "merged"])
def test_the_measured_kl_is_that_of_the_written_files(
    target: str,
    lora: LoraConfig | None,
    make_artifact: MakeArtifact,
    prompts_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    adapter = make_artifact(lora=lora)
    folder = export(adapter, target, tmp_path / "out", "--strength", 0.4, "--prompts", prompts_file)
    expected = dense_kl(adapter, reloaded(target, folder, adapter), 0.4, prompts_file)
    distance = record_of(folder)["distance"]
    assert distance["kl"] == pytest.approx(expected, rel=1e-3)
    assert expected > 1e-4
    assert distance["prompts"] == 4
    said = re.search(r"KL\(exact \|\| exported\) = (\S+) nats per token", capsys.readouterr().err)
    assert float(said[1]) == pytest.approx(expected, rel=0.01)
    assert said[0] in (folder / "README.md").read_text(encoding="utf-8")


def test_scaled_weights_are_those_of_the_scaled_adapter(
    make_artifact: MakeArtifact, prompts_file: Path, tmp_path: Path
) -> None:
    adapter = make_artifact()
    flags = ("--strength", 1.5, "--prompts", prompts_file)
    models = [reloaded(t, export(adapter, t, tmp_path / t, *flags), adapter) for t in ("peft", "merged")]
    plain = reloaded("peft", export(adapter, "peft", tmp_path / "plain"), adapter)
    for module in plain.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.scaling["default"] *= 1.5
    with torch.no_grad():
        for model in models:
            torch.testing.assert_close(model(IDS).logits, plain(IDS).logits, rtol=0, atol=2e-5)


def test_rounding_of_folded_weights_is_measured(
    make_artifact: MakeArtifact, prompts_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = make_artifact(dtype=torch.bfloat16)
    folder = export(adapter, "merged", tmp_path / "out", "--prompts", prompts_file)
    model, tokenizer = QAdapterForCausalLM.from_pretrained(adapter), load_tokenizer(adapter)
    merged = reloaded("merged", folder, adapter)
    assert merged.dtype == torch.bfloat16
    texts = [as_input(row, tokenizer) for row in read_neutral_prompts(str(prompts_file))]
    answers = answer_prompts(model, tokenizer, texts, max_new_tokens=32)
    total, tokens = 0.0, 0
    with torch.no_grad():
        for text, answer in zip(texts, answers, strict=True):
            prompt = encode_prompt(text, tokenizer)
            ids = torch.tensor([prompt + answer.token_ids])
            exact, got = (one(ids).logits.double().log_softmax(-1) for one in (model, merged))
            kl = (exact.exp() * (exact - got)).sum(-1)[0, len(prompt) - 1 : -1]
            total, tokens = total + kl.sum().item(), tokens + len(kl)
    # Batched and single sequences round differently in half precision too.
    assert record_of(folder)["distance"]["kl"] == pytest.approx(total / tokens, rel=0.5)
    assert total / tokens > 0
    assert "approximation" in capsys.readouterr().err
    assert not record_of(folder)["exact"]


def test_what_changes_nothing_is_at_no_distance(
    make_artifact: MakeArtifact, prompts_file: Path, tmp_path: Path
) -> None:
    """In bfloat16 too: logits that one side alone rounds would be a distance."""
    adapter = tmp_path / "artifact" / "adapter"
    shutil.copytree(make_artifact(dtype=torch.bfloat16).parent, adapter.parent)
    weights = adapter / "adapter" / "adapter_model.safetensors"
    save_file({name: torch.zeros_like(w) if "lora_B" in name else w for name, w in load_file(weights).items()}, weights)
    for target, strength in (("merged", 1), ("peft", 0.5)):
        folder = export(adapter, target, tmp_path / target, "--prompts", prompts_file, "--strength", strength)
        assert record_of(folder)["distance"]["kl"] < 1e-9


def test_measuring_leaves_no_trace_in_the_model(make_artifact: MakeArtifact) -> None:
    from qadapter.export.merged import _as_folded
    from qadapter.export.peft import _as_scaled

    model = QAdapterForCausalLM.from_pretrained(make_artifact(lora=DORA, dtype=torch.bfloat16))
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        expected = model(IDS, strength=0.5).logits
        for policy in (_as_folded, _as_scaled):
            policy(model, 0.3, input_ids=IDS)
            with pytest.raises(ValueError, match="exactly one of input_ids"):
                policy(model, 0.3, input_ids=None)
        assert torch.equal(model(IDS, strength=0.5).logits, expected)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_the_weights_are_cut_into_shards(make_artifact: MakeArtifact, tmp_path: Path) -> None:
    adapter = make_artifact()
    folder = export(adapter, "merged", tmp_path / "out", "--max-shard-size", "20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    with torch.no_grad():
        expected = QAdapterForCausalLM.from_pretrained(adapter)(IDS).logits
        torch.testing.assert_close(reloaded("merged", folder, adapter)(IDS).logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", ["5", "5G", "many", ""])
def test_a_size_without_unit_is_refused_before_anything_is_loaded(
    size: str, make_artifact: MakeArtifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--to", "merged", "--output", str(tmp_path / "out"), "--max-shard-size", size, "--base", "no-such-base"]
    assert main(["export", str(make_artifact()), *flags]) == 2
    assert "--max-shard-size must be a number with KB, MB, GB or TB" in capsys.readouterr().err


def test_the_card_of_an_adapter_of_a_quantized_base_does_not_call_it_exact(
    make_artifact: MakeArtifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = Path(shutil.copytree(make_artifact(), tmp_path / "adapter"))
    config = json.loads((adapter / "qadapter_config.json").read_text())
    config["base"]["load_in"] = "4bit"
    (adapter / "qadapter_config.json").write_text(json.dumps(config))
    folder = export(adapter, "peft", tmp_path / "out")
    said = capsys.readouterr().err
    assert "the export is the exact policy, but that it was trained on the base in 4bit, and this is for" in said
    assert "It was trained on the base in 4bit; on the base in full precision" in (folder / "README.md").read_text()
    assert json.loads((folder / "qadapter_export.json").read_text())["exact"] is False


def test_in_what_the_base_was_held_while_it_was_measured_is_told(
    make_artifact: MakeArtifact, prompts_file: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes (extra: quantized) is not installed")
    flags = ("--strength", 0.5, "--prompts", prompts_file)
    plain = export(make_artifact(), "peft", tmp_path / "plain", *flags)
    assert record_of(plain)["loaded_in"] is None
    assert "Measured: KL(exact" in (plain / "README.md").read_text()
    folder = export(make_artifact(), "peft", tmp_path / "out", *flags, "--load-in", "8bit")
    assert record_of(folder)["loaded_in"] == "8bit"
    assert (
        "Made and measured on the base in 8bit, not in full precision: KL(exact" in (folder / "README.md").read_text()
    )


def test_the_copy_of_the_base_from_the_package_index_is_not_the_one_that_a_peft_card_names(
    make_artifact: MakeArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = make_artifact()
    copied = json.loads((adapter / "qadapter_config.json").read_text())["base"]["weights_sha256"]
    monkeypatch.setattr(source, "PACKAGE_COPY_SHA256", copied)
    for target, exact in (("peft", False), ("merged", True)):
        folder = export(adapter, target, tmp_path / target)
        assert record_of(folder)["exact"] is exact
        assert ("rounded to 4 bits" in (folder / "README.md").read_text()) is not exact


def test_the_factors_alone_are_written_of_an_adapted_embedding(make_artifact: MakeArtifact, tmp_path: Path) -> None:
    lora = LoraConfig(r=2, lora_alpha=2, target_modules=["embed_tokens", "q_proj"])
    folder = export(make_artifact("llama", RESIDUAL, lora), "peft", tmp_path / "out")
    assert all(".lora_" in name for name in load_file(folder / "adapter_model.safetensors"))


@pytest.mark.parametrize("target", ["peft", "merged"])
def test_the_tokenizer_and_a_card_come_along(target: str, make_artifact: MakeArtifact, tmp_path: Path) -> None:
    adapter = make_artifact()
    folder = export(adapter, target, tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "user", "content": "wa"}]
    assert tokenizer.apply_chat_template(chat) == load_tokenizer(adapter).apply_chat_template(chat)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"--to {target} --strength 1" in card
    assert "exact policy that was trained" in card
    assert "| `alpha_tilde` | 0.3 |" in card


def test_an_embedding_that_is_also_the_head_cannot_be_folded(
    make_artifact: MakeArtifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = LoraConfig(r=4, target_modules=["embed_tokens", "q_proj"], task_type="CAUSAL_LM")
    tied, untied = (make_artifact(family, lora=lora) for family in ("qwen3", "llama"))
    assert main(["export", str(tied), "--to", "merged", "--output", str(tmp_path / "out")]) == 2
    assert "the LM head has the same weights" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    for adapter, target in ((tied, "peft"), (untied, "merged")):
        model = reloaded(target, export(adapter, target, tmp_path / target), adapter)
        with torch.no_grad():
            expected = QAdapterForCausalLM.from_pretrained(adapter)(IDS).logits
            torch.testing.assert_close(model(IDS).logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "constants", [PAPER, QConstants("residual", alpha_0=0.3, alpha_tilde=0.5)], ids=["logits", "rho"]
)
@pytest.mark.parametrize("target", ["peft", "merged"])
def test_what_no_lora_can_be_is_refused_with_the_ways_out(
    target: str,
    constants: QConstants,
    make_artifact: MakeArtifact,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    adapter = make_artifact(constants=constants)
    assert main(["export", str(adapter), "--to", target, "--output", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert f"--to {target} would be another policy" in said
    assert "no single set of weights gives" in said
    assert "--to distilled" in said
    assert "qadapter serve" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["peft", "merged"])
def test_nothing_is_left_behind_by_a_failure(
    target: str, make_artifact: MakeArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(transformers.PreTrainedTokenizerFast, "save_pretrained", fail)
    with pytest.raises(OSError, match="No space left"):
        main(["export", str(make_artifact()), "--to", target, "--output", str(tmp_path / "out")])
    assert list(tmp_path.iterdir()) == []


def test_constants_of_the_preset_are_exact(make_artifact: MakeArtifact, tmp_path: Path) -> None:
    from qadapter import QAdapterTrainingArguments

    constants = QAdapterTrainingArguments(output_dir=str(tmp_path / "run")).constants
    assert constants.mixture(1.0) == RESIDUAL.mixture(1.0) == (1.0, 0.0)
