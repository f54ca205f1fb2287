"""`qadapter eval` on a trained tiny artifact."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qadapter.cli.main import main


def evaluate(capsys: pytest.CaptureFixture[str], *argv: str) -> dict:
    assert main(["eval", *argv]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_keys_that_scripts_read(
    trained: Path, pairs_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    neutral = tmp_path / "neutral.jsonl"
    neutral.write_text('{"prompt": "Is the cat here?"}\n{"prompt": "the dog", "kind": "document"}\n')
    output = tmp_path / "result.json"
    flags = ["--preference-file", str(pairs_file), "--neutral-file", str(neutral), "--strength", "1", "0", "0.5"]
    result = evaluate(capsys, str(trained), *flags, "--output", str(output))
    assert json.loads(output.read_text()) == result
    assert 0 <= result["preference"]["accuracy"] <= 1
    assert result["preference"]["pairs"] == 24
    assert result["retention"]["kl_to_base"] == result["retention"]["by_strength"][0]["kl_to_base"] > 0
    assert result["retention"]["by_strength"][1]["kl_to_base"] == 0
    assert 0 < result["retention"]["by_strength"][2]["kl_to_base"] < result["retention"]["kl_to_base"]
    small = evaluate(capsys, str(trained), *flags[:4], "--batch-size", "5")
    assert small["preference"]["margin"] == pytest.approx(result["preference"]["margin"], rel=1e-4)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere"], "is not a Q-Adapter artifact"),
        (["TRAINED", "--preference-file", "nowhere.jsonl"], "nowhere.jsonl"),
        (["TRAINED", "--output", "no/such/folder/x.json"], "the folder does not exist"),
        (["TRAINED", "--strength", "-1"], "strength"),
        (["TRAINED", "--batch-size", "0"], "--batch-size must be at least 1"),
        (["TRAINED", "--prefrence-file", "x"], "did you mean '--preference-file'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_input(trained: Path, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", *(str(trained) if word == "TRAINED" else word for word in argv)]) == 2
    assert message in capsys.readouterr().err


def test_a_neutral_file_without_prompts(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "n.jsonl").write_text('{"prompt": "the cat"}\n{"text": "the dog"}\n')
    assert main(["eval", str(trained), "--neutral-file", str(tmp_path / "n.jsonl")]) == 2
    assert "n.jsonl:2: missing or empty field 'prompt'" in capsys.readouterr().err
