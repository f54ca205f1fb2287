"""Saving and loading: the same logits after it, and a clear word for each way an artifact can be wrong."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import pytest
import torch
from conftest import PAPER, RESIDUAL, make_base, make_model
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file

from qadapter import QAdapterForCausalLM, load_tokenizer
from qadapter.errors import ArtifactError, ConfigError, UnsupportedModelError
from qadapter.model import QConstants, lora_config
from qadapter.model.artifact_folder import LATER_CONSTANTS
from qadapter.model.fingerprint import base_fingerprint
from qadapter.model.loading import PACKAGE_COPY_SHA256

IDS = torch.arange(3, 19).reshape(2, 8)


@pytest.fixture
def saved(tmp_path: Path, tokenizer) -> Path:
    make_model(constants=PAPER).save_pretrained(tmp_path / "a", tokenizer=tokenizer)
    return tmp_path / "a"


def edit(folder: Path, **changes) -> None:
    path = folder / "qadapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("constants", [PAPER, RESIDUAL, QConstants("residual", 0.2, 0.7, 0.9, 0.5)], ids=str)
def test_save_load_same_logits(tmp_path: Path, constants: QConstants) -> None:
    model = make_model(constants=constants)
    model.save_pretrained(tmp_path)
    loaded = QAdapterForCausalLM.from_pretrained(tmp_path, make_base())
    assert loaded.constants == constants
    assert not loaded.training
    with torch.no_grad():
        for strength in (0.0, 0.5, 1.0):
            assert torch.equal(loaded(IDS, strength=strength).logits, model(IDS, strength=strength).logits)


def test_the_base_is_found_by_the_name_in_the_artifact(tmp_path: Path) -> None:
    make_base().save_pretrained(tmp_path / "base")
    base = make_base()
    base.config.name_or_path = str(tmp_path / "base")
    model = QAdapterForCausalLM(base, PAPER)
    model.save_pretrained(tmp_path / "a")
    loaded = QAdapterForCausalLM.from_pretrained(tmp_path / "a", dtype="float32")
    torch.testing.assert_close(loaded(IDS).logits, model.eval()(IDS).logits)


def test_the_fingerprint_ignores_the_adapter_and_the_dtype() -> None:
    plain, adapted = make_base(), make_model().base
    assert base_fingerprint(plain) == base_fingerprint(adapted)
    assert base_fingerprint(plain) == base_fingerprint(make_base().bfloat16())
    here, other = base_fingerprint(plain), base_fingerprint(make_base(seed=1))
    assert here.weights_sha256 != other.weights_sha256
    assert here.unquantized_sha256 != other.unquantized_sha256


def test_the_fingerprint_of_a_bfloat16_checkpoint_is_the_same_in_float16() -> None:
    """float16 has fewer bits than bfloat16 where numbers are small, and some of every model's are."""
    base = make_base().bfloat16()
    with torch.no_grad():
        for index, parameter in enumerate(base.parameters()):
            # Odd multiples of 2⁻²⁶: halfway between two numbers of float16, and exact in bfloat16.
            parameter.view(-1)[0] = (2 * index + 1) * 2.0**-26
    before = base_fingerprint(base)
    assert any(not torch.equal(p, p.half().bfloat16()) for p in base.parameters())
    assert base_fingerprint(base.half()) == before


def test_the_fingerprint_of_embeddings_and_norms_is_blind_to_linear_layers() -> None:
    """As it must be: a quantizer changes them."""
    base = make_base()
    before = base_fingerprint(base)
    with torch.no_grad():
        for module in base.modules():
            if isinstance(module, torch.nn.Linear) and module is not base.get_output_embeddings():
                module.weight += 1
    after = base_fingerprint(base)
    assert after.unquantized_sha256 == before.unquantized_sha256
    assert after.weights_sha256 != before.weights_sha256
    with torch.no_grad():
        base.model.norm.weight += 1
    assert base_fingerprint(base).unquantized_sha256 != before.unquantized_sha256


def test_trainable_loading_goes_on_training(saved: Path) -> None:
    frozen = QAdapterForCausalLM.from_pretrained(saved, make_base())
    assert not any(p.requires_grad for p in frozen.parameters())
    trainable = QAdapterForCausalLM.from_pretrained(saved, make_base(), trainable=True)
    assert {n for n, p in trainable.named_parameters() if p.requires_grad} == {
        n for n, _ in trainable.named_parameters() if "lora_" in n
    }


def test_the_root_is_no_ordinary_lora(saved: Path) -> None:
    """Loaded as one it would sample softmax(z₁) in silence."""
    with pytest.raises((ValueError, OSError)):
        PeftModel.from_pretrained(make_base(), str(saved))
    card = (saved / "README.md").read_text()
    assert "pipeline_tag" not in card
    assert "library_name: qadapter" in card


@pytest.mark.parametrize("several", [False, True])
def test_a_chat_template_with_the_line_ends_of_windows_comes_back(tmp_path: Path, tokenizer, several: bool) -> None:
    """A file of text is read with other line ends than it was written with; what the template writes is the same."""
    other = copy.deepcopy(tokenizer)
    template = tokenizer.chat_template.replace("\n", "\r\n")
    other.chat_template = {"default": template, "rag": template} if several else template
    make_model(constants=PAPER).save_pretrained(tmp_path / "a", tokenizer=other)
    chat = [{"role": "user", "content": "wa"}]
    back = load_tokenizer(tmp_path / "a")
    assert back.apply_chat_template(chat, tokenize=False) == other.apply_chat_template(chat, tokenize=False)


def test_the_tokenizer_comes_back_and_is_checked(saved: Path, tokenizer) -> None:
    assert load_tokenizer(saved)("wa wb")["input_ids"] == tokenizer("wa wb")["input_ids"]
    (saved / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(ArtifactError, match="vocabulary, special tokens or chat template differ"):
        load_tokenizer(saved)


@pytest.mark.parametrize(
    "missing", ["qadapter_config.json", "adapter/adapter_model.safetensors", "adapter/adapter_config.json"]
)
def test_an_incomplete_artifact(saved: Path, missing: str) -> None:
    (saved / missing).unlink()
    with pytest.raises(ArtifactError, match=Path(missing).name.replace(".", r"\.")):
        QAdapterForCausalLM.from_pretrained(saved, make_base())


def test_not_an_artifact_at_all(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not a Q-Adapter artifact"):
        QAdapterForCausalLM.from_pretrained(tmp_path / "nowhere")
    make_model().peft_model.save_pretrained(tmp_path)
    with pytest.raises(ArtifactError, match=r"ordinary PEFT adapter; load it with peft\.PeftModel"):
        QAdapterForCausalLM.from_pretrained(tmp_path)


def test_another_base(saved: Path) -> None:
    with pytest.raises(ArtifactError, match="trained on another base: weights_sha256"):
        QAdapterForCausalLM.from_pretrained(saved, make_base(seed=1))
    with pytest.raises(ArtifactError, match="model_type is 'llama' in the artifact and 'qwen3'"):
        QAdapterForCausalLM.from_pretrained(saved, make_base("qwen3"))


def test_two_bases_of_one_name_are_told_apart(saved: Path) -> None:
    """The default model from the package index goes by the name of the hub's."""
    file = saved / "qadapter_config.json"
    config = json.loads(file.read_text())
    config["base"]["weights_sha256"] = PACKAGE_COPY_SHA256
    file.write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match="trained on another base") as caught:
        QAdapterForCausalLM.from_pretrained(saved, make_base())
    assert "from the package index" in str(caught.value)


def test_a_newer_format(saved: Path) -> None:
    edit(saved, format_version=99)
    with pytest.raises(
        ArtifactError, match=r"format version 99; this release reads up to 1\.\nhint: pip install --upgrade"
    ):
        QAdapterForCausalLM.from_pretrained(saved, make_base())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"constants": {"alpha_0": 1.0}}, "constants missing or unknown"),
        ({"constants": {**vars(PAPER), "gamma": 7}}, "damaged: gamma must be"),
        ({"format_version": None}, "no format_version"),
    ],
    ids=["missing constants", "impossible constant", "no version"],
)
def test_damaged_configs(saved: Path, changes: dict, message: str) -> None:
    edit(saved, **changes)
    with pytest.raises(ArtifactError, match=message):
        QAdapterForCausalLM.from_pretrained(saved, make_base())


def test_an_adapter_of_before_the_likelihood_term_loads_without_one(saved: Path) -> None:
    constants = dict(vars(PAPER))
    del constants["sft_coef"]
    edit(saved, constants=constants)
    assert QAdapterForCausalLM.from_pretrained(saved, make_base()).constants == PAPER


def test_every_later_constant_leaves_out_its_term() -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(QConstants)}
    assert {name: defaults[name] for name in LATER_CONSTANTS} == LATER_CONSTANTS


def test_truncated_json(saved: Path) -> None:
    path = saved / "qadapter_config.json"
    path.write_text(path.read_text()[:40])
    with pytest.raises(ArtifactError, match="is damaged"):
        QAdapterForCausalLM.from_pretrained(saved, make_base())


def test_half_an_adapter(saved: Path) -> None:
    """PEFT itself only warns about missing weights and would answer with a random half."""
    path = saved / "adapter" / "adapter_model.safetensors"
    weights = load_file(path)
    save_file({name: weights[name] for name in sorted(weights)[:-3]}, path)
    with pytest.raises(ArtifactError, match="3 tensors are missing or differ"):
        QAdapterForCausalLM.from_pretrained(saved, make_base())
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ArtifactError, match="cannot be read as a LoRA"):
        QAdapterForCausalLM.from_pretrained(saved, make_base())


def test_adapter_weights_of_another_rank(saved: Path, tmp_path: Path) -> None:
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    make_model(lora=lora).save_pretrained(tmp_path / "b")
    (tmp_path / "b" / "adapter" / "adapter_model.safetensors").rename(saved / "adapter" / "adapter_model.safetensors")
    with pytest.raises(ArtifactError, match=r"cannot be read as a LoRA|missing or differ"):
        QAdapterForCausalLM.from_pretrained(saved, make_base())


def test_arguments_for_loading_need_a_name(saved: Path) -> None:
    with pytest.raises(ConfigError, match=r"\['dtype'\] apply to a base loaded by name"):
        QAdapterForCausalLM.from_pretrained(saved, make_base(), dtype="float32")


def test_names_of_lora_modules(caplog: pytest.LogCaptureFixture) -> None:
    everything = QAdapterForCausalLM(make_base(), peft_config=lora_config(4, target_modules=["all-linear"]))
    assert len(everything.peft_model.base_model.targeted_module_names) == 14
    with pytest.raises(ConfigError, match=r"(?s)the LoRA does not fit .*q_porj.*lora_target_modules names modules"):
        QAdapterForCausalLM(make_base(), peft_config=lora_config(4, target_modules=["q_porj", "v_porj"]))
    assert caplog.text == ""
    one = QAdapterForCausalLM(make_base(), peft_config=lora_config(4, target_modules=["q_proj", "v_porj"]))
    assert "has no module 'v_porj': it gets no LoRA" in caplog.text
    assert {name.split(".")[-1] for name in one.peft_model.base_model.targeted_module_names} == {"q_proj"}
    with pytest.raises(ConfigError, match=r"lora_dropout must be .*, got 1\.5"):
        lora_config(dropout=1.5)


def test_a_half_written_folder_is_not_loaded(saved: Path, tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """New factors under the constants of the run before would load without a word."""

    def killed(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(tokenizer), "save_pretrained", killed)
    with pytest.raises(KeyboardInterrupt):
        make_model(constants=RESIDUAL).save_pretrained(saved, tokenizer=tokenizer)
    with pytest.raises(ArtifactError, match="is not a Q-Adapter artifact"):
        QAdapterForCausalLM.from_pretrained(saved, make_base())


def test_a_base_over_several_devices_is_refused() -> None:
    base = make_base()
    base.hf_device_map = {"model": 0, "lm_head": 1}
    with pytest.raises(UnsupportedModelError, match=r"spread over several devices \(0, 1\)"):
        QAdapterForCausalLM(base)
    base.hf_device_map = {"": "cpu"}
    QAdapterForCausalLM(base)
