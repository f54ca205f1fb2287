"""`qadapter data check` and `qadapter data convert`, from arguments to what is printed and written."""

from __future__ import annotations

import argparse
import errno
import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from qadapter.cli.data import add_parser
from qadapter.data.dataset import load_preference_dataset
from qadapter.data.preview import legend, render_pair
from qadapter.data.tokenization import TokenizedPair
from qadapter.errors import ConfigError, DataError

Q, A, B = (
    {"role": role, "content": text} for role, text in (("user", "why"), ("assistant", "so a b c"), ("assistant", "no"))
)
GOOD = {"prompt": [Q], "chosen": [A], "rejected": [B]}
STANDARD = {"prompt": "why", "chosen": " so a b c", "rejected": " no"}
WORDS = ["[UNK]", "<end>", "<user>", "<assistant>", "why", "so", "a", "b", "c", "no"]


def run(*arguments: Any) -> int:
    parser = argparse.ArgumentParser(prog="qadapter")
    add_parser(parser.add_subparsers(required=True))
    args = parser.parse_args(["data", *map(str, arguments)])
    return args.run(args)


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture
def bad_file(tmp_path: Path) -> Path:
    return write(
        tmp_path / "train.jsonl",
        [GOOD, '{"a" 1}', {"chosen": [Q, A]}, GOOD, {"prompt": [Q], "chosen": [B], "rejected": [A]}, '{"abc" 1}'],
    )


@pytest.fixture
def tokenizer_folder(tmp_path: Path) -> Path:
    """One token for each word, so that lengths can be counted by eye."""
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="[UNK]",
        eos_token="<end>",
        additional_special_tokens=["<user>", "<assistant>"],
        chat_template=(
            "{% for m in messages %}<{{ m.role }}> {{ m.content }} <end> {% endfor %}"
            "{% if add_generation_prompt %}<assistant> {% endif %}"
        ),
    )
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


# check --------------------------------------------------------------------------------------------------------------


def test_check_of_good_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", write(tmp_path / "a.jsonl", [GOOD])) == 0
    output = capsys.readouterr().out
    assert "a.jsonl: 1 row, 1 usable pair, 0 bad rows\nformat: conversational\n" in output
    assert "bad rows by reason" not in output
    assert "no --tokenizer was given: lengths are in words" in output
    assert [line.split() for line in output.splitlines() if line.startswith("chosen")] == [["chosen", *["4"] * 6]]


def test_check_names_the_columns_that_were_not_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [GOOD | {"score": 3, "system": "", "source": None}, GOOD | {"source": "x", "score": 0}, GOOD]
    assert run("check", write(tmp_path / "a.jsonl", rows)) == 0
    assert "\ncolumns that were not used: score, source\n" in capsys.readouterr().out
    assert run("check", write(tmp_path / "a.jsonl", [GOOD])) == 0
    assert "columns that were" not in capsys.readouterr().out


def test_check_goes_on_after_bad_rows(bad_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", bad_file) == 1
    output = capsys.readouterr().out
    assert "6 rows, 3 usable pairs, 3 bad rows" in output
    # The columns differ, the kind does not.
    assert "      2  not JSON: Expecting ':' delimiter at column N\n      1  missing field 'rejected'\n" in output
    assert "  train.jsonl:2: not JSON: Expecting ':' delimiter at column 6\n" in output
    assert "  train.jsonl:3: missing field 'rejected'\n" in output
    assert "train.jsonl:4 repeats train.jsonl:1\n" in output
    assert "train.jsonl:5 contradicts train.jsonl:1\n" in output


def test_check_accepts_bad_rows_on_skip(bad_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", bad_file, "--on-bad-row", "skip") == 0
    assert "3 bad rows" in capsys.readouterr().out


def test_check_lists_the_first_ten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("check", write(tmp_path / "a.jsonl", [GOOD, *["{"] * 12]))
    output = capsys.readouterr().out
    assert "first of them" in output
    assert "a.jsonl:11: not JSON" in output
    assert "a.jsonl:12: not JSON" not in output


@pytest.mark.parametrize("rows", [["{"], [GOOD, STANDARD]])
def test_check_fails_where_loading_would_fail_on_skip_too(
    tmp_path: Path, rows: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError):
        load_preference_dataset(path, on_bad_row="skip")
    assert run("check", path, "--on-bad-row", "skip") == 1
    assert ("mixed formats: conversational pairs (first: a.jsonl:1)" in capsys.readouterr().out) == (len(rows) == 2)


def test_check_with_tokenizer(tmp_path: Path, tokenizer_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = {"prompt": [Q | {"content": "why why why why"}], "chosen": [A], "rejected": [B]}
    path = write(tmp_path / "a.jsonl", [GOOD, long])
    assert run("check", path, "--tokenizer", tokenizer_folder, "--max-length", 7) == 1
    output = capsys.readouterr().out
    assert "2 rows, 1 usable pair, 1 bad row\n" in output
    assert "a.jsonl:2: the prompt has 7 tokens and max_length is 7: no room" in output
    assert "at max length 7: 1 chosen and 0 rejected responses are cut, 1 row with no room for a response" in output
    assert "prompt                          4      4      4      7      7      7\n" in output
    assert "«<user> why <end> <assistant>»" in output
    assert "chosen, 3 tokens, 2 more cut off:\n[so a b]{c <end>}\n" in output
    assert "rejected, 2 tokens:\n[no <end>]\n" in output
    assert "\x1b" not in output


def test_check_shows_a_cut_pair_where_there_is_one(
    tmp_path: Path, tokenizer_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = GOOD | {"chosen": [A | {"content": "so"}]}
    path = write(tmp_path / "a.jsonl", [short, short, short, GOOD])
    assert run("check", path, "--tokenizer", tokenizer_folder, "--max-length", 7) == 0
    preview = capsys.readouterr().out.partition("preview: ")[2]
    assert [line for line in preview.splitlines() if line.startswith("a.jsonl")] == ["a.jsonl:1", "a.jsonl:4"]
    assert run("check", path, "--tokenizer", tokenizer_folder, "--preview", 0) == 0
    assert "preview" not in capsys.readouterr().out


def test_max_length_needs_a_tokenizer(bad_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"no tokenizer was given\.\nhint: add --tokenizer"):
        run("check", bad_file, "--max-length", 7)


@pytest.mark.parametrize(
    "arguments", [("--max-length", "0"), ("--max-length", "few"), ("--preview", "-1"), ("--on-bad-row", "ignore")]
)
def test_arguments_out_of_range(bad_file: Path, arguments: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("check", bad_file, *arguments)
    assert arguments[0] in capsys.readouterr().err


# preview ------------------------------------------------------------------------------------------------------------


class Letters:
    """Stands for a tokenizer: id 97 is "a"."""

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(map(chr, ids))


CUT = TokenizedPair([*b"ask"], [*b"yes"], [*b"n"], False, True, [*b"!"], [])


def test_preview_in_marks_and_in_colours() -> None:
    assert render_pair(CUT, Letters(), colour=False) == (
        "prompt, 3 tokens:\n«ask»\nchosen, 3 tokens, 1 more cut off:\n[yes]{!}\nrejected, 1 token:\n[n]"
    )
    coloured = render_pair(CUT, Letters(), colour=True)
    styles = {coloured.partition(text)[0].rpartition("\x1b[")[2] for text in ("ask\x1b", "yes\x1b", "!\x1b")}
    assert len(styles) == 3
    assert legend(colour=False) == "«prompt»  [response]  {truncated}"


def test_preview_does_not_let_data_steer_the_terminal() -> None:
    evil = CUT._replace(prompt_ids=[*b"\x1b[2J\x9b1m\ta\n"])
    assert "«␛[2J\\x9b1m\ta\n»" in render_pair(evil, Letters(), colour=False)


def test_preview_leaves_out_the_middle_of_long_parts() -> None:
    long = CUT._replace(prompt_ids=[*(b"a" * 50 + b"b" * 30)])
    assert "«aaaaa … 70 characters … bbbbb»" in render_pair(long, Letters(), colour=False, longest=10)
    assert f"«{'a' * 50}{'b' * 30}»" in render_pair(long, Letters(), colour=False, longest=None)


# convert ------------------------------------------------------------------------------------------------------------


def test_convert_then_load_gives_the_same_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turns = [{"role": "system", "content": "Sei\u2028kurz 🌿"}, Q, A, Q]
    rows = [GOOD, {"chosen": [*turns, A], "rejected": [*turns, B]}, {"prompt": "why", "chosen": [A], "rejected": [B]}]
    source = write(tmp_path / "a.jsonl", rows)
    assert run("convert", source, "--output", tmp_path / "b.jsonl") == 0
    assert f"wrote 3 pairs from 3 rows to {tmp_path / 'b.jsonl'}\n" == capsys.readouterr().out
    before, after = load_preference_dataset(source), load_preference_dataset(tmp_path / "b.jsonl")
    assert after.remove_columns("location")[:] == before.remove_columns("location")[:]
    assert after["location"][:] == ["b.jsonl:1", "b.jsonl:2", "b.jsonl:3"]
    assert "🌿" in (tmp_path / "b.jsonl").read_text("utf-8")


def test_convert_makes_standard_and_mixed_rows_conversational(tmp_path: Path) -> None:
    hh = {side: f"\n\nHuman: why\n\nAssistant: {text}" for side, text in (("chosen", "so a b c"), ("rejected", "no"))}
    source = write(tmp_path / "a.jsonl", [STANDARD, hh, GOOD, {"chosen": "why so a b c", "rejected": "why no"}])
    run("convert", source, "--output", tmp_path / "b.jsonl")
    assert [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()] == [GOOD] * 4


def test_convert_dsp(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", [{"query": "why", "responses": {"x": "no", "y": "so a b c"}}])
    run("convert", source, "--style", "y", "--output", tmp_path / "b.jsonl")
    assert json.loads((tmp_path / "b.jsonl").read_text()) == GOOD


def test_convert_stops_at_bad_rows_and_writes_nothing(bad_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = bad_file.parent / "b.jsonl"
    with pytest.raises(DataError, match="3 bad rows"):
        run("convert", bad_file, "--output", output)
    assert [file.name for file in bad_file.parent.iterdir()] == ["train.jsonl"]
    assert run("convert", bad_file, "--output", output, "--on-bad-row", "skip") == 0
    assert "wrote 3 pairs from 6 rows" in (text := capsys.readouterr().out)
    assert "; 3 bad rows skipped" in text
    assert len(output.read_text().splitlines()) == 3


def test_convert_does_not_overwrite_unless_told(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", [GOOD])
    output = write(tmp_path / "b.jsonl", ["old"])
    with pytest.raises(DataError, match=r"exists.\nhint: add --overwrite"):
        run("convert", source, "--output", output)
    assert output.read_text() == "old\n"
    run("convert", source, "--output", output, "--overwrite")
    assert json.loads(output.read_text()) == GOOD
    run("convert", source, "--output", source, "--overwrite")
    assert json.loads(source.read_text()) == GOOD


def test_convert_writes_what_a_link_points_at(tmp_path: Path) -> None:
    source, target = write(tmp_path / "a.jsonl", [GOOD]), write(tmp_path / "target.jsonl", ["old"])
    (tmp_path / "link.jsonl").symlink_to(target)
    run("convert", source, "--output", tmp_path / "link.jsonl", "--overwrite")
    assert (tmp_path / "link.jsonl").is_symlink()
    assert json.loads(target.read_text()) == GOOD


def test_convert_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "a.jsonl", [GOOD])

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(DataError, match=r"b\.jsonl cannot be written: .*disk full"):
        run("convert", source, "--output", tmp_path / "b.jsonl")
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl"]


def test_convert_output_has_the_mode_of_an_ordinary_file(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", [GOOD])
    run("convert", source, "--output", tmp_path / "b.jsonl")
    assert stat.S_IMODE((tmp_path / "b.jsonl").stat().st_mode) == stat.S_IMODE(source.stat().st_mode)


@pytest.mark.parametrize(("output", "words"), [("b.json", "must end with .jsonl"), ("no/b.jsonl", "no such folder")])
def test_convert_output_that_cannot_be_read_or_written(tmp_path: Path, output: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        run("convert", write(tmp_path / "a.jsonl", [GOOD]), "--output", tmp_path / output)


def test_the_parser_imports_nothing_heavy() -> None:
    code = (
        "import sys, argparse; from qadapter.cli.data import add_parser\n"
        "add_parser(argparse.ArgumentParser().add_subparsers())\n"
        "print({'torch', 'transformers', 'datasets'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"
