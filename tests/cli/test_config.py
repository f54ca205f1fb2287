from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import yaml

from qadapter.cli.config import parse_config, parse_flags, read_yaml
from qadapter.cli.run_folder import save_run_config
from qadapter.errors import ConfigError
from qadapter.train import QAdapterTrainingArguments


@dataclass
class Data:
    train_file: str
    modules: list[str] | None = None
    shuffle: bool = True
    order: Literal["up", "down"] = "up"


@dataclass
class Numbers:
    max_length: int = 1024
    learning_rate: float | None = None
    checkpointing: bool | None = None
    schedule: str = "cosine"
    options: dict | str | None = None
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.max_length < 2:
            raise ValueError(f"max_length must be at least 2, got {self.max_length}")


TYPES = (Data, Numbers)


def yaml_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("flag", ["--max-length", "--max_length"])
def test_a_flag_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path, flag: str) -> None:
    path = yaml_file(tmp_path, "train_file: a.jsonl\nmax_length: 8\nlearning-rate: 1e-4\n")
    data, numbers = parse_config(TYPES, [flag, "16"], path)
    assert (data.train_file, data.shuffle) == ("a.jsonl", True)
    assert (numbers.max_length, numbers.learning_rate) == (16, 1e-4)


def test_flags_of_every_kind() -> None:
    flags = ["--train-file", "f", "--modules", "q", "v", "--no-shuffle", "--checkpointing", "--schedule", "linear"]
    assert parse_flags(TYPES, flags) == {
        "train_file": "f",
        "modules": ["q", "v"],
        "shuffle": False,
        "checkpointing": True,
        "schedule": "linear",
    }


def test_a_list_in_several_flags_is_all_of_them() -> None:
    found = parse_flags(TYPES, ["--modules", "q", "v", "--max-length", "4", "--modules", "k"])
    assert found["modules"] == ["q", "v", "k"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("learning_rate: 1e-4", 1e-4),
        ('learning_rate: "1e-4"', 1e-4),
        ("learning_rate: 2", 2.0),
        ("learning_rate: null", None),
        ("max_length: 8.0", 8),
        ("schedule: no", "no"),
        ("shuffle: false", False),
        ("shuffle: no", False),
        ("train_file: 12", "12"),
        ("train_file: 1e-4", "1e-4"),
        ("train_file: 8134e27", "8134e27"),
        ("train_file: 1.10", "1.10"),
        ("train_file: 1:30", "1:30"),
        ("train_file: 2026_11_25", "2026_11_25"),
        ("train_file: 2026-11-25", "2026-11-25"),
        ("train_file: 0100", "0100"),
        ("train_file: .inf", ".inf"),
        ("max_length: 0100", 100),
        ("max_length: 0x10", 16),
        ("max_length: 1_000", 1000),
        ("learning_rate: -.inf", -math.inf),
        ("modules: [1.0, 007]", ["1.0", "007"]),
        ("modules: 1e3", ["1e3"]),
        ("modules: [q, v]", ["q", "v"]),
        ("modules: q", ["q"]),
        ("options: {a: 1}", {"a": 1}),
        ("options: 1e3", "1e3"),
        ("order: down", "down"),
    ],
)
def test_yaml_values_take_the_type_of_their_field(tmp_path: Path, text: str, expected: object) -> None:
    (value,) = read_yaml(yaml_file(tmp_path, text), TYPES).values()
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("learning_rate: fast", ["learning_rate must be a number or null, got 'fast'"]),
        ("max_length: 1.5", ["max_length must be an integer, got 1.5"]),
        ("max_length: .inf", ["max_length must be an integer, got inf"]),
        ("max_length: !!int many", ["not valid YAML: 'many' is no integer"]),
        ("learning_rate: !!float many", ["not valid YAML: 'many' is no number"]),
        ("max_length: true", ["max_length must be an integer, got True"]),
        ("max_length: null", ["max_length must be an integer, got None"]),
        ("shuffle: maybe", ["shuffle must be true or false, got 'maybe'"]),
        ("order: sideways", ["order must be one of up, down, got 'sideways'"]),
        ("train_file: [a]", ["train_file must be a text"]),
        ("max_lenght: 8", ["unknown key 'max_lenght' (did you mean 'max_length'?)"]),
        ("max_length: 8\nmax_length: 9", ["'max_length' appears twice", "line"]),
        ("max_length: 8\nmax-length: 9", ["'max_length' appears twice"]),
        ("- max_length", ["one mapping", "list"]),
        ("max_length", ["one mapping", "str"]),
        ("a: [", ["not valid YAML"]),
    ],
)
def test_a_bad_file_is_an_error_that_names_file_key_and_value(tmp_path: Path, text: str, said: list[str]) -> None:
    path = yaml_file(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_yaml(path, TYPES)
    for words in [*said, str(path)]:
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--max-lenght", "8"], "unknown flag --max-lenght (did you mean '--max-length'?)"),
        (["--max_lenght=8"], "unknown flag --max_lenght (did you mean '--max-length'?)"),
        (["--learning-rate", "fast"], "invalid float value: 'fast'"),
        (["--max-length"], "expected one argument"),
        (["--order", "upp"], "unknown value for --order: 'upp' (did you mean 'up'?)"),
        (["stray"], "unexpected argument 'stray'"),
        (["--max-len", "8"], "unknown flag --max-len"),
        (["--max-length", "1", "--train-file", "f"], "max_length must be at least 2, got 1"),
        ([], "--train-file is required"),
    ],
)
def test_a_bad_flag_is_an_error(flags: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(TYPES, flags)
    assert said in str(caught.value)


def test_numbers_in_mappings_are_pythons_own(tmp_path: Path) -> None:
    (options,) = read_yaml(yaml_file(tmp_path, "options: {a: [1, {2: 1e-4}], b: .5}"), TYPES).values()
    assert options == {"a": [1, {2: 1e-4}], "b": 0.5}
    assert yaml.safe_load(yaml.safe_dump(options)) == options  # which takes no other numbers


@pytest.mark.parametrize("text", ["1e-4", "8134e27", "0100", "0o17", "1:30", "2026-11-25", "no", "null", "=", ".5"])
def test_a_saved_text_is_read_as_it_was(tmp_path: Path, text: str) -> None:
    values = {"train_file": text, "modules": [text], "learning_rate": 1e-5, "max_length": 100, "options": {"a": text}}
    save_run_config(tmp_path, values)
    data, numbers = parse_config(TYPES, [], tmp_path / "config.yaml")
    assert {name: (vars(data) | vars(numbers))[name] for name in values} == values
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["train_file"] == text  # by YAML 1.1


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    assert read_yaml(yaml_file(tmp_path, "# nothing\n"), TYPES) == {}


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path / "none.yaml", TYPES)


def test_the_training_arguments_take_all_their_fields(tmp_path: Path) -> None:
    path = yaml_file(tmp_path, "eval_strategy: no\nwarmup_steps: 0.2\nlr_scheduler_kwargs: {}\nsave_strategy: epoch\n")
    flags = ["--output-dir", "x", "--lr-scheduler-type", "linear", "--report-to", "none", "--gradient-checkpointing"]
    (arguments,) = parse_config([QAdapterTrainingArguments], [*flags, "--use-cpu"], path)
    assert arguments.eval_strategy == "no"
    assert arguments.lr_scheduler_type == "linear"
    assert (arguments.warmup_steps, arguments.gradient_checkpointing) == (0.2, True)


@pytest.mark.parametrize(("name", "value"), [("optim", "adamm"), ("preset", "papr"), ("gamma", "2"), ("lora_r", "0")])
def test_what_a_dataclass_refuses_is_a_config_error(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=value):
        parse_config([QAdapterTrainingArguments], [f"--{name}", value, "--output-dir", "x", "--use-cpu"])
