from __future__ import annotations

import datetime
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from qadapter.cli.main import main
from qadapter.generate import read_prompts

PROMPTS = [
    {"id": "a", "prompt": "Is the cat like the owl?"},
    {"prompt": [{"role": "user", "content": "Is the bee like the elk, or like the fox?"}]},
    {"id": 7, "messages": [{"role": "user", "content": "Hi"}]},
    {"instruction": "Is the hen?"},
    {"prompt": "Is the cow like the pig?"},
]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    return path


def answer(trained: Path, prompts: Path, out: Path, *flags: str) -> int:
    argv = ["generate", str(trained), "--prompts", str(prompts), "--out", str(out), "--max-new-tokens", "8"]
    return main([*argv, "--batch-size", "2", *(flags or ("--strength", "0", "0.5"))])


def rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_every_prompt_is_answered_at_every_strength_in_order(
    trained: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    assert answer(trained, prompts, out) == 0
    got = rows(out)
    assert [(row["index"], row["strength"]) for row in got] == [(i, s) for i in range(5) for s in (0.0, 0.5)]
    assert [row.get("id") for row in got[::2]] == ["a", None, 7, None, None]
    assert got[2]["prompt"] == PROMPTS[1]["prompt"]
    capsys.readouterr()
    for index, text in ((0, "Is the cat like the owl?"), (2, "Hi")):
        assert main(["generate", str(trained), text, "--max-new-tokens", "8", "--strength", "0.5"]) == 0
        assert capsys.readouterr().out == got[2 * index + 1]["answer"] + "\n"
    cut = sum(not row["finished"] for row in got)
    assert answer(trained, prompts, out) == 0  # nothing left to do, and the same is said
    assert (f"{cut} of the answers end" in capsys.readouterr().err) == bool(cut)


def test_an_interrupted_run_goes_on(
    trained: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped in the second batch and with half a line written: whole lines are kept as they are."""
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert answer(trained, prompts, whole) == 0
    file = sys.modules["qadapter.generate.answer_file"]
    answering, batches = file.answer_prompts, []

    def interrupted(*args, **kwargs):
        batches.append(len(args[2]))
        if len(batches) == 2:
            raise KeyboardInterrupt
        return answering(*args, **kwargs)

    monkeypatch.setattr(file, "answer_prompts", interrupted)
    assert answer(trained, prompts, out) == 130
    assert len(rows(out)) == 2
    kept = out.read_text().splitlines()
    kept[1] = kept[1].replace('"answer": "', '"answer": "kept ')
    out.write_text("\n".join([*kept, '{"index": 4, "stre']))
    assert answer(trained, prompts, out) == 0
    assert "half-written line" in capsys.readouterr().err
    assert sum(batches[2:]) == 8
    mine, theirs = rows(out), rows(whole)
    (changed,) = (row for row in mine if row["answer"].startswith("kept "))
    changed["answer"] = changed["answer"].removeprefix("kept ")
    assert mine == theirs


def test_samples_of_a_run_that_goes_on_are_those_of_one_that_was_not_stopped(trained: Path, tmp_path: Path) -> None:
    """Also where the prompts are the same ones, several samples of each."""
    prompts, whole, out = tmp_path / "same.jsonl", tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    sampling = ("--temperature", "2", "--seed", "5", "--strength", "0.5", "1")
    prompts.write_text((json.dumps({"prompt": "Is the cat?"}) + "\n") * 6)
    assert answer(trained, prompts, whole, *sampling) == 0
    assert len({row["answer"] for row in rows(whole)}) == 12, "nothing is drawn twice"
    out.write_text(
        "".join(json.dumps(row) + "\n" for row in rows(whole) if row["strength"] == 0.5 and row["index"] < 4)
    )
    assert answer(trained, prompts, out, *sampling) == 0
    assert rows(out) == rows(whole)
    prompts.write_text((json.dumps({"prompt": "Is the cat?"}) + "\n") * 8)
    assert answer(trained, prompts, out, *sampling) == 0
    assert len({row["answer"] for row in rows(out)}) == 16
    other = ("--temperature", "2", "--seed", "6", "--strength", "0.5")
    assert answer(trained, prompts, tmp_path / "other.jsonl", *other) == 0
    assert not {row["answer"] for row in rows(out)} & {row["answer"] for row in rows(tmp_path / "other.jsonl")}


def test_a_pipe_gets_the_answers_as_they_come(trained: Path, prompts: Path, tmp_path: Path) -> None:
    """Neither read, which would wait for ever, nor written again in order."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as reader:
        read = reader.submit(pipe.read_text)
        assert answer(trained, prompts, pipe, "--strength", "1") == 0
        lines = [json.loads(line) for line in read.result(20).splitlines()]
    assert sorted(line["index"] for line in lines) == [0, 1, 2, 3, 4]
    assert pipe.is_fifo()


def test_a_further_strength_is_added(trained: Path, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert answer(trained, prompts, out, "--strength", "1") == 0
    before = rows(out)
    assert answer(trained, prompts, out, "--strength", "0") == 0
    assert [row for row in rows(out) if row["strength"] == 1] == before
    assert len(rows(out)) == 10


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"index": 0}\n', "line 1: not an answer of this command"),
        ("nonsense\n", "line 1: not an answer of this command"),
        # Without an end of line, as json.dump leaves a file.
        ('{"my": "notes"}', "ends in a line that is no answer of this command"),
        ('{"my": "notes"}\n{"of": "today"}', "ends in a line that is no answer of this command"),
        ('{"index": 0}\n{"ind', "line 1: not an answer of this command"),
    ],
)
def test_a_file_of_something_else_is_refused(
    text: str, said: str, trained: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text(text)
    assert answer(trained, prompts, out) == 2
    assert said in capsys.readouterr().err
    assert out.read_text() == text


def test_answers_with_other_settings_are_not_mixed(
    trained: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    assert answer(trained, prompts, out) == 0
    assert answer(trained, prompts, out, "--temperature", "1") == 2
    assert "with other settings than now" in capsys.readouterr().err
    assert json.loads(out.read_text().splitlines()[0])["settings"]["load_in"] is None
    prompts.write_text(prompts.read_text().replace("cat", "dog"))
    assert answer(trained, prompts, out) == 2
    assert "another prompt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("before", "after"), [('"id": "a"', '"id": "b"'), ('"id": "a", ', ""), ('"id": 7', '"id": "7"')]
)
def test_answers_under_other_ids_are_not_kept(
    before: str, after: str, trained: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    assert answer(trained, prompts, out, "--strength", "1") == 0
    whole = out.read_text()
    assert prompts.read_text().count(before) == 1
    prompts.write_text(prompts.read_text().replace(before, after))
    assert answer(trained, prompts, out, "--strength", "1") == 2
    assert "an answer to this prompt with the id" in capsys.readouterr().err
    assert out.read_text() == whole


def test_an_id_that_json_writes_otherwise_is_the_same_when_it_is_read_again(trained: Path, tmp_path: Path) -> None:
    """A file of Parquet may hold lists and structures."""
    path, out = tmp_path / "p.parquet", tmp_path / "out.jsonl"
    ids = [{"part": [1, 2.5], "of": None}, {"part": [], "of": "é"}]
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["Hi", "Ho"], "id": ids}), path)
    for _ in range(2):
        assert answer(trained, path, out, "--strength", "1") == 0
    assert [row["id"] for row in rows(out)] == ids


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["Hi", "--prompts", "PROMPTS", "--out", "o.jsonl"], "give prompts as words, or --prompts FILE with --out"),
        (["--prompts", "PROMPTS"], "give prompts as words, or --prompts FILE with --out"),
        (["--prompts", "PROMPTS", "--out", "no/such/o.jsonl"], "a folder that exists"),
        (["--prompts", "missing.jsonl", "--out", "o.jsonl"], "no such file"),
    ],
)
def test_errors(
    flags: list[str], said: str, trained: Path, prompts: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["generate", str(trained), *[str(prompts) if flag == "PROMPTS" else flag for flag in flags]]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "x"}, "no prompt; the row has the fields text"),
        ({"prompt": " "}, "no prompt"),
        ({"prompt": [{"role": "king", "content": "x"}]}, "role 'king' is unknown"),
        ({"prompt": "\ud800"}, "lone surrogate"),
        (
            {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
            "messages ends with 'assistant', must end with 'user'",
        ),
        ({"instruction": "Sum up.", "input": "The hen"}, "p.jsonl:2: 'input' would be lost beside the prompt"),
        ({"prompt": "Hi", "context": "x", "system": "y"}, "'context', 'system' would be lost"),
        ({"prompt": "Hi", "images": ["a.png"]}, "'images' belongs to the prompt"),
        ({"prompt": "Hi", "tools": [{"type": "function"}]}, "'tools' would change the prompt"),
        ({"prompt": "Hi", "chat_template_kwargs": {"enable_thinking": False}}, "the option of that name is for all"),
        ({"prompt": "Hi", "documents": [{"text": "x"}]}, "'documents' would be lost beside the prompt"),
        (
            {
                "prompt": "Hi",
                "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
            },
            "p.jsonl:2: 'messages' would be lost beside 'prompt'",
        ),
        (
            {"prompt": "Hi", "messages": [{"role": "user", "content": "Hi"}, {"role": "user", "content": "Ho"}]},
            "'messages' would be lost",
        ),
        ({"prompt": "Hi " * 166}, "prompt 2 of 2 has 507 tokens; with an answer of up to 8"),
    ],
)
def test_a_row_without_a_prompt_is_named(
    row: dict, said: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"prompt": "Hi"}) + "\n" + json.dumps(row) + "\n")
    assert answer(trained, path, tmp_path / "o.jsonl") == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "o.jsonl").exists()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (datetime.date(2026, 1, 2), "datetime.date(2026, 1, 2)"),
        (Decimal("1.50"), "Decimal('1.50')"),
        (b"a", "b'a'"),
        (float("nan"), "nan"),
        ({"when": datetime.date(2026, 1, 2)}, "{'when': datetime.date(2026, 1, 2)}"),
    ],
)
def test_an_id_that_json_cannot_write_is_named_before_anything_is_answered(
    value: object, shown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "p.parquet", tmp_path / "o.jsonl"
    ids = pyarrow.array([{"when": None}, value] if isinstance(value, dict) else [None, value], from_pandas=False)
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["Hi", "Ho"], "id": ids}), path)
    assert answer(tmp_path / "no model is loaded", path, out) == 2
    said = capsys.readouterr().err
    assert f"p.parquet row 2: the id {shown} cannot be written as JSON" in said
    assert "write a date as text" in said
    assert not out.exists()


def test_an_id_that_is_half_a_character_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "Hi", "id": "\ud800"}))
    assert answer(tmp_path / "no model is loaded", tmp_path / "p.jsonl", tmp_path / "o.jsonl") == 2
    assert "p.jsonl:1: the id '\\ud800' cannot be written as JSON" in capsys.readouterr().err


def test_columns_that_say_nothing_more_are_ignored(tmp_path: Path) -> None:
    rest = {"input": " ", "system": None, "question": "Hi there", "output": "Hello", "chosen": "a", "dataset": "x"}
    told = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    path = tmp_path / "p.jsonl"
    # UltraChat's rows: a prompt, and the conversation that began with it.
    begun = [{"role": "user", "content": "Hi "}, {"role": "assistant", "content": "Hello"}]
    rows = [
        {"prompt": "Hi there", **rest},
        {"messages": told, "system": "Be brief."},
        {"prompt": "Hi", "messages": [*begun, {"role": "user", "content": "Ho"}]},
        {"prompt": told, "messages": told},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [row.prompt for row in read_prompts(path)] == ["Hi there", told, "Hi", told]
