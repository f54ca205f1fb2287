from __future__ import annotations

from pathlib import Path

import pytest

from qadapter.cli.main import main
from qadapter.export import TARGETS


def run(adapter: object, *words: object) -> int:
    return main(["export", str(adapter), *map(str, words)])


def test_the_help_lists_every_target_with_its_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--help"]) == 0
    said = capsys.readouterr().out
    for name, target in TARGETS.items():
        assert f"\n  {name} " in said
        assert target.meaning in said
    assert "--max-shard-size" in said
    assert "(default: 5GB)" in said


def test_it_prints_the_folder_and_nothing_else(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(trained, "--to", "peft", "--output", tmp_path / "out") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}\n"
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_flags_may_stand_in_any_order_behind_the_adapter(trained: Path, tmp_path: Path) -> None:
    assert run(trained, "--max-shard-size=1GB", "--output", tmp_path / "out", "--strength", "1", "--to", "merged") == 0
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_second_export_needs_overwrite(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--to", "peft", "--output", tmp_path / "out"]
    assert run(trained, *words) == 0
    assert run(trained, *words) == 2
    assert "already holds an export" in capsys.readouterr().err
    assert run(trained, *words, "--overwrite") == 0


@pytest.mark.parametrize("to", ["merged", "vllm", "gguf"])
def test_a_base_in_fewer_bits_is_refused_before_it_is_loaded_where_it_would_be_written(
    to: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("qadapter.cli.export.load", lambda *args: pytest.fail("it was loaded"))
    assert run(trained, "--to", to, "--output", tmp_path / "out", "--load-in", "4bit") == 2
    said = capsys.readouterr().err
    assert "has the base's weights in it" in said
    assert "--to peft" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "peft", "--output", "OUT", "DIR"], "the adapter's folder comes first"),
        (["DIR", "--to", "merge", "--output", "OUT"], "did you mean 'merged'?"),
        (["DIR", "--output", "OUT"], "--to"),
        (["DIR", "--to", "peft"], "--output"),
        (["DIR", "--to", "peft", "--output", "OUT", "--max-shard-size", "1GB"], "unknown flag --max-shard-size"),
        (["DIR", "--to", "peft", "--output", "OUT", "--strenght", "1"], "did you mean '--strength'?"),
        (["DIR", "--to", "peft", "--output", "OUT", "--strength", "0"], "strength 0 is the base model itself"),
        (["DIR", "--to", "peft", "--output", "OUT", "--strength", "nan"], "--strength must be above 0, got nan"),
        (["DIR", "--to", "peft", "--output", "OUT", "--strength", "0.5", "--prompts", "no.jsonl"], "no.jsonl"),
        (["DIR", "--to", "distilled", "--output", "OUT", "--samples", "0"], "--samples must be above 0"),
        (["DIR", "--to", "gguf", "--output", "OUT", "--outtype", "q4"], "--outtype must be one of"),
        (["DIR", "--to", "peft", "--output", "DIR"], "holds other things than an export"),
        (["no-such-folder", "--to", "peft", "--output", "OUT"], "is not a Q-Adapter artifact"),
    ],
)
def test_errors(words: list[str], said: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = {"DIR": str(trained), "OUT": str(tmp_path / "out")}
    assert main(["export", *[places.get(word, word) for word in words]]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert said in captured.err
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []
    assert (trained / "qadapter_config.json").is_file()
