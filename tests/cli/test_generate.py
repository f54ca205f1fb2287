from __future__ import annotations

import io
import shutil
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from qadapter import QAdapterForCausalLM, load_tokenizer
from qadapter.cli import generate
from qadapter.cli.decoding import load
from qadapter.cli.main import build_parser, main
from qadapter.cli.serve import load as load_served
from qadapter.generate import answer_prompts
from qadapter.model import default_dtype

SHORT = ["--max-new-tokens", "8"]
LOADING = {"load_in": None, "trust_remote_code": False, "seed": 0}


def out_of(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(argv) == 0
    return capsys.readouterr().out


def test_prints_the_answer_of_the_library_and_nothing_else(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, tokenizer = QAdapterForCausalLM.from_pretrained(trained), load_tokenizer(trained)
    prompt = [[{"role": "user", "content": "Is the cat like the owl?"}]]
    (expected,) = answer_prompts(model, tokenizer, prompt, max_new_tokens=8, strength=0.5)
    argv = ["generate", str(trained), "Is the cat like the owl?", "--strength", "0.5", *SHORT]
    assert out_of(argv, capsys) == expected.text + "\n"


def test_strength_0_is_the_base_model(trained: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = load_tokenizer(trained)
    chat = [{"role": "user", "content": "Hi"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    base = AutoModelForCausalLM.from_pretrained(tiny_base)
    tokens = base.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids["input_ids"].shape[1] :]
    expected = tokenizer.decode(tokens, skip_special_tokens=True).strip()
    assert out_of(["generate", str(trained), "Hi", "--strength", "0", *SHORT], capsys) == expected + "\n"


def test_several_prompts_and_strengths(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = out_of(["generate", str(trained), "--strength", "0", "1", "Hi", "Ho\nho", *SHORT], capsys)
    lines = out.split("\n")
    assert [line for line in lines if line.startswith("== ")] == ["== strength 0 ==", "== strength 1 =="]
    assert [line for line in lines if line.startswith("> ")] == ["> Hi", "> Ho", "> ho"] * 2
    single = out_of(["generate", str(trained), "Hi", *SHORT], capsys)
    assert single in out.partition("== strength 1 ==")[2] + "\n"


def test_standard_input_and_sampling_with_a_seed(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sampling = ["--temperature", "1", "--top-p", "0.9", *SHORT]
    from_argument = out_of(["generate", str(trained), "Is the cat?", *sampling, "--seed", "1"], capsys)
    monkeypatch.setattr("sys.stdin", io.StringIO("Is the cat?\n"))
    from_input = out_of(["generate", str(trained), "-", *sampling, "--seed", "1"], capsys)
    assert from_input == from_argument
    assert out_of(["generate", str(trained), "Is the cat?", *sampling, "--seed", "2"], capsys) != from_argument


def test_standard_input_in_another_encoding(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("café".encode("latin-1")), "utf-8"))
    assert main(["generate", str(trained), "-"]) == 2
    assert "standard input is not UTF-8: unexpected end of data, 0xe9." in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9"), "utf-8", "surrogateescape"))
    assert main(["generate", str(trained), "-"]) == 2
    assert "standard input is not UTF-8: b'caf\\xe9'" in capsys.readouterr().err


def test_a_system_message_reaches_the_model(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = out_of(["generate", str(trained), "Hi", *SHORT], capsys)
    assert out_of(["generate", str(trained), "Hi", "--system", "the fox and the hen", *SHORT], capsys) != plain


def test_an_empty_system_message_is_one() -> None:
    """Templates with a system message of their own write it where none is given, and an empty one where it is empty."""
    tokenizer = SimpleNamespace(chat_template="any")
    asked = [{"role": "user", "content": "Hi"}]
    assert generate._as_input("Hi", "", tokenizer) == [{"role": "system", "content": ""}, *asked]
    assert generate._as_input("Hi", None, tokenizer) == asked


def test_a_cut_answer_is_said_on_standard_error(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(trained), "Hi", "--max-new-tokens", "1"]) == 0
    assert "warning: 1 of the answers end at --max-new-tokens 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["no-such-folder", "Hi"], "is not a Q-Adapter artifact"),
        (["DIR", " "], "a prompt is empty"),
        (["DIR", "caf\udce9"], "error: a prompt is not UTF-8: b'caf\\xe9'"),
        (["DIR", "Hi", "--system", "caf\udce9"], "--system: the text is not UTF-8"),
        *[
            (["DIR", "Hi", "--seed", seed], "--seed: must be a whole number from 0 to 4294967295")
            for seed in ("-1", "4294967296")
        ],
        (["DIR", "-", "-"], "standard input can be read once"),
        (["DIR"], "give prompts as words, or --prompts FILE with --out FILE"),
        (["DIR", "Hi", "--strength", "0", "--alpha-0", "0", *SHORT], "leaves no policy"),
        (["DIR", "Hi", "Hi " * 180, *SHORT], "prompt 2 of 2 has 549 tokens; with an answer of up to 8 that is more"),
        (["DIR", "Hi", "--max-new-tokens", "0"], "at least 1"),
    ],
)
def test_errors(argv: list[str], said: str, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", *[str(trained) if word == "DIR" else word for word in argv]]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    "words",
    [
        "DIR --strength 0.5 1 --seed 3 PROMPT",
        "DIR PROMPT --seed 3 --strength 0.5 1",
        "--seed 3 DIR --strength 0.5 1 PROMPT",
        "--strength 0.5 1 --trust-remote-code DIR PROMPT --seed=3",
        "--strength 0.5 --seed=3 DIR PROMPT --strength 1",
    ],
)
def test_prompts_may_stand_before_and_behind_flags(words: str) -> None:
    args = build_parser().parse_args(["generate", *words.split()])
    assert (args.directory, args.words, args.strength, args.seed) == ("DIR", ["PROMPT"], [0.5, 1.0], 3)


@pytest.mark.parametrize(
    ("words", "prompts"),
    [
        (["DIR", "--strength", "0.5", "1", "--seed", "3", "--", "-5 + 3?"], ["-5 + 3?"]),
        (["--strength", "0.5", "1", "--seed", "3", "--", "DIR", "-5 + 3?", "-6"], ["-5 + 3?", "-6"]),
        (["DIR", "Hi", "--seed=3", "--strength", "0.5", "1", "--", "--seed", "4"], ["Hi", "--seed", "4"]),
        (["--seed", "3", "DIR", "--strength", "0.5", "1", "Hi", "--"], ["Hi"]),
    ],
)
def test_what_follows_two_hyphens_are_prompts(words: list[str], prompts: list[str]) -> None:
    args = build_parser().parse_args(["generate", *words])
    assert (args.directory, args.words, args.strength, args.seed) == ("DIR", prompts, [0.5, 1.0], 3)


@pytest.mark.parametrize("instructions", [True, False])
def test_without_a_dtype_the_weights_are_in_one_that_the_machine_multiplies(
    instructions: bool, trained: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(default_dtype, "multiplies_bfloat16", lambda device: instructions)
    base = shutil.copytree(tiny_base, tmp_path / "bfloat16")
    AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.bfloat16).save_pretrained(base)
    loaded = {
        "generate": load(Namespace(directory=str(trained), base=str(base), dtype=None, **LOADING))[0],
        "serve": load_served(Namespace(adapters=[str(trained)], base=str(base), dtype=None, **LOADING)).model,
        "export": load(Namespace(directory=str(trained), base=str(base), dtype="auto", **LOADING))[0],
    }
    own = torch.bfloat16 if instructions else torch.float32
    assert {name: model.dtype for name, model in loaded.items()} == {
        "generate": own, "serve": own, "export": torch.bfloat16
    }  # fmt: skip
