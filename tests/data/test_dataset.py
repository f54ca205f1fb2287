"""Whole sources to data sets: columns, bad rows on stop and on skip, and the real files where there are any."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import datasets
import pytest

from qadapter.data.dataset import collect_pairs, load_preference_dataset, report_bad_rows
from qadapter.data.pairs import BadRow
from qadapter.errors import ConfigError, DataError

Q, A, B = ({"role": role, "content": text} for role, text in (("user", "Q"), ("assistant", "A"), ("assistant", "B")))
GOOD = {"prompt": [Q], "chosen": [A], "rejected": [B]}
STANDARD = {"prompt": "Q", "chosen": "A", "rejected": "B"}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture
def one_bad(tmp_path: Path) -> Path:
    return write(tmp_path / "train.jsonl", [GOOD, {"chosen": [Q, A]}, {"chosen": [Q, B], "rejected": [Q, A]}])


def test_conversational_columns(tmp_path: Path) -> None:
    dataset = load_preference_dataset(write(tmp_path / "a.jsonl", [GOOD | {"score": 3}]))
    assert dataset[:] == {"prompt": [[Q]], "chosen": [[A]], "rejected": [[B]], "location": ["a.jsonl:1"]}


def test_standard_columns(tmp_path: Path) -> None:
    dataset = load_preference_dataset(write(tmp_path / "a.jsonl", [STANDARD]))
    assert dataset[0] == STANDARD | {"location": "a.jsonl:1"}


def test_a_loaded_data_set_is_itself_a_source(tmp_path: Path) -> None:
    once = load_preference_dataset(write(tmp_path / "a.jsonl", [GOOD, GOOD]))
    again = load_preference_dataset(once)
    assert again.remove_columns("location")[:] == once.remove_columns("location")[:]
    assert again["location"][:] == ["row 1", "row 2"]


def test_every_kind_of_file_gives_the_same_pairs(tmp_path: Path) -> None:
    rows = [GOOD, {"prompt": [Q, A, Q], "chosen": [B], "rejected": [A]}]
    texts = [{field: json.dumps(value) for field, value in row.items()} for row in rows]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    datasets.Dataset.from_list(texts).to_csv(tmp_path / "a.csv")
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    expected = datasets.Dataset.from_list(rows)[:]
    sources = [write(tmp_path / "a.jsonl", rows), *(tmp_path / f"a.{suffix}" for suffix in ("json", "csv", "parquet"))]
    for source in [*sources, datasets.Dataset.from_list(rows)]:
        assert load_preference_dataset(source).remove_columns("location")[:] == expected


def test_bad_row_stops_by_default(one_bad: Path) -> None:
    with pytest.raises(DataError) as error:
        load_preference_dataset(one_bad)
    assert str(error.value).startswith("1 bad row:\n  train.jsonl:2: missing field 'rejected'\nhint: ")
    assert "--on-bad-row skip" in str(error.value)


def test_skip_keeps_the_others_and_reports_the_count(one_bad: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="qadapter"):
        dataset = load_preference_dataset(one_bad, on_bad_row="skip")
    assert dataset["location"][:] == ["train.jsonl:1", "train.jsonl:3"]
    assert caplog.messages == ["skipped 1 bad row:\n  train.jsonl:2: missing field 'rejected'"]


def test_only_the_first_bad_rows_are_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "a.jsonl", [GOOD, *["{"] * 7])
    with pytest.raises(DataError) as error:
        load_preference_dataset(path)
    lines = str(error.value).splitlines()
    assert lines[0] == "7 bad rows:"
    assert [line.split(":")[1] for line in lines[1:6]] == ["2", "3", "4", "5", "6"]
    assert lines[6] == "  … and 2 more"


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ["{", "["])
    with pytest.raises(DataError, match="all 2 rows are bad, no pair is left"):
        load_preference_dataset(path, on_bad_row="skip")


def test_mixed_formats_are_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [GOOD, STANDARD, GOOD, STANDARD])
    words = r"conversational pairs \(first: a.jsonl:1\) are mixed with standard ones \(first: a.jsonl:2\)(.|\n)*convert"
    with pytest.raises(DataError, match=words):
        load_preference_dataset(path)


def test_dsp_style(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "a.jsonl", [{"query": "Q", "responses": {"x": "A", "y": "B", "z": "C"}}])
    assert load_preference_dataset(path, style="x")["location"][:] == ["a.jsonl:1", "a.jsonl:1"]
    assert not caplog.messages
    with pytest.raises(DataError, match="x, y, z"):
        load_preference_dataset(path, on_bad_row="skip")
    load_preference_dataset(write(tmp_path / "b.jsonl", [GOOD]), style="x")
    assert "style 'x' has no effect" in caplog.text


def test_on_bad_row_is_checked_before_reading() -> None:
    with pytest.raises(ConfigError, match="must be 'stop' or 'skip', got 'ignore'"):
        load_preference_dataset("no such file.jsonl", on_bad_row="ignore")


def test_report_of_no_bad_rows_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("qadapter.test")
    report_bad_rows([], "stop", log)
    report_bad_rows([], "skip", log)
    assert not caplog.messages
    report_bad_rows([BadRow("a:1", "no room")], "skip", log)
    assert [record.name for record in caplog.records] == ["qadapter.test"]


def test_every_row_is_a_pair_or_a_bad_row(one_bad: Path) -> None:
    collected = collect_pairs(one_bad)
    assert collected.rows == len(collected.pairs) + len(collected.bad) == 3


def preference_files() -> list[Path]:
    folder = os.environ.get("QADAPTER_DATA")
    return sorted(Path(folder, "preference").glob("*.jsonl")) if folder else []


needs_data = pytest.mark.skipif(not preference_files(), reason="QADAPTER_DATA names no folder with preference/*.jsonl")


@needs_data
@pytest.mark.parametrize("path", preference_files(), ids=lambda path: path.name)
def test_real_files_load(path: Path) -> None:
    lines = path.read_bytes().count(b"\n")
    if "raw" in path.name:
        # Some queries have one answer, and the styles do not differ on it.
        collected = collect_pairs(path, style="academy")
        assert len(collected.pairs) + len(collected.bad) == 4 * lines
        assert all("chosen and rejected are identical" in row.reason for row in collected.bad)
    else:
        assert len(load_preference_dataset(path)) == lines


@needs_data
def test_real_conversations_survive_hh_notation() -> None:
    """HH-RLHF files as messages, written back to HH-RLHF text, parse to the same messages."""
    names = {"user": "Human", "assistant": "Assistant"}
    for path in preference_files():
        if not path.name.startswith("hh_"):
            continue
        pairs = load_preference_dataset(path)
        rows = [
            {
                side: "".join(f"\n\n{names[turn['role']]}: {turn['content']}" for turn in row["prompt"] + row[side])
                for side in ("chosen", "rejected")
            }
            for row in pairs
        ]
        assert load_preference_dataset(datasets.Dataset.from_list(rows))["prompt"][:] == pairs["prompt"][:]
