"""QAdapterTrainer: gradient scaling, resume, metrics, checkpoints, and DPO as a special case against TRL."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import make_base, make_model, randomize_adapter
from datasets import Dataset, DatasetDict, IterableDataset
from peft import LoraConfig
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, PreTrainedModel, TrainingArguments

from qadapter import QAdapterForCausalLM, QAdapterTrainer, QAdapterTrainingArguments
from qadapter.data import PreferenceCollator
from qadapter.errors import ArtifactError, ConfigError, DataError, UnsupportedModelError
from qadapter.model import default_dtype
from qadapter.train import PRESETS, tokenize_dataset
from qadapter.train.metrics import EVALUATED
from qadapter.train.sampler import LengthGroupedSampler
from qadapter.train.token_rows import token_rows


def pairs(count: int = 8, seed: int = 0) -> Dataset:
    generator = torch.Generator().manual_seed(seed)

    def words(low: int, high: int) -> str:
        number = int(torch.randint(low, high, (1,), generator=generator))
        return " ".join(f"w{chr(97 + int(c))}" for c in torch.randint(26, (number,), generator=generator))

    rows = [
        {
            "prompt": [{"role": "user", "content": words(1, 6)}],
            "chosen": [{"role": "assistant", "content": words(1, 9) + " va"}],
            "rejected": [{"role": "assistant", "content": words(1, 9) + " vb"}],
        }
        for _ in range(count)
    ]
    return Dataset.from_list(rows)


def arguments(folder: Path, **overrides) -> QAdapterTrainingArguments:
    defaults = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "learning_rate": 1e-2,
        "chi2_coef": 0.3,
        "alpha_tilde": 0.5,
        "alpha_0": 0.2,
        "anchors": 0,
        "disable_tqdm": True,
    }
    return QAdapterTrainingArguments(**{**defaults, **overrides})


def adapter_state(model: QAdapterForCausalLM) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if "lora_" in name}


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_arguments_of_another_trainer_are_refused_before_the_base_is_loaded(tmp_path: Path) -> None:
    plain = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    with pytest.raises(ConfigError, match=r"args is a TrainingArguments(.|\n)*QAdapterTrainingArguments\(\.\.\.\)"):
        QAdapterTrainer("no-such/base", plain, train_dataset=pairs())
    plain.beta = 0.2  # type: ignore[attr-defined]  # as DPOConfig has one
    with pytest.raises(ConfigError, match=r"Arguments\(alpha_0=0.2, alpha_tilde=0.2, "):
        QAdapterTrainer("no-such/base", plain, train_dataset=pairs())


def test_a_base_that_was_resized_in_memory_is_refused(tmp_path: Path, tokenizer) -> None:
    """As after TRL's `clone_chat_template`: the artifact would name a base that has other weights."""
    folder = tmp_path / "base"
    make_base().save_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(folder)
    QAdapterTrainer(copy.deepcopy(base), arguments(tmp_path / "a"), None, pairs(), None, tokenizer)
    base.resize_token_embeddings(64)
    with pytest.raises(ConfigError, match=r"64 tokens in memory and 61 in (.|\n)*train on that folder"):
        QAdapterTrainer(base, arguments(tmp_path / "a"), None, pairs(), None, tokenizer)
    base.save_pretrained(tmp_path / "resized")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "resized")
    QAdapterTrainer(saved, arguments(tmp_path / "a"), None, pairs(), None, tokenizer)
    base.config.name_or_path = "no-such/base"  # nothing to compare with
    QAdapterTrainer(base, arguments(tmp_path / "a"), None, pairs(), None, tokenizer)


def test_a_base_without_a_name_is_said(tmp_path: Path, tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    QAdapterTrainer(make_base(), arguments(tmp_path / "a"), None, pairs(), None, tokenizer)
    assert "the base model has no name" in caplog.text


def test_an_empty_thought_that_the_template_writes_is_said_once(tmp_path: Path, tokenizer, caplog) -> None:
    """As in Qwen3's: with thinking each response begins with it, without the generation prompt ends with it."""

    def said(template: str, data: Dataset) -> int:
        caplog.clear()
        thinking = copy.deepcopy(tokenizer)
        thinking.chat_template = template
        trainer = QAdapterTrainer(make_base(), arguments(tmp_path / "a"), None, data, data, thinking)
        first = {row["chosen_ids"][0] for row in trainer.train_dataset}
        assert (first == {thinking.convert_tokens_to_ids("vx")}) == ("vx " in template and "= false" not in template)
        return caplog.text.count("the chat template begins every response with 'vx vy '")

    template = tokenizer.chat_template.replace(
        "{{ message['content'] }}", "{% if message.role == 'assistant' %}vx vy {% endif %}{{ message['content'] }}"
    )
    prompted = "{% if enable_thinking is defined and not enable_thinking %}vx vy {% endif %}{% endif %}"
    template = template.removesuffix("{% endif %}") + prompted
    assert said(template, pairs()) == 1
    assert said("{% set enable_thinking = false %}" + template, pairs()) == 0, "the way out that is named"
    assert said(tokenizer.chat_template, pairs()) == 0
    own = pairs().map(lambda row: {s: [{**row[s][0], "content": "vx vy " + row[s][0]["content"]}] for s in ("chosen",)})
    assert said(template, own) == 0


@pytest.mark.parametrize("total", [8, 7])
def test_micro_batches_and_accumulation_change_neither_loss_nor_gradient(tmp_path: Path, tokenizer, total: int) -> None:
    """8×1, 4×2, 2×4 and 1×8 (micro-batch × accumulation), also where the last micro-batch is not full."""
    seen = []
    for micro in (8, 4, 2, 1):
        args = arguments(
            tmp_path / str(micro),
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=8 // micro,
            max_grad_norm=1e9,
            train_sampling_strategy="sequential",
            optim="sgd",
            lr_scheduler_type="constant",
            warmup_steps=0,
        )
        model = make_model(constants=args.constants)
        QAdapterTrainer(model, args, train_dataset=pairs(total), processing_class=tokenizer).train()
        line = log_of(tmp_path / str(micro))[0]
        seen.append((line["loss"], line["grad_norm"], adapter_state(model)))
    for loss, norm, state in seen[1:]:
        assert loss == pytest.approx(seen[0][0], rel=1e-5)
        assert norm == pytest.approx(seen[0][1], rel=1e-4)
        for name, value in state.items():
            torch.testing.assert_close(value, seen[0][2][name], rtol=1e-4, atol=1e-6)


def test_resume_is_bit_for_bit(tmp_path: Path, tokenizer) -> None:
    """With LoRA dropout, length-grouped batches and a checkpoint in the middle of the second epoch."""

    def run(folder: Path, **kw) -> dict[str, torch.Tensor]:
        args = arguments(
            folder,
            per_device_train_batch_size=2,
            num_train_epochs=3,
            lora_dropout=0.3,
            save_strategy="steps",
            save_steps=6,
        )
        trainer = QAdapterTrainer(make_base(), args, train_dataset=pairs(8), processing_class=tokenizer)
        trainer.train(**kw)
        return adapter_state(trainer.model)

    whole = run(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole" / "checkpoint-6", tmp_path / "resumed" / "checkpoint-6")
    written = (tmp_path / "whole" / "metrics.jsonl").read_text()
    (tmp_path / "resumed" / "metrics.jsonl").write_text(written[:-20])  # killed while it wrote its last line
    resumed = run(tmp_path / "resumed", resume_from_checkpoint=str(tmp_path / "resumed" / "checkpoint-6"))
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name

    def losses(folder: Path) -> list:
        return [(line["step"], line["loss"], line["rewards/margins"]) for line in log_of(folder) if "loss" in line]

    assert losses(tmp_path / "resumed") == losses(tmp_path / "whole")


def test_what_is_dropped_in_training_is_measured(tmp_path: Path, tokenizer) -> None:
    found = []
    for drop in (False, True):
        args = arguments(tmp_path, dataloader_drop_last=drop, per_device_eval_batch_size=4)
        trainer = QAdapterTrainer(make_base(), args, None, pairs(8), pairs(7, seed=1), tokenizer)
        found.append(trainer.evaluate()["eval_loss"])
        assert args.dataloader_drop_last is drop
    assert found[0] == found[1]


@pytest.mark.parametrize(("instructions", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_base_by_name_is_loaded_in_a_dtype_that_the_machine_multiplies(
    tmp_path: Path, tokenizer, monkeypatch: pytest.MonkeyPatch, instructions: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(default_dtype, "multiplies_bfloat16", lambda device: instructions)
    make_base().to(torch.bfloat16).save_pretrained(tmp_path / "base")
    trainer = QAdapterTrainer(
        str(tmp_path / "base"), arguments(tmp_path), train_dataset=pairs(), processing_class=tokenizer
    )
    assert trainer.model.base.dtype == dtype


def test_float16_weights_are_refused(tmp_path: Path, tokenizer) -> None:
    with pytest.raises(ConfigError, match="float16, in which small gradients vanish"):
        QAdapterTrainer(
            make_base().half(), arguments(tmp_path), train_dataset=pairs(), processing_class=tokenizer
        )  # fmt: skip


@pytest.mark.parametrize(
    "field", ["neftune_noise_alpha", "label_smoothing_factor", "fp16", "bf16_full_eval", "fp16_full_eval"]
)
def test_fields_that_would_make_it_another_method_are_refused(tmp_path: Path, field: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field} "):
        arguments(tmp_path, **{field: True if "16" in field else 0.1})


def test_the_debug_hooks_of_transformers_are_refused(tmp_path: Path) -> None:
    """Before the model is loaded; they ended the first step in an error of torch."""
    with pytest.raises(ConfigError, match=r"^debug sets hooks of transformers"):
        arguments(tmp_path, debug="underflow_overflow")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_changes_rounding_alone(tmp_path: Path, tokenizer, dtype: torch.dtype) -> None:
    """`bf16: true`, as many a config of TRL has it, whatever the base is stored in."""
    norms = []
    for bf16 in (False, True):
        args = arguments(tmp_path, bf16=bf16, max_steps=1, max_grad_norm=1e9, anchor_coef=1.0, anchors=2)
        base = make_base().to(dtype)
        QAdapterTrainer(base, args, train_dataset=pairs(4), processing_class=tokenizer).train()
        norms.append(log_of(tmp_path)[0]["grad_norm"])
        (tmp_path / "metrics.jsonl").unlink()
    assert norms[1] == pytest.approx(norms[0], rel=0.1)


def test_pairs_that_differ_nowhere_are_counted(tmp_path: Path, tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    def turn(role: str, text: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text}]

    rows = [
        {"prompt": turn("user", "wa"), "chosen": turn("assistant", f"wb wc wd {end}"), "rejected": turn("assistant", x)}
        for end, x in (("we", "wb wc wd wf"), ("we", "wf wc"))
    ]
    whole = tokenize_dataset(Dataset.from_list(rows), tokenizer, max_length=None)
    assert "same tokens" not in caplog.text
    tokenize_dataset(Dataset.from_list(rows), tokenizer, max_length=len(whole[0]["prompt_ids"]) + 3)
    assert "1 of 2 pairs have the same tokens on both sides" in caplog.text


def test_resume_true_takes_the_last_checkpoint_that_was_written_to_its_end(
    tmp_path: Path, tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a kill, or on a full disk, in the middle of the last one."""

    def trainer() -> QAdapterTrainer:
        args = arguments(tmp_path, save_strategy="steps", save_steps=1, max_steps=3)
        return QAdapterTrainer(make_base(), args, train_dataset=pairs(8), processing_class=tokenizer)

    with pytest.raises(ConfigError, match=r"has no complete checkpoint \(none was written\)"):
        trainer().train(resume_from_checkpoint=True)
    whole = trainer()
    whole.train()
    (tmp_path / "checkpoint-3" / "trainer_state.json").unlink()
    (tmp_path / "checkpoint-2" / "qadapter_config.json").unlink()
    for name, problem in (("checkpoint-3", "no trainer_state.json"), ("checkpoint-9", "there is no such folder")):
        with pytest.raises(ConfigError, match=f"cannot resume from .*{name}: {problem}") as refused:
            trainer().train(resume_from_checkpoint=str(tmp_path / name))
        assert f"one of {tmp_path / 'checkpoint-1'}" in str(refused.value)
    resumed = trainer()
    resumed.train(resume_from_checkpoint=True)
    assert "checkpoint-3 is incomplete (no trainer_state.json): skipped." in caplog.text
    assert "checkpoint-2 is incomplete (no qadapter_config.json): skipped." in caplog.text
    assert [line["step"] for line in log_of(tmp_path) if "loss" in line] == [1, 2, 3]
    for name, value in adapter_state(whole.model).items():
        assert torch.equal(value, adapter_state(resumed.model)[name]), name


def test_the_best_checkpoint_is_found_where_the_run_lies_now(
    tmp_path: Path, tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    """The saved state names it by the path that it had."""

    def trained(folder: Path, resume: bool) -> QAdapterTrainer:
        args = arguments(
            folder, save_strategy="steps", save_steps=1, eval_strategy="steps", eval_steps=1, num_train_epochs=2,
            load_best_model_at_end=True, metric_for_best_model="loss", greater_is_better=True,
        )  # fmt: skip
        trainer = QAdapterTrainer(make_base(), args, None, pairs(8), pairs(4, seed=1), tokenizer)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    first = trained(tmp_path / "first", resume=False)
    best = first.state.best_global_step
    assert best < first.state.global_step == 4, "the last is the best, and this test says nothing"
    moved = (tmp_path / "first").rename(tmp_path / "moved")
    again = trained(moved, resume=True)
    assert again.state.best_model_checkpoint == str(moved / f"checkpoint-{best}")
    for name, value in adapter_state(first.model).items():
        assert torch.equal(value, adapter_state(again.model)[name]), name
    assert "is gone" not in caplog.text
    shutil.rmtree(moved / f"checkpoint-{best}")
    trained(moved, resume=True)
    assert f"checkpoint-{best}, the best checkpoint so far, is gone" in caplog.text


def test_the_only_batch_is_not_dropped_in_silence(tmp_path: Path, tokenizer) -> None:
    def trainer(**options) -> QAdapterTrainer:
        args = arguments(tmp_path, dataloader_drop_last=True, max_length=64, **options)
        return QAdapterTrainer(make_base(), args, None, pairs(3), None, tokenizer)

    with pytest.raises(ConfigError, match="there are 3 pairs and anchors for a batch of 4"):
        trainer()
    trainer(anchors=1)


def test_of_a_hub_data_set_the_pairs_to_evaluate_are_its_test_split(
    tmp_path: Path, tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def load_dataset(name: str, split: str) -> Dataset:
        asked.append((name, split))
        return pairs(8 if split == "train" else 4)

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    trainer = QAdapterTrainer(
        make_base(), arguments(tmp_path), train_dataset="some/pairs", eval_dataset="some/pairs",
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.evaluate("other/pairs")
    assert asked == [("some/pairs", "train"), ("some/pairs", "test"), ("other/pairs", "test")]
    assert len(trainer.eval_dataset) == 4
    several = QAdapterTrainer(
        make_base(), arguments(tmp_path), eval_dataset={"one": "some/pairs"}, processing_class=tokenizer
    )
    assert asked[3:] == [("some/pairs", "test")]
    assert len(several.eval_dataset["one"]) == 4


def test_resume_with_other_constants_is_refused(tmp_path: Path, tokenizer) -> None:
    args = arguments(tmp_path, save_strategy="steps", save_steps=1)
    QAdapterTrainer(make_base(), args, train_dataset=pairs(8), processing_class=tokenizer).train()
    changed = arguments(tmp_path, save_strategy="steps", save_steps=1, chi2_coef=0.9)
    trainer = QAdapterTrainer(make_base(), changed, train_dataset=pairs(8), processing_class=tokenizer)
    with pytest.raises(ConfigError, match="trained with other constants"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


@pytest.mark.parametrize(
    "lora",
    [{"r": 4}, {"lora_alpha": 4}, {"use_rslora": True}, {"use_dora": True}, {"alpha_pattern": {"q_proj": 2}}],
    ids=str,
)
def test_resume_with_another_lora_is_refused(tmp_path: Path, tokenizer, lora: dict) -> None:
    args = arguments(tmp_path, save_strategy="steps", save_steps=1, max_steps=1)

    def trainer(**changed) -> QAdapterTrainer:
        config = LoraConfig(**{"r": 8, "lora_alpha": 16, "target_modules": "all-linear", **changed})
        return QAdapterTrainer(
            make_base(), args, train_dataset=pairs(4), processing_class=tokenizer, peft_config=config
        )

    trainer().train()
    with pytest.raises(ArtifactError, match="holds another LoRA"):
        trainer(**lora).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_resume_on_another_base_or_with_other_pairs_is_refused(tmp_path: Path, tokenizer) -> None:
    args = arguments(tmp_path, save_strategy="steps", save_steps=1)

    def trainer(rows: Dataset, seed: int = 0) -> QAdapterTrainer:
        return QAdapterTrainer(make_base(seed=seed), args, train_dataset=rows, processing_class=tokenizer)

    trainer(pairs(8)).train()
    checkpoint = tmp_path / "checkpoint-1"
    with pytest.raises(ArtifactError, match="was trained on another base: weights_sha256"):
        trainer(pairs(8), seed=1).train(resume_from_checkpoint=str(checkpoint))
    with pytest.raises(ConfigError, match="other rows: 8 pairs and anchors then, 9 now"):
        trainer(pairs(9)).train(resume_from_checkpoint=str(checkpoint))
    with pytest.raises(ConfigError, match="or other tokens in them"):
        trainer(pairs(8, seed=1)).train(resume_from_checkpoint=str(checkpoint))
    (checkpoint / "training_data.json").unlink()  # as before there was such a file
    trainer(pairs(8)).train(resume_from_checkpoint=str(checkpoint))


def test_data_in_every_form(tmp_path: Path, tokenizer) -> None:
    rows = pairs(4)
    file = tmp_path / "pairs.jsonl"
    rows.to_json(file)
    implicit = rows.map(
        lambda row: {side: row["prompt"] + row[side] for side in ("chosen", "rejected")}, remove_columns="prompt"
    )
    forms = [rows, list(rows), str(file), file, DatasetDict(train=rows), implicit.add_column("location", ["Paris"] * 4)]
    found = [
        QAdapterTrainer(make_base(), arguments(tmp_path), train_dataset=form, processing_class=tokenizer).train_dataset
        for form in forms
    ]
    assert all(one.to_list() == found[0].to_list() for one in found)


def test_other_pairs_than_those_of_the_constructor_can_be_measured(tmp_path: Path, tokenizer) -> None:
    other = pairs(3, seed=5)
    args = arguments(tmp_path)
    expected = QAdapterTrainer(make_base(), args, None, None, other, tokenizer).evaluate()["eval_loss"]
    trainer = QAdapterTrainer(make_base(), args, None, None, pairs(4), tokenizer)
    tokens = tokenize_dataset(other, tokenizer, max_length=None)
    for form in (other, list(other), tokens, list(tokens)):
        assert trainer.evaluate(form)["eval_loss"] == expected
    assert trainer.evaluate({"a": other})["eval_a_loss"] == expected
    assert trainer.predict(other).metrics["test_loss"] == expected
    other.to_json(tmp_path / "other.jsonl")
    for form in (str(tmp_path / "other.jsonl"), tmp_path / "other.jsonl"):
        assert trainer.evaluate(form)["eval_loss"] == trainer.evaluate({"a": form})["eval_a_loss"] == expected
        assert trainer.predict(form).metrics["test_loss"] == expected
    with pytest.raises(DataError, match="1 bad row"):
        trainer.evaluate([{"foo": 1}])
    with pytest.raises(DataError, match="holds no rows"):
        trainer.evaluate([])


def test_a_name_is_one_of_several_data_sets_or_a_file(tmp_path: Path, tokenizer) -> None:
    parts = {"a": pairs(3, seed=5), "b": pairs(4)}
    trainer = QAdapterTrainer(make_base(), arguments(tmp_path), None, None, parts, tokenizer)
    parts["a"].to_json(tmp_path / "a.jsonl")
    every = trainer.evaluate()
    assert trainer.evaluate("a")["eval_loss"] == trainer.evaluate(str(tmp_path / "a.jsonl"))["eval_loss"]
    assert trainer.evaluate("a")["eval_loss"] == every["eval_a_loss"] != every["eval_b_loss"]
    with pytest.raises(DataError, match=r"c\.jsonl"):
        trainer.evaluate(str(tmp_path / "c.jsonl"))


def test_a_trainer_that_its_data_stop_leaves_the_base_as_it_was(tmp_path: Path, tokenizer) -> None:
    """So that the cell of a notebook can be run again."""
    base, args = make_base(), arguments(tmp_path)
    base.config.max_position_embeddings = 30
    names = set(base.state_dict())
    long = {**pairs(1)[0], "prompt": [{"role": "user", "content": "wa " * 30}]}
    for bad, said in (({"foo": 1}, "1 bad row"), (long, "the base has 30 positions")):
        bad = Dataset.from_list([bad])
        with pytest.raises(DataError, match=said):
            QAdapterTrainer(base, args, train_dataset=bad, processing_class=tokenizer)
        with pytest.raises(DataError, match=said):
            QAdapterTrainer(base, args, None, pairs(2), {"a": bad}, tokenizer)
    assert set(base.state_dict()) == names
    QAdapterTrainer(base, args, train_dataset=pairs(4), processing_class=tokenizer)
    with pytest.raises(UnsupportedModelError, match="already carries an adapter"):
        QAdapterTrainer(base, args, train_dataset=pairs(4), processing_class=tokenizer)


def test_more_tokens_than_the_base_has_positions(tmp_path: Path, tokenizer) -> None:
    def base() -> PreTrainedModel:
        made = make_base()
        made.config.max_position_embeddings = 12
        return made

    with pytest.raises(DataError, match=r"have 1\d tokens, and the base has 12 positions"):
        QAdapterTrainer(base(), arguments(tmp_path), train_dataset=pairs(8), processing_class=tokenizer)
    args = arguments(tmp_path, max_length=12, on_bad_row="skip")
    QAdapterTrainer(base(), args, train_dataset=pairs(8), processing_class=tokenizer)


def test_tokens_that_the_base_has_no_embedding_of(tmp_path: Path, tokenizer) -> None:
    """A padding token that was added without a row for it is never read; in the data it is an error at once."""
    larger = copy.deepcopy(tokenizer)
    larger.add_special_tokens({"pad_token": "<padding>"})
    assert larger.pad_token_id == 61
    trainer = QAdapterTrainer(make_base("mistral"), arguments(tmp_path), None, pairs(4), None, larger)
    trainer.train()
    row = {**pairs(1)[0], "chosen": [{"role": "assistant", "content": "wa <padding> wb"}]}
    with pytest.raises(DataError, match=r"the token 61, and the base's input embedding has 61 rows"):
        QAdapterTrainer(make_base(), arguments(tmp_path), None, Dataset.from_list([row]), None, larger)


def test_an_embedding_whose_weight_is_elsewhere_is_known_by_its_size(tmp_path: Path, tokenizer) -> None:
    """As with ZeRO-3, which leaves an empty tensor in the place of a sharded one."""
    base = make_base()
    base.get_input_embeddings().weight.data = torch.empty(0)
    assert len(token_rows(pairs(2), tokenizer, base, arguments(tmp_path))) == 2


@pytest.mark.parametrize("option", [{"init_lora_weights": "pissa"}, {"init_lora_weights": "olora"}], ids=str)
def test_a_lora_that_starts_out_of_the_bases_weights_is_refused(tmp_path: Path, tokenizer, option: dict) -> None:
    base = make_base()
    before = {name: value.clone() for name, value in base.state_dict().items()}
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", **option)
    with pytest.raises(UnsupportedModelError, match="changes weights of the frozen base"):
        QAdapterTrainer(base, arguments(tmp_path), train_dataset=pairs(4), processing_class=tokenizer, peft_config=lora)
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())


def test_a_lora_on_the_embedding_is_trained_saved_and_loaded(tmp_path: Path, tokenizer) -> None:
    make_base().save_pretrained(tmp_path / "base")
    lora = LoraConfig(r=4, target_modules=["embed_tokens", "q_proj"], task_type="CAUSAL_LM")
    trainer = QAdapterTrainer(
        str(tmp_path / "base"), arguments(tmp_path / "run"), train_dataset=pairs(8), processing_class=tokenizer,
        peft_config=lora,
    )  # fmt: skip
    trainer.train()
    trainer.save_model()
    trained = {name: value for name, value in trainer.model.named_parameters() if "lora_" in name}
    loaded = dict(QAdapterForCausalLM.from_pretrained(tmp_path / "run").named_parameters())
    assert any("embed_tokens" in name for name in trained)
    assert all(torch.equal(loaded[name], value.to(loaded[name].dtype)) for name, value in trained.items())
    saved = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert all("lora_" in name for name in saved), "the embedding itself is the base's"


def test_pushing_the_whole_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="export FOLDER --to hub"):
        arguments(tmp_path, push_to_hub=True)


def test_a_frozen_adapter_is_refused(tmp_path: Path, tokenizer) -> None:
    args = arguments(tmp_path)
    model = make_model(constants=args.constants).requires_grad_(False)
    with pytest.raises(ConfigError, match="the model's LoRA is frozen"):
        QAdapterTrainer(model, args, train_dataset=pairs(4), processing_class=tokenizer)


def test_a_checkpoint_is_an_artifact_without_pickled_arguments(tmp_path: Path, tokenizer) -> None:
    args = arguments(tmp_path, save_strategy="steps", save_steps=2)
    trainer = QAdapterTrainer(make_base(), args, train_dataset=pairs(8), processing_class=tokenizer)
    trainer.train()
    checkpoint = tmp_path / "checkpoint-2"
    assert not (checkpoint / "training_args.bin").exists()
    loaded = QAdapterForCausalLM.from_pretrained(checkpoint, make_base())
    for name, value in adapter_state(loaded).items():
        assert torch.equal(value, adapter_state(trainer.model)[name]), name


class _NoFloat64(TorchDispatchMode):
    """A device without float64, as Apple's are."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and found.dtype == torch.float64:
            raise TypeError(f"{function} made a float64 tensor")
        return found


def test_a_step_of_training_needs_no_float64(tmp_path: Path, tokenizer) -> None:
    args = arguments(tmp_path)
    trainer = QAdapterTrainer(make_base(), args, train_dataset=pairs(4), processing_class=tokenizer)
    batch = trainer.data_collator(list(trainer.train_dataset))
    trainer.model.train()
    with _NoFloat64():
        trainer.compute_loss(trainer.model, batch, num_items_in_batch=4).backward()
    assert trainer._metric_sums


@pytest.mark.parametrize("batch_size", [1, 3, 5])
def test_eval_metrics_are_means_over_pairs_whatever_the_batch(tmp_path: Path, tokenizer, batch_size: int) -> None:
    args = arguments(tmp_path, per_device_eval_batch_size=batch_size)
    model = make_model(constants=args.constants)
    dataset = pairs(7, seed=3)
    metrics = QAdapterTrainer(model, args, eval_dataset=dataset, processing_class=tokenizer).evaluate()
    rows = tokenize_dataset(dataset, tokenizer, max_length=None)
    with torch.no_grad():
        alone = [model(**PreferenceCollator(0)([row])) for row in rows]
    for name, field in (("eval_loss", "loss"), ("eval_rewards/chosen", "return_chosen"), ("eval_chi2", "chi2")):
        mean = float(torch.stack([getattr(out, field).squeeze() for out in alone]).mean())
        assert metrics[name] == pytest.approx(mean, rel=1e-4)
    wins = [float(out.return_chosen > out.return_rejected) for out in alone]
    assert metrics["eval_rewards/accuracies"] == pytest.approx(sum(wins) / 7)


def test_the_base_stays_bit_identical_and_only_the_lora_trains(tmp_path: Path, tokenizer) -> None:
    args = arguments(tmp_path, num_train_epochs=2)
    trainer = QAdapterTrainer(make_base(), args, train_dataset=pairs(8), processing_class=tokenizer)
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    trainer.train()
    changed = {n for n, p in trainer.model.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {n for n in before if "lora_" in n}


@pytest.mark.parametrize(("value_state", "max_length"), [("next", None), ("same", None), ("same", 9)])
def test_dpo_is_a_special_case_against_trl(tmp_path: Path, tokenizer, value_state: str, max_length: int | None) -> None:
    """γ = 1, α₀ = α̃ = β, χ² = 0, on one batch: the loss and the LoRA's gradients of `trl.DPOTrainer`.

    With the value of the same state also where responses are cut.
    """
    from trl import DPOConfig, DPOTrainer

    beta, data = 0.1, pairs(6, seed=1)
    standard = Dataset.from_list(
        [
            {
                "prompt": row["prompt"][0]["content"] + " ",
                "chosen": row["chosen"][0]["content"],
                "rejected": row["rejected"][0]["content"],
            }
            for row in data
        ]
    )
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    args = arguments(
        tmp_path / "ours", alpha_0=beta, alpha_tilde=beta, chi2_coef=0.0, sft_coef=0.0, parametrization="residual",
        value_state=value_state, max_length=max_length,
    )  # fmt: skip
    ours = QAdapterTrainer(make_base(), args, train_dataset=standard, processing_class=tokenizer, peft_config=lora)
    randomize_adapter(ours.model)
    cut = [*ours.train_dataset["chosen_terminated"], *ours.train_dataset["rejected_terminated"]]
    assert (False in cut) is (max_length is not None)
    loss = ours.compute_loss(ours.model.eval(), ours.data_collator(list(ours.train_dataset)))
    loss.backward()

    config = DPOConfig(
        output_dir=str(tmp_path / "trl"), beta=beta, use_cpu=True, bf16=False, max_length=max_length, report_to="none",
        per_device_train_batch_size=6, gradient_checkpointing=False,
    )  # fmt: skip
    theirs = DPOTrainer(make_base(), args=config, train_dataset=standard, processing_class=tokenizer, peft_config=lora)
    source = {n.split("base_model.model.")[-1]: p for n, p in ours.model.named_parameters() if "lora_" in n}
    with torch.no_grad():
        for name, parameter in theirs.model.named_parameters():
            if "lora_" in name and ".ref." not in name:
                parameter.copy_(source[name.split("base_model.model.")[-1]])
    batch = theirs.data_collator([theirs.train_dataset[i] for i in range(6)])
    expected = theirs.compute_loss(theirs.model.eval(), batch)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    compared = 0
    for name, parameter in theirs.model.named_parameters():
        if "lora_" in name and ".ref." not in name and parameter.grad is not None:
            torch.testing.assert_close(
                source[name.split("base_model.model.")[-1]].grad, parameter.grad, rtol=1e-4, atol=1e-5
            )
            compared += 1
    assert compared == len(source)


def test_the_names_of_an_evaluation_are_known_before_it(tmp_path: Path, tokenizer) -> None:
    trainer = QAdapterTrainer(make_base(), arguments(tmp_path), None, pairs(4), pairs(4), tokenizer)
    others = {"runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "epoch"}
    assert {name.removeprefix("eval_") for name in trainer.evaluate()} - others == set(EVALUATED)


def test_metrics_carry_trls_names_and_the_methods_own(tmp_path: Path, tokenizer) -> None:
    args = arguments(tmp_path, eval_strategy="steps", eval_steps=1)
    data = pairs(4)
    QAdapterTrainer(make_base(), args, train_dataset=data, eval_dataset=data, processing_class=tokenizer).train()
    train_line, eval_line = log_of(tmp_path)[:2]
    for name in ("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen"):
        assert name in train_line
        assert f"eval_{name}" in eval_line
    for name in ("loss", "grad_norm", "learning_rate", "chi2", "nll/chosen", "q/mean", "v/mean", "step"):
        assert name in train_line


def test_bad_rows_by_length(tmp_path: Path, tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    data = Dataset.from_list([*pairs(3), {**pairs(1)[0], "prompt": [{"role": "user", "content": "wa " * 40}]}])
    with pytest.raises(DataError, match=r"1 bad row:\n  row 4: the prompt has 46 tokens and max_length is 20"):
        tokenize_dataset(data, tokenizer, max_length=20)
    assert len(tokenize_dataset(data, tokenizer, max_length=20, on_bad_row="skip")) == 3
    assert "skipped 1 bad row" in caplog.text
    tokenize_dataset(pairs(3), tokenizer, max_length=13)
    assert "longer than max_length=13" in caplog.text


def test_a_row_that_the_chat_template_refuses_is_a_bad_row(
    tmp_path: Path, tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    refusing = copy.deepcopy(tokenizer)
    refusing.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        + tokenizer.chat_template
    )
    rows = list(pairs(3))
    rows[1]["prompt"].insert(0, {"role": "system", "content": "wa"})
    message = r"1 bad row:[\s\S]*row 2: the chat template refuses the messages: System role not supported"
    with pytest.raises(DataError, match=message):
        QAdapterTrainer(
            make_base(), arguments(tmp_path), train_dataset=Dataset.from_list(rows), processing_class=refusing
        )
    args = arguments(tmp_path, on_bad_row="skip")
    trainer = QAdapterTrainer(make_base(), args, train_dataset=Dataset.from_list(rows), processing_class=refusing)
    assert len(trainer.train_dataset) == 2
    assert "skipped 1 bad row" in caplog.text


@pytest.mark.parametrize("prompt", ["none", "text", "messages"])
def test_whole_conversations_as_trl_takes_them(tmp_path: Path, tokenizer, prompt: str) -> None:
    explicit, rows = pairs(2), []
    for row in explicit:
        rows.append({side: row["prompt"] + row[side] for side in ("chosen", "rejected")})
        if prompt != "none":
            rows[-1]["prompt"] = row["prompt"] if prompt == "messages" else row["prompt"][0]["content"]
    streamed = IterableDataset.from_generator(lambda: iter(rows))
    made = [
        QAdapterTrainer(make_base(), arguments(tmp_path), train_dataset=data, processing_class=tokenizer).train_dataset
        for data in (explicit, Dataset.from_list(rows), streamed)
    ]
    assert made[0].to_list() == made[1].to_list() == made[2].to_list()


def test_presets(tmp_path: Path) -> None:
    paper = QAdapterTrainingArguments(output_dir=str(tmp_path), preset="paper")
    assert vars(paper.constants) == {
        "parametrization": "logits", "alpha_0": 0.01, "alpha_tilde": 1.0, "gamma": 1.0, "chi2_coef": 0.1,
        "sft_coef": 0.0, "anchor_coef": 0.0, "value_state": "next", "length_normalized": False,
    }  # fmt: skip
    assert paper.lora_config.r == 8
    own = QAdapterTrainingArguments(output_dir=str(tmp_path), preset="paper", alpha_0=0.5, learning_rate=1e-5)
    assert (own.alpha_0, own.learning_rate, own.gamma) == (0.5, 1e-5, 1.0)
    assert QAdapterTrainingArguments(output_dir=str(tmp_path)).learning_rate == PRESETS["default"]["learning_rate"]
    wrong_values = {"preset": "papper", "gamma": 2.0, "max_length": 1, "remove_unused_columns": True, "lora_r": 0}
    for name, value in wrong_values.items():
        with pytest.raises(ConfigError):
            QAdapterTrainingArguments(output_dir=str(tmp_path), **{name: value})


def test_the_sampler_visits_every_pair_once_in_batches_of_like_length() -> None:
    lengths = torch.randint(5, 500, (103,), generator=torch.Generator().manual_seed(0)).tolist()
    sampler = LengthGroupedSampler(lengths, batch_size=4, seed=7)
    first, again = list(sampler), list(sampler)
    assert sorted(first) == list(range(103))
    assert first == again
    sampler.set_epoch(1)
    assert list(sampler) != first
    batches = [[lengths[index] for index in first[start : start + 4]] for start in range(0, 100, 4)]
    assert sum(max(batch) - min(batch) for batch in batches) / len(batches) < 40


def test_report_to_tensorboard(tmp_path: Path, tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "tb"))
    args = arguments(tmp_path, report_to="tensorboard", max_steps=2)
    QAdapterTrainer(make_base(), args, train_dataset=pairs(8), processing_class=tokenizer).train()
    assert list((tmp_path / "tb").rglob("events.out.tfevents.*"))
