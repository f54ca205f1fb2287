"""Rows of every kind of source, with their locations; lines that are no rows; sources that cannot be read."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from qadapter.data.pairs import BadRow
from qadapter.data.reading import read_rows
from qadapter.errors import DataError

ROWS = [
    {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"},
    {"prompt": "Bye", "chosen": "See you.\nSoon.", "rejected": 'Go, "now"'},
]
MESSAGES = [{"role": "user", "content": "Hi"}]


def read(source: Any, **kwargs: Any) -> list[tuple[str, Any]]:
    return list(read_rows(source, **kwargs))


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".JSONL"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_jsonl_rows_are_located_by_line(tmp_path: Path, suffix: str, newline: str) -> None:
    path = write(tmp_path / f"train{suffix}", newline.join(json.dumps(row) for row in ROWS))
    assert read(path) == [(f"train{suffix}:1", ROWS[0]), (f"train{suffix}:2", ROWS[1])]
    assert read(str(path)) == read(path)


def test_jsonl_lines_end_at_newline_only(tmp_path: Path) -> None:
    row = {"chosen": "a\u2028b\u2029c\u0085d\x1ce", "rejected": "f"}
    path = write(tmp_path / "a.jsonl", json.dumps(row, ensure_ascii=False) + "\n")
    assert read(path) == [("a.jsonl:1", row)]


def test_jsonl_byte_order_mark_is_tolerated(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"a": 1}\n')) == [("a.jsonl:1", {"a": 1})]


def test_jsonl_blank_lines_are_bad_rows_except_at_the_end(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"a": 1}\n\n  \n{"a": 2}\n\n \n')
    assert read(path) == [
        ("a.jsonl:1", {"a": 1}),
        ("a.jsonl:2", BadRow("a.jsonl:2", "blank line")),
        ("a.jsonl:3", BadRow("a.jsonl:3", "blank line")),
        ("a.jsonl:4", {"a": 2}),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"prompt": "a" "b"}', "not JSON: Expecting ',' delimiter at column 16"),
        (b'{"prompt": "a', "not JSON: Unterminated string starting at column 12"),
        (b"nonsense", "not JSON: Expecting value at column 1"),
        (b"[1, 2]", "not a JSON object but of type list"),
        (b"null", "not a JSON object but of type NoneType"),
        (b'{"a": "\xff"}', "not UTF-8: byte 0xff at column 8"),
        (b"[" * 100_000, "not JSON that can be read: "),
        (b'{"a": ' + b"1" * 5000 + b"}", "not JSON that can be read: "),
    ],
)
def test_jsonl_bad_line_does_not_end_the_reading(tmp_path: Path, line: bytes, reason: str) -> None:
    rows = read(write(tmp_path / "a.jsonl", b'{"a": 1}\n' + line + b'\n{"a": 3}\n'))
    assert rows[0] == ("a.jsonl:1", {"a": 1})
    assert rows[2] == ("a.jsonl:3", {"a": 3})
    bad = rows[1][1]
    assert isinstance(bad, BadRow)
    assert bad.location == rows[1][0] == "a.jsonl:2"
    assert bad.reason.startswith(reason)


@pytest.mark.parametrize("wrap", [lambda rows: rows, lambda rows: {"version": 1, "data": rows}])
def test_json_array_and_data_object(tmp_path: Path, wrap: Any) -> None:
    path = write(tmp_path / "a.json", "\ufeff" + json.dumps(wrap([*ROWS, 7]), indent=1))
    assert read(path) == [
        ("a.json row 1", ROWS[0]),
        ("a.json row 2", ROWS[1]),
        ("a.json row 3", BadRow("a.json row 3", "not a JSON object but of type int")),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1}\n{"a": 2}', ["Extra data at line 2 column 1", "rename the file to .jsonl"]),
        ('{"train": [], "test": []}', ["an object with 'train', 'test'", '"data"']),
        ('"text"', ["holds 'text'"]),
        ('{"data": {"a": 1}}', ["an object with 'data'"]),
        (b"[\xff]", ["not JSON that can be read"]),
    ],
)
def test_json_file_of_another_shape_is_an_error(tmp_path: Path, text: str | bytes, words: list[str]) -> None:
    with pytest.raises(DataError) as error:
        read(write(tmp_path / "a.json", text))
    assert all(word in str(error.value) for word in words)


def write_csv(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def test_csv_text_with_quotes_newlines_and_long_fields(tmp_path: Path) -> None:
    long = {"prompt": "Hi", "chosen": "x" * 200_000, "rejected": "y"}
    limit = csv.field_size_limit()
    rows = [list(ROWS[0]), *(list(row.values()) for row in [*ROWS, long])]
    path = write_csv(tmp_path / "a.csv", rows)
    assert read(path) == [("a.csv row 1", ROWS[0]), ("a.csv row 2", ROWS[1]), ("a.csv row 3", long)]
    assert csv.field_size_limit() == limit


def test_csv_rows_of_another_width_are_bad_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "\ufeffchosen,rejected\na,b\n\na\na,b,c\nd,e\n\n")
    assert read(path) == [
        ("a.csv row 1", {"chosen": "a", "rejected": "b"}),
        ("a.csv row 2", BadRow("a.csv row 2", "blank line")),
        ("a.csv row 3", BadRow("a.csv row 3", "1 fields, the header has 2")),
        ("a.csv row 4", BadRow("a.csv row 4", "3 fields, the header has 2")),
        ("a.csv row 5", {"chosen": "d", "rejected": "e"}),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'chosen,rejected\na,"b\n', "a.csv:2: not CSV in UTF-8"),
        (b"chosen,rejected\na,\xff\n", "not CSV in UTF-8"),
        (b"chosen,chosen\na,b\n", "names a column twice"),
    ],
)
def test_csv_that_is_damaged_as_a_whole_is_an_error(tmp_path: Path, text: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read(write(tmp_path / "a.csv", text))


def test_csv_messages_as_json_text(tmp_path: Path) -> None:
    python_text = repr(MESSAGES)
    path = write_csv(
        tmp_path / "a.csv",
        [
            ["prompt", "chosen", "rejected", "note", "messages"],
            [json.dumps(MESSAGES), "[1] says so", "[]", json.dumps(MESSAGES), json.dumps(MESSAGES)],
            [python_text, "a", "b", "", ""],
        ],
    )
    (_, first), (_, second) = read(path)
    # Only messages are decoded, and only where messages belong.
    assert first == {
        "prompt": MESSAGES, "chosen": "[1] says so", "rejected": "[]",
        "note": json.dumps(MESSAGES), "messages": MESSAGES,
    }  # fmt: skip
    assert isinstance(second, BadRow)
    assert second.location == "a.csv row 2"
    assert second.reason.startswith("prompt looks like messages but is not JSON: Expecting property name")


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_messages_as_json_text_are_messages_in_every_kind_of_file(tmp_path: Path, suffix: str) -> None:
    """`DataFrame.to_json` writes a column of JSON text as text."""
    path = tmp_path / f"a{suffix}"
    row = {"prompt": json.dumps([{"role": "user", "content": "q"}]), "chosen": "[{'role': 1}]", "rejected": "[{x"}
    path.write_text(json.dumps(row) if suffix == ".jsonl" else json.dumps([row, row]), encoding="utf-8")
    (_, bad), *_ = read_rows(path)
    assert bad.reason.startswith("chosen looks like messages but is not JSON")
    row["chosen"] = json.dumps([{"role": "assistant", "content": "a"}])
    path.write_text(json.dumps(row) if suffix == ".jsonl" else json.dumps([row]), encoding="utf-8")
    ((_, read),) = read_rows(path)
    assert read == {
        "prompt": [{"role": "user", "content": "q"}],
        "chosen": [{"role": "assistant", "content": "a"}],
        "rejected": "[{x",
    }


def test_dsp_responses_as_json_text(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [["query", "responses"], ["Hi", '{"a": "x"}'], ["Hi", "x"]])
    assert read(path) == [
        ("a.csv row 1", {"query": "Hi", "responses": {"a": "x"}}),
        ("a.csv row 2", {"query": "Hi", "responses": "x"}),
    ]


def test_parquet(tmp_path: Path) -> None:
    rows = [
        {"prompt": MESSAGES, "chosen": [{"role": "assistant", "content": "A"}], "score": 0.5},
        {"prompt": MESSAGES, "chosen": None, "score": None},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [("a.parquet row 1", rows[0]), ("a.parquet row 2", rows[1])]
    pyarrow.parquet.write_table(pyarrow.table({"prompt": [json.dumps(MESSAGES)]}), tmp_path / "b.parquet")
    assert read(tmp_path / "b.parquet") == [("b.parquet row 1", {"prompt": MESSAGES})]


def test_parquet_that_is_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a Parquet file"):
        read(write(tmp_path / "a.parquet", "prompt,chosen"))


def test_data_sets_in_memory() -> None:
    dataset = datasets.Dataset.from_list(ROWS)
    expected = [("row 1", ROWS[0]), ("row 2", ROWS[1])]
    assert read(dataset) == expected
    assert read(dataset.to_iterable_dataset()) == expected
    assert read(datasets.DatasetDict(test=dataset), split="test") == expected
    with pytest.raises(DataError, match=r"no split 'train'.\nhint: --split one of: test"):
        read(datasets.DatasetDict(test=dataset))


def test_hub_id(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def load_dataset(name: str, split: str) -> datasets.Dataset:
        calls.append((name, split))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read("org/pairs-v1.5", split="test[:2]") == [
        ("org/pairs-v1.5 row 1", ROWS[0]),
        ("org/pairs-v1.5 row 2", ROWS[1]),
    ]
    assert calls == [("org/pairs-v1.5", "test[:2]")]


def test_hub_failure_says_what_and_how(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(name: str, split: str) -> datasets.Dataset:
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"'org/pairs', split 'train', cannot be loaded: no route\nhint: check the id"):
        read("org/pairs")


def test_missing_file_names_those_spelled_like_it(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", "{}")
    with pytest.raises(DataError, match=r"no such file: .*trian\.jsonl\nhint: did you mean .*train\.jsonl\?"):
        read(tmp_path / "trian.jsonl")
    with pytest.raises(DataError, match=r"no such file: .*\nhint: check the path"):
        read(tmp_path / "nowhere" / "a.jsonl")


def test_unknown_suffix_and_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'\.txt' cannot be read.\nhint: use \.jsonl, "):
        read(write(tmp_path / "a.txt", "text"))
    write(tmp_path / "a.jsonl", "{}")
    with pytest.raises(DataError, match=r"is a folder.\nhint: name one file: a\.jsonl"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.jsonl", ""), ("a.jsonl", "\n \n"), ("a.json", ""), ("a.json", "[]"), ("a.csv", ""), ("a.csv", "a,b\n")],
)
def test_empty_source_is_an_error(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(DataError, match="holds no rows"):
        read(write(tmp_path / name, text))


def test_empty_data_set_is_an_error() -> None:
    with pytest.raises(DataError, match="the data set holds no rows"):
        read(datasets.Dataset.from_dict({"chosen": []}))


def test_a_list_of_dicts() -> None:
    rows = list(read_rows([{"prompt": "a"}, 3]))
    assert rows == [("row 1", {"prompt": "a"}), ("row 2", BadRow("row 2", "not a dict"))]
    with pytest.raises(DataError, match=r"object of type int[\s\S]*datasets.Dataset, a list of dicts, a file \(.jsonl"):
        list(read_rows(3))
