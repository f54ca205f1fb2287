"""`distilled`: the loss of a student, and what the command writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import PAPER, RESIDUAL, make_batch, make_model, randomize_adapter
from exported import DORA, dense_kl, record_of, reloaded
from peft import LoraConfig

from qadapter import QAdapterForCausalLM, QConstants
from qadapter.cli.main import main
from qadapter.errors import UnsupportedModelError
from qadapter.export.student import Student

MakeArtifact = Callable[..., Path]
DROPOUT = LoraConfig(r=4, lora_dropout=0.5, target_modules="all-linear", task_type="CAUSAL_LM")


def anchors() -> dict[str, torch.Tensor]:
    return {**make_batch(3), "anchor": torch.ones(6, dtype=torch.bool)}


@pytest.mark.parametrize(
    ("family", "constants", "lora"),
    [
        ("llama", RESIDUAL, None),
        ("llama", PAPER, None),
        ("llama", QConstants("residual", alpha_0=0.2, alpha_tilde=0.5), DORA),
        ("mistral", RESIDUAL, DROPOUT),
        ("phi", RESIDUAL, None),
        ("gpt2", PAPER, None),
    ],
)
def test_the_loss_is_the_kl_of_the_mixed_policy_to_the_student(
    family: str, constants: QConstants, lora: LoraConfig | None
) -> None:
    teacher, batch = randomize_adapter(make_model(family, constants, lora), std=0.1), anchors()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        mixed = teacher(**inputs, strength=0.6).logits.log_softmax(-1)
    student = Student(teacher, 0.6).train()
    randomize_adapter(student, seed=5, std=0.1)  # the teacher's own factors are kept beside it
    found = student(**batch)
    with torch.no_grad():
        policy = student.eval()(**inputs).logits.log_softmax(-1)
        with student.as_teacher():
            assert torch.equal(teacher(**inputs, strength=0.6).logits.log_softmax(-1), mixed)
        assert torch.equal(student(**inputs).logits.log_softmax(-1), policy)
    kl = (mixed.exp() * (mixed - policy)).sum(-1)
    states = batch["completion_mask"].roll(-1, dims=1)  # the state before each token of an answer
    for pair in range(3):
        at = states[[pair, pair + 3]]
        torch.testing.assert_close(found.anchor_kl[pair], kl[[pair, pair + 3]][at].mean(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.loss, found.anchor_kl.mean())
    assert found.loss > 0.01


def test_a_student_starts_as_the_scaled_adapter() -> None:
    teacher = randomize_adapter(make_model(constants=RESIDUAL), std=0.1)
    ids = torch.tensor([[1, 9, 10, 11]])
    from qadapter.baselines import scaled_adapter

    with torch.no_grad():
        with scaled_adapter(teacher, 0.3):
            expected = teacher(ids).logits
        torch.testing.assert_close(Student(teacher, 0.3)(ids).logits, expected)


@pytest.mark.parametrize(("family", "constants"), [("gemma2", RESIDUAL), ("phi", PAPER)])
def test_heads_for_which_it_would_be_wrong(family: str, constants: QConstants) -> None:
    with pytest.raises(UnsupportedModelError, match="not that of one hidden state"):
        Student(make_model(family, constants), 0.5)


def test_a_head_for_which_it_would_be_wrong_is_refused_before_anything_slow(
    make_artifact: MakeArtifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--to", "distilled", "--strength", "0.5", "--output", str(tmp_path / "out")]
    assert main(["export", str(make_artifact("gemma2")), *words]) == 2
    said = capsys.readouterr().err
    assert "the LM head is soft-capped" in said
    assert "measuring" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("constants", [RESIDUAL, PAPER], ids=["residual", "logits"])
def test_the_command_trains_and_reports_the_kl_it_reached(
    constants: QConstants,
    make_artifact: MakeArtifact,
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    adapter, output = make_artifact(constants=constants), tmp_path / "out"
    prompts_file = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    prompts_file.write_text("".join(f'{{"prompt": "w{a} v{b}"}}\n' for a in "abcdef" for b in "ghijk"))
    training = ["--samples", "192", "--num-train-epochs", "4", "--learning-rate", "0.003", "--max-new-tokens", "24"]
    flags = ["--strength", "0.5", "--prompts", str(prompts_file), *training]
    assert main(["export", str(adapter), "--to", "distilled", "--output", str(output), *flags]) == 0
    record = record_of(output)
    assert record["distance"]["kl"] < 0.9 * record["distance_before_training"]["kl"]
    assert f"{record['distance']['kl']:.3g} nats per token" in (output / "README.md").read_text()
    assert f"{record['distance']['kl']:.3g} nats per token" in capsys.readouterr().err
    if constants is RESIDUAL:
        measured = dense_kl(adapter, reloaded("peft", output, adapter), 0.5, prompts_file)
        assert record["distance"]["kl"] == pytest.approx(measured, rel=1e-3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_the_same_seed_gives_the_same_files(make_artifact: MakeArtifact, prompts_file: Path, tmp_path: Path) -> None:
    quick = ["--samples", "16", "--num-train-epochs", "1", "--max-new-tokens", "4", "--prompts", str(prompts_file)]
    weights = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        flags = ["--output", str(tmp_path / name), "--strength", "0.5", "--seed", seed, *quick]
        assert main(["export", str(make_artifact()), "--to", "distilled", *flags]) == 0
        weights.append((tmp_path / name / "adapter_model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_a_quantized_base_takes_several_epochs(make_artifact: MakeArtifact, prompts_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes (extra: quantized) is not installed")
    quick = ["--samples", "8", "--num-train-epochs", "2", "--max-new-tokens", "4", "--prompts", str(prompts_file)]
    flags = ["--output", str(tmp_path / "out"), "--strength", "0.5", "--load-in", "4bit", *quick]
    assert main(["export", str(make_artifact()), "--to", "distilled", *flags]) == 0
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    assert record_of(tmp_path / "out")["loaded_in"] == "4bit"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Answers end with `<|im_end|>`" in card
    assert "Made and measured on the base in 4bit, not in full precision: KL(exact || exported)" in card


def test_float16_is_refused_before_anything_slow(
    make_artifact: MakeArtifact, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = str(make_artifact())
    # Rounded to float16, a tiny random base is another one by its fingerprint.
    monkeypatch.setattr(QAdapterForCausalLM, "dtype", torch.float16)
    flags = ["--output", str(tmp_path / "out"), "--strength", "0.5"]
    assert main(["export", adapter, "--to", "distilled", *flags]) == 2
    said = capsys.readouterr().err
    assert "small gradients vanish" in said
    assert "sampling" not in said


def test_where_the_adapter_is_the_policy_already(
    make_artifact: MakeArtifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(make_artifact()), "--to", "distilled", "--output", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "nothing to distill" in said
    assert "--to peft is exact" in said
    assert list(tmp_path.iterdir()) == []
