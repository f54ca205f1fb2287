"""The settings of judges, and the judges that come of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qadapter.cli.config import parse_config
from qadapter.errors import ConfigError
from qadapter.evaluate.judges import JudgeArguments, make_judges

ENDPOINT = {"judge_endpoint": "http://localhost:8000/v1", "judge_model": "m"}


def test_no_judges_by_default() -> None:
    assert make_judges(JudgeArguments()) == []


def test_judges_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QADAPTER_CACHE", str(tmp_path / "cache"))
    checker = "qadapter.demo.checker:brief_with_follow_up"
    judges = make_judges(JudgeArguments(checker=[checker], **ENDPOINT))
    assert [judge.name for judge in judges] == [f"checker:{checker}", "endpoint:m"]
    assert [judge.needs_reference for judge in judges] == [False, True]
    assert (tmp_path / "cache" / "judgments.jsonl").is_file()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"judge_endpoint": "http://localhost/v1"}, "judge_endpoint is given without judge_model"),
        ({"judge_model": "m"}, "judge_model is given without judge_endpoint"),
        *[({**ENDPOINT, "judge_endpoint": url}, "judge_endpoint must be a URL")
          for url in ("localhost:8000", "ftp://host/v1", "http://", "http://[::1", "http://host:port/v1", "")],
        *[({**ENDPOINT, "judge_endpoint": url}, "judge_endpoint must be a URL")
          for url in ("http://.host/", "http://host/v 1")],
        ({"checker": ["a:b", "c:d", "a:b"]}, "checker names 'a:b' more than once"),
        ({"judge_timeout": 0.0}, "judge_timeout"),
        ({"judge_timeout": float("nan")}, "judge_timeout"),
        ({"judge_timeout": float("inf")}, "judge_timeout must be above 0 and at most 86400 seconds, got inf"),
        ({"judge_endpoint": "http://host/\u00fc/v1", "judge_model": "m"}, "its path is in ASCII"),
        ({"judge_retries": -1}, "judge_retries"),
        ({"judge_concurrency": 0}, "judge_concurrency"),
        ({"reward_batch_size": 0}, "reward_batch_size"),
        ({"judge_price_in": 1.0}, "belong together"),
        ({"judge_price_in": 1.0, "judge_price_out": -1.0}, "at least 0"),
        ({"judge_request": "{"}, "not JSON"),
        ({"judge_request": "[1]"}, "JSON object"),
        ({"judge_request": '{"model": "n", "n": 2}'}, "cannot set model, n"),
    ],
)  # fmt: skip
def test_bad_values(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        JudgeArguments(**fields)


def test_from_yaml_and_flags(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps({**ENDPOINT, "checker": ["a:b"], "judge_request": {"seed": 1, "temperature": None}}))
    (args,) = parse_config(
        [JudgeArguments], ["--checker", "c:d", "e:f", "--judge-price-in=1", "--judge-price-out=2"], path
    )
    assert args == JudgeArguments(
        checker=["c:d", "e:f"], judge_request={"seed": 1, "temperature": None}, judge_price_in=1.0,
        judge_price_out=2.0, **ENDPOINT,
    )  # fmt: skip
    (args,) = parse_config([JudgeArguments], ["--judge-request", '{"seed": 2}'])
    assert args.request_fields == {"seed": 2}
