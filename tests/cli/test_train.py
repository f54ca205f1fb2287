"""The command end to end, on a tiny random Llama."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import datasets
import pytest
import torch
import yaml
from safetensors.torch import load_file

from qadapter import QAdapterForCausalLM, load_tokenizer
from qadapter.cli import run_folder, train_run
from qadapter.cli.holdout import split_by_prompt
from qadapter.cli.main import main
from qadapter.cli.train_run import plan_run
from qadapter.errors import ConfigError, DataError
from qadapter.evaluate import EvaluationArguments, read_inputs
from qadapter.model import load_base_tokenizer
from qadapter.train import PRESETS

WEIGHTS = Path("adapter") / "adapter_model.safetensors"


@pytest.fixture
def run_copy(trained: Path, tmp_path: Path) -> Path:
    """A finished run that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "out"))


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The text of the error that a command ends with."""
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


def test_a_run_leaves_the_artifact_its_config_and_its_metrics(trained: Path) -> None:
    for name in ("qadapter_config.json", "README.md", "tokenizer.json", "metrics.jsonl", str(WEIGHTS)):
        assert (trained / name).is_file(), name
    assert (trained / "checkpoint-2").is_dir()
    metrics = json.loads((trained / "eval_metrics.json").read_text())
    assert 0 <= metrics["eval_rewards/accuracies"] <= 1
    model = QAdapterForCausalLM.from_pretrained(trained)
    load_tokenizer(trained)
    assert model.constants.alpha_0 == PRESETS["default"]["alpha_0"]
    assert any(w.abs().max() > 0 for name, w in load_file(trained / WEIGHTS).items() if "lora_B" in name)


def test_the_run_says_where_it_is_saved_and_what_comes_next(
    tiny_base: Path, pairs_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    flags = ["--model", str(tiny_base), "--train-file", str(pairs_file), "--eval-file", str(pairs_file)]
    assert main(["train", *flags, "--output-dir", str(out), "--max-steps", "1", "--use-cpu", "--preset", "paper"]) == 0
    captured = capsys.readouterr()
    assert f"the adapter is saved in {out}" in captured.out
    assert "held-out accuracy" in captured.out
    assert "on 24 pairs" in captured.out
    assert f"qadapter chat {out}" in captured.out
    assert json.loads((out / "qadapter_config.json").read_text())["constants"]["alpha_0"] == 0.01
    assert all(weight.dtype == torch.float32 for weight in load_file(out / WEIGHTS).values())


THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}(no thought)\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}(no thought)\n{% endif %}{% endif %}"
)
"""As Qwen3's: an answer begins with an empty thought, a prompt ends with it where it is told not to think."""


def test_the_adapter_keeps_what_its_chat_template_was_told(
    tiny_base: Path, pairs_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, out, told = tmp_path / "base", tmp_path / "out", '{"enable_thinking": false}'
    shutil.copytree(tiny_base, base)
    tokenizer = load_base_tokenizer(base)
    tokenizer.chat_template = THINKING
    tokenizer.save_pretrained(base)
    flags = ["train", "--model", str(base), "--train-file", str(pairs_file), "--use-cpu", "--max-length", "96"]
    flags += ["--dtype", "float32", "--anchors", "0", "--max-steps", "2"]
    for name, more, warned in (("plain", [], True), ("out", ["--chat-template-kwargs", told], False)):
        assert main([*flags, *more, "--output-dir", str(tmp_path / name)]) == 0
        assert ("begins every response with '(no thought)" in capsys.readouterr().err) is warned
    chat = [{"role": "user", "content": "Hello."}]
    prompt = load_tokenizer(out).apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert prompt.endswith("assistant\n(no thought)\n")
    assert yaml.safe_load((out / "config.yaml").read_text())["chat_template_kwargs"] == {"enable_thinking": False}
    again = [*flags, "--output-dir", str(out), "--resume"]
    assert "chat_template_kwargs" in refused([*again, "--chat-template-kwargs", '{"enable_thinking": true}'], capsys)
    assert main([*again, "--chat-template-kwargs", '{"enable_thinking":false}']) == 0, "the same, spelled otherwise"
    assert main(again) == 0, "what is not said anew stays"
    capsys.readouterr()
    check = ["data", "check", str(pairs_file), "--chat-template-kwargs", told]
    assert "no tokenizer was given" in refused(check, capsys)
    assert main([*check, "--tokenizer", str(base), "--preview", "1"]) == 0
    prompt_shown = capsys.readouterr().out.partition("Is the")[2]
    assert prompt_shown.count("thought") == 1, "in the prompt, and so in neither response"
    wrong = ["--chat-template-kwargs", '{"enable_thinkin": false}', "--output-dir", str(tmp_path / "wrong")]
    assert "no variable 'enable_thinkin' (did you mean 'enable_thinking'?)" in refused([*flags, *wrong], capsys)
    wrong[1] = "enable_thinking=false"
    assert "on a command line as JSON" in refused([*flags, *wrong], capsys)


def test_cache_base(tiny_base: Path, pairs_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two runs of two epochs with one cache: the second finds it, and both end where a run without ends."""
    cache, weights, said = tmp_path / "cache", [], []
    flags = ["--model", str(tiny_base), "--train-file", str(pairs_file), "--dtype", "float32", "--use-cpu"]
    flags += ["--max-length", "64", "--num-train-epochs", "2", "--base-cache-dir", str(cache), "--anchors", "0"]
    for number, switch in enumerate(("true", "true", "false")):
        out = tmp_path / str(number)
        assert main(["train", *flags, "--output-dir", str(out), "--cache-base", switch]) == 0
        said.append(capsys.readouterr().err)
        weights.append(load_file(out / WEIGHTS))
    assert f" states of 24 pairs, in {cache}" in said[0]
    assert "base cache: 24 of 24 pairs" in said[0]
    assert "base cache found: " in said[1]
    assert "24 of 24 pairs" not in said[1]
    assert "base cache" not in said[2]
    for name, weight in weights[2].items():
        assert torch.equal(weights[0][name], weights[1][name])
        torch.testing.assert_close(weights[0][name], weight, rtol=1e-3, atol=1e-5)
    assert yaml.safe_load((tmp_path / "0" / "config.yaml").read_text())["cache_base"] is True


def test_the_saved_config_gives_the_same_run_again(trained: Path, tmp_path: Path) -> None:
    saved = yaml.safe_load((trained / "config.yaml").read_text())
    assert saved["max_steps"] == 6
    assert saved["preset"] == "default"
    assert saved["learning_rate"] == 1e-3
    assert not {"config", "resume", "overwrite", "hub_token"} & saved.keys()
    again = plan_run(["--config", str(trained / "config.yaml"), "--output-dir", str(tmp_path / "new")])
    assert again.config | {"output_dir": ""} == saved | {"output_dir": ""}


@pytest.mark.parametrize(("instructions", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_the_dtype_of_the_machine_is_saved_and_a_saved_one_stays(
    run_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instructions: bool, dtype: str
) -> None:
    monkeypatch.setattr("qadapter.model.default_dtype.multiplies_bfloat16", lambda device: instructions)
    new = plan_run(["--train-file", "pairs.jsonl", "--output-dir", str(tmp_path / "new")])
    assert new.run.dtype == new.config["dtype"] == dtype
    config = run_copy / "config.yaml"
    for saved in ("bfloat16", "float32"):
        config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), "dtype": saved}))
        assert plan_run(["--output-dir", str(run_copy), "--resume"]).run.dtype == saved


def test_a_null_that_is_no_default_is_saved(run_copy: Path) -> None:
    """A run that keeps every checkpoint must not lose them when it is resumed."""
    config = run_copy / "config.yaml"
    saved = yaml.safe_load(config.read_text())
    assert saved["save_total_limit"] == 10
    assert None not in saved.values()
    config.write_text(yaml.safe_dump({**saved, "save_total_limit": None}))
    resumed = plan_run(["--output-dir", str(run_copy), "--resume"])
    assert (resumed.training.save_total_limit, resumed.config["save_total_limit"]) == (None, None)
    assert [name for name, value in resumed.config.items() if value is None] == ["save_total_limit"]


def test_a_preset_given_as_a_flag_wins_over_the_spelled_out_constants_of_a_saved_config(
    trained: Path, tmp_path: Path
) -> None:
    new = ["--config", str(trained / "config.yaml"), "--output-dir", str(tmp_path / "new"), "--preset", "paper"]
    plan = plan_run(new)
    assert plan.training.constants.alpha_0 == 0.01
    assert plan.training.lora_dropout == 0.1  # set by hand in that run


def test_a_home_folder_is_one_folder(run_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(run_copy.parent))
    plan = plan_run(["--output-dir", f"~/{run_copy.name}", "--resume"])
    assert plan.output_dir == Path(plan.training.output_dir) == run_copy
    with pytest.raises(ConfigError, match="already holds a run"):
        plan_run(["--train-file", "pairs.jsonl", "--output-dir", f"~/{run_copy.name}"])


def test_what_goes_wrong_in_the_last_evaluation_costs_no_training(
    tiny_base: Path, pairs_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train_run.QAdapterTrainer, "evaluate", interrupted)
    flags = ["--model", str(tiny_base), "--train-file", str(pairs_file), "--use-cpu", "--max-length", "64"]
    flags += ["--anchors", "0", "--save-strategy", "no", "--eval-split", "0.2", "--output-dir", str(tmp_path / "run")]
    assert main(["train", *flags]) == 130
    QAdapterForCausalLM.from_pretrained(tmp_path / "run")


def test_an_existing_run_is_refused(run_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = ["train", "--config", str(run_copy / "config.yaml"), "--output-dir", str(run_copy)]
    assert "already holds a run" in refused(new, capsys)
    for checkpoint in run_copy.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    assert "qadapter_config.json" in refused(new, capsys)


def test_overwrite_replaces_the_run_and_nothing_else(run_copy: Path) -> None:
    (run_copy / "notes.txt").write_text("mine")
    (run_copy / "checkpoint-mine").mkdir()
    again = ["--config", str(run_copy / "config.yaml"), "--output-dir", str(run_copy), "--max-steps", "1"]
    assert main(["train", *again, "--overwrite"]) == 0
    assert (run_copy / "notes.txt").read_text() == "mine"
    assert (run_copy / "checkpoint-mine").is_dir()
    assert {path.name for path in run_copy.glob("checkpoint-[0-9]*")} == {"checkpoint-1"}


def test_the_pairs_that_were_split_off_can_be_evaluated(trained: Path, pairs_file: Path) -> None:
    held_out = [json.loads(line) for line in (trained / "heldout.jsonl").read_text().splitlines()]
    every = [json.loads(line) for line in pairs_file.read_text().splitlines()]
    assert len(held_out) == 6
    assert all(row in every for row in held_out)


def test_overwriting_takes_no_file_that_the_new_run_reads(run_copy: Path) -> None:
    held_out = run_copy / "heldout.jsonl"
    before = held_out.read_text()
    run_folder.clear_run(run_copy, in_use=(None, str(held_out)))
    assert held_out.read_text() == before
    run_folder.clear_run(run_copy, in_use=("other.jsonl", None))
    assert not held_out.exists()


def test_files_that_no_run_wrote_are_not_replaced(
    run_copy: Path, pairs_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "heldout.jsonl").write_text("my own\n")
    new = ["train", "--train-file", str(pairs_file), "--output-dir", str(folder), "--eval-split", "0.1"]
    assert "heldout.jsonl was not written by a run" in refused(new, capsys)
    assert "heldout.jsonl was not written by a run" in refused([*new, "--overwrite"], capsys)
    assert (folder / "heldout.jsonl").read_text() == "my own\n"
    (folder / "heldout.jsonl").unlink()
    config = folder / "config.yaml"
    config.write_text(f"# mine\ntrain_file: {pairs_file}\n")
    said = refused(["train", "--config", str(config), "--output-dir", str(folder)], capsys)
    assert "config.yaml was not written by a run" in said
    assert config.read_text().startswith("# mine")

    held_out = run_copy / "heldout.jsonl"
    before = held_out.read_text()
    again = ["train", "--config", str(run_copy / "config.yaml"), "--output-dir", str(run_copy), "--overwrite"]
    said = refused([*again, "--train-file", str(held_out), "--eval-split", "0.2"], capsys)
    assert "heldout.jsonl would be replaced by the held-out pairs of this run, which reads it" in said
    assert held_out.read_text() == before
    # What a run wrote before it was stopped is no obstacle to starting it again.
    run_folder.refuse_files_of_others(run_copy, (str(pairs_file), None), splits=True)


def test_held_out_pairs_that_are_skipped_are_neither_written_nor_counted(
    tiny_base: Path, pairs_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = [json.loads(line) for line in pairs_file.read_text().splitlines()]
    for row in pairs[::2]:
        row["prompt"][-1]["content"] *= 12
    data, out = tmp_path / "pairs.jsonl", tmp_path / "run"
    data.write_text("".join(json.dumps(row) + "\n" for row in pairs))
    flags = ["--model", str(tiny_base), "--train-file", str(data), "--eval-split", "8", "--on-bad-row", "skip"]
    flags += ["--max-length", "40", "--output-dir", str(out), "--max-steps", "1", "--use-cpu", "--anchors", "0"]
    assert main(["train", *flags, "--dtype", "float32"]) == 0
    held_out = (out / "heldout.jsonl").read_text().splitlines()
    assert 0 < len(held_out) < 8
    said = capsys.readouterr().out
    assert f"on {len(held_out)} pairs" in said
    assert f"--preference-file {out / 'heldout.jsonl'} --max-length 40" in said
    assert main(["eval", str(out), "--preference-file", str(out / "heldout.jsonl"), "--max-length", "40"]) == 0


def test_held_out_pairs_on_the_hub_are_those_of_its_split_test(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = []

    def load_dataset(name: str, split: str) -> datasets.Dataset:
        splits.append(split)
        return datasets.Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    flags = ["--train-file", "org/pairs", "--eval-file", "org/pairs", "--output-dir", str(tmp_path / "run")]
    plan = plan_run(flags)
    train_run._datasets(plan.run, plan.training)
    read_inputs(EvaluationArguments(preference_file="org/pairs"), load_base_tokenizer(str(tiny_base)))
    assert splits == ["train", "test", "test"]


def test_a_run_that_cannot_start_does_not_cost_the_earlier_one(
    run_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = ["train", "--config", str(run_copy / "config.yaml"), "--output-dir", str(run_copy), "--overwrite"]
    assert "no such file" in refused([*again, "--train-file", "none.jsonl"], capsys)
    assert "no room" in refused([*again, "--max-length", "5"], capsys)
    assert (run_copy / WEIGHTS).is_file()
    assert (run_copy / "checkpoint-6").is_dir()


def test_resume_gives_the_weights_of_the_uninterrupted_run_bit_for_bit(
    run_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uninterrupted = load_file(run_copy / WEIGHTS)
    (run_copy / "qadapter_config.json").unlink()
    shutil.rmtree(run_copy / "adapter")
    shutil.rmtree(run_copy / "checkpoint-6")
    # The kill came while the next checkpoint was being written.
    (run_copy / "checkpoint-4" / "trainer_state.json").unlink()

    assert main(["train", "--output-dir", str(run_copy), "--resume"]) == 0
    error = capsys.readouterr().err
    assert "checkpoint-4 is incomplete (no trainer_state.json)" in error
    assert "resuming from" in error
    assert "checkpoint-2" in error
    resumed = load_file(run_copy / WEIGHTS)
    assert resumed.keys() == uninterrupted.keys()
    assert all(torch.equal(resumed[name], weight) for name, weight in uninterrupted.items())
    steps = [json.loads(line)["step"] for line in (run_copy / "metrics.jsonl").read_text().splitlines()]
    assert steps[:3] == [2, 4, 6]


def test_a_run_of_before_the_likelihood_term_goes_on_without_it(run_copy: Path) -> None:
    shutil.rmtree(run_copy / "checkpoint-6")
    checkpoint = run_copy / "checkpoint-4" / "qadapter_config.json"
    config = json.loads(checkpoint.read_text())
    del config["constants"]["sft_coef"]
    checkpoint.write_text(json.dumps(config))
    saved = yaml.safe_load((run_copy / "config.yaml").read_text())
    del saved["sft_coef"]
    (run_copy / "config.yaml").write_text(yaml.safe_dump(saved))
    assert main(["train", "--output-dir", str(run_copy), "--resume"]) == 0
    assert json.loads((run_copy / "qadapter_config.json").read_text())["constants"]["sft_coef"] == 0.0


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--learning-rate", "1e-5"], "learning_rate (saved: 0.001, now: 1e-05)"),
        (["--seed", "4"], "seed (saved: 3, now: 4)"),
        (["--pairs-per-step", "8"], "pairs_per_step (saved: 4, now: 8)"),
        (["--train-file", "other.jsonl"], "train_file"),
        (["--alpha-0", "1"], "alpha_0"),
        (["--weight-decay", "0.1"], "weight_decay"),
        (["--cache-base"], "cache_base (saved: False, now: True)"),
    ],
)
def test_resume_refuses_what_would_change_the_result(trained: Path, flags: list[str], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_run(["--output-dir", str(trained), "--resume", *flags])
    assert named in str(caught.value)


def test_resume_after_the_data_changed_is_refused_and_the_held_out_pairs_stay(
    tiny_base: Path, pairs_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs, out = tmp_path / "pairs.jsonl", tmp_path / "run"
    lines = pairs_file.read_text().splitlines(keepends=True)
    pairs.write_text("".join(lines[:-4]))
    flags = [
        "--model",
        str(tiny_base),
        "--train-file",
        str(pairs),
        "--use-cpu",
        "--max-length",
        "64",
        "--max-steps",
        "1",
    ]
    flags += ["--anchors", "0", "--eval-split", "0.3", "--save-steps", "1", "--output-dir", str(out)]
    assert main(["train", *flags]) == 0
    before = (out / "heldout.jsonl").read_bytes()
    pairs.write_text("".join(lines))
    assert "was trained on other rows" in refused(["train", "--output-dir", str(out), "--resume"], capsys)
    assert (out / "heldout.jsonl").read_bytes() == before


def test_resume_takes_what_changes_nothing(trained: Path) -> None:
    flags = ["--logging-steps", "1", "--save-steps", "1", "--seed", "3", "--base-cache-dir", "elsewhere"]
    flags += ["--per-device-train-batch-size", "2"]
    plan = plan_run(["--output-dir", str(trained), "--resume", *flags])
    assert plan.checkpoint == trained / "checkpoint-6"
    assert (plan.training.gradient_accumulation_steps, plan.training.pairs_per_step) == (2, 4)


def test_resume_without_a_complete_checkpoint_is_an_error(run_copy: Path, tmp_path: Path) -> None:
    for checkpoint in run_copy.glob("checkpoint-*"):
        (checkpoint / "trainer_state.json").write_text("{")
    with pytest.raises(ConfigError, match="no complete checkpoint"):
        plan_run(["--output-dir", str(run_copy), "--resume"])
    with pytest.raises(ConfigError, match="does not exist"):
        plan_run(["--output-dir", str(tmp_path / "nowhere"), "--resume"])


def test_ctrl_c_says_how_to_go_on(
    run_copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train_run.QAdapterTrainer, "train", interrupt)
    assert main(["train", "--output-dir", str(run_copy), "--resume"]) == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"interrupted; continue from checkpoint-6 with: qadapter train --output-dir {run_copy} --resume"


def test_out_of_memory_keeps_the_checkpoints_and_says_how_to_go_on(
    run_copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(run_copy / "checkpoint-6")
    trained_whole = train_run.QAdapterTrainer.compute_loss

    def out_of_memory(self: train_run.QAdapterTrainer, model: torch.nn.Module, inputs: dict, **kwargs: object):
        if len(inputs["terminated"]) > 2 * 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return trained_whole(self, model, inputs, **kwargs)

    monkeypatch.setattr(train_run.QAdapterTrainer, "compute_loss", out_of_memory)
    error = refused(["train", "--output-dir", str(run_copy), "--resume"], capsys)
    assert "a batch of 4 pairs does not fit into the memory of cpu" in error
    assert "hint: lower per_device_train_batch_size" in error
    command = f"qadapter train --output-dir {run_copy} --resume --auto-micro-batch"
    assert f"hint: continue from checkpoint-4 with: {command}" in error
    assert main(command.split()[1:]) == 0
    assert "at most 2 at a time" in capsys.readouterr().err
    assert (run_copy / "checkpoint-6").is_dir()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--max-lenght", "8"], "unknown flag --max-lenght (did you mean '--max-length'?)"),
        (["--train-file", "none.jsonl"], "no such file: none.jsonl"),
        (["--train-file", ""], "--train-file is required"),
        (["--config", "none.yaml"], "none.yaml cannot be read"),
        (["--model", "./no-such-folder"], "no such folder: ./no-such-folder"),
        (["--eval-split", "1.5"], "--eval-split must be a share"),
        (["--eval-split", "0"], "--eval-split must be a share"),
        (["--eval-split", "24"], "leaves no pair to train on"),
        (["--eval-split", "2", "--eval-file", "x.jsonl"], "choose one"),
        (["--resume", "--overwrite"], "choose one"),
        (["--eval-strategy", "epoch"], "needs --eval-file or --eval-split"),
        (["--dtype", "int8"], "--dtype must be one of"),
        (["--learning-rate", "fast"], "invalid float value: 'fast'"),
        (["--learning-rate", "nan"], "learning_rate must be a finite number of at least 0, got nan"),
        (["--per-device-train-batch-size", "0"], "per_device_train_batch_size must be at least 1, got 0"),
        (["--gradient-accumulation-steps", "0"], "gradient_accumulation_steps must be at least 1, got 0"),
        (["--seed=-1"], "seed must be a whole number from 0 to 4294967295, got -1"),
        (["--num-train-epochs", "0"], "num_train_epochs must be a finite number above 0, got 0"),
        (
            ["--lr-scheduler-type", "cosine_with_min_lr"],
            "cosine_with_min_lr cannot be made with lr_scheduler_kwargs {}",
        ),
        (["--lr-scheduler-type", "warmup_stable_decay"], "warmup_stable_decay cannot be made with"),
        (["--report-to", "tensorbord"], "report_to: unknown 'tensorbord' (did you mean 'tensorboard'?)"),
        (["--report-to", "dvclive"], "report_to: dvclive is not installed"),
        (["--eval-on-start"], "--eval-on-start needs --eval-file or --eval-split"),
        (
            ["--eval-split", "4", "--eval-strategy", "epoch", "--metric-for-best-model", "eval_accuracy"],
            "--metric-for-best-model: unknown 'eval_accuracy'\nhint: one of loss, rewards/chosen, rewards/rejected, "
            "rewards/accuracies",
        ),
    ],
)
def test_wrong_arguments_are_refused_before_a_model_is_loaded(
    flags: list[str],
    said: str,
    pairs_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(train_run, "load_base", lambda *a, **k: pytest.fail("the model was loaded"))
    out = tmp_path / "out"
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "config.yaml").write_text("")
    if "--resume" in flags:
        out = tmp_path / "saved"
    assert said in refused(
        ["train", "--train-file", str(pairs_file), "--output-dir", str(out), "--use-cpu", *flags], capsys
    )


def test_output_dir_is_required(pairs_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--output-dir is required" in refused(["train", "--train-file", str(pairs_file)], capsys)


def test_help_shows_our_fields_with_their_defaults_and_help_all_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    short = capsys.readouterr().out
    assert main(["train", "--help-all"]) == 0
    everything = capsys.readouterr().out
    for words in ("--max-length", "(default: 1024)", "--alpha-0", "paper: 0.01", "--help-all", "--save-steps"):
        assert words in short
    assert "--dataloader-num-workers" not in short
    assert "--dataloader-num-workers" in everything
    assert "~20% slower" in short
    assert "%%" not in everything


def test_no_prompt_is_in_both_parts() -> None:
    from datasets import Dataset

    prompts = [[{"role": "user", "content": f"q{number // 3}"}] for number in range(30)]
    dataset = Dataset.from_dict({"prompt": prompts, "number": list(range(30))})
    train, held_out = split_by_prompt(dataset, 0.25, seed=1)
    assert len(held_out) == 6  # 7 or 8 were asked for; prompts come in threes
    assert not {p[0]["content"] for p in train["prompt"]} & {p[0]["content"] for p in held_out["prompt"]}
    assert sorted([*train["number"], *held_out["number"]]) == list(range(30))
    assert train["number"] == sorted(train["number"])
    assert split_by_prompt(dataset, 0.25, seed=1)[1]["number"] == held_out["number"]
    assert split_by_prompt(dataset, 9, seed=2)[1]["number"] != split_by_prompt(dataset, 9, seed=3)[1]["number"]
    with pytest.raises(DataError, match="no pair to evaluate on"):
        split_by_prompt(dataset, 2, seed=1)


def test_anchors_are_sampled_once_and_kept(tiny_base: Path, pairs_file: Path, tmp_path: Path) -> None:
    flags = ["--model", str(tiny_base), "--train-file", str(pairs_file), "--output-dir", str(tmp_path / "run")]
    flags += ["--dtype", "float32", "--max-length", "96", "--use-cpu", "--max-steps", "6", "--save-steps", "2"]
    assert main(["train", *flags, "--logging-steps", "1", "--anchors", "3", "--preset", "default"]) == 0
    anchors = (tmp_path / "run" / "anchors.jsonl").read_text(encoding="utf-8")
    assert len(anchors.splitlines()) == 3
    shutil.rmtree(tmp_path / "run" / "checkpoint-6")
    assert main(["train", "--output-dir", str(tmp_path / "run"), "--resume"]) == 0
    assert (tmp_path / "run" / "anchors.jsonl").read_text(encoding="utf-8") == anchors
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("anchor/kl" in line for line in lines)


def test_lost_anchors_are_sampled_again(
    tiny_base: Path, pairs_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    flags = ["--model", str(tiny_base), "--train-file", str(pairs_file), "--output-dir", str(run), "--anchors", "3"]
    flags += ["--dtype", "float32", "--max-length", "96", "--use-cpu", "--max-steps", "6", "--save-steps", "2"]
    assert main(["train", *flags]) == 0
    kept, weights = (run / "anchors.jsonl").read_text(), load_file(run / WEIGHTS)
    (run / "anchors.jsonl").unlink()
    shutil.rmtree(run / "checkpoint-6")
    assert main(["train", "--output-dir", str(run), "--resume"]) == 0
    assert "anchors.jsonl is missing: the anchors are sampled again" in capsys.readouterr().err
    assert (run / "anchors.jsonl").read_text() == kept
    assert all(torch.equal(load_file(run / WEIGHTS)[name], weight) for name, weight in weights.items())


def test_what_a_batch_that_does_not_fit_is_met_with_may_be_added_on_resume(run_copy: Path) -> None:
    plan = plan_run(["--output-dir", str(run_copy), "--resume", "--activation-checkpointing", "--auto-micro-batch"])
    assert plan.training.activation_checkpointing
