"""The key of a judge's server appears in one header and nowhere else, whatever the server does with it."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from judge_server import JudgeServer, completion, error, serving

from qadapter.errors import ConfigError
from qadapter.evaluate.judges import JudgeArguments, make_judges
from qadapter.evaluate.judges.api_key import ApiKey
from qadapter.generate import Answer

KEY = 'sk-sec"ret/0123456789'
FORMS = (KEY, json.dumps(KEY)[1:-1], quote(KEY, safe=""))


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("JUDGE_KEY", KEY)


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with serving() as state:
        yield state


ECHOES = {
    "reply": completion(f"your key is {KEY}"),
    "refusal": completion(None, refusal=f"not with {KEY}"),
    "error text": error(400, f"bad key {KEY}"),
    "error page": (400, {}, f"<p>Bearer {KEY} at /?key={FORMS[2]}</p>"),
    "error in JSON of another form": (400, {}, json.dumps({"detail": f"key {KEY}"})),
    "at the edge of what is shown": error(400, "x" * 180 + KEY),
    "wrong key": error(401, f"{KEY} is wrong"),
    "redirect": (302, {"Location": f"http://127.0.0.1/?key={FORMS[2]}"}, ""),
}


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)
def test_an_echoed_key_is_redacted(
    server: JudgeServer, tmp_path: Path, echo: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    server.respond = lambda body: echo
    args = JudgeArguments(
        judge_endpoint=server.url, judge_model="m", judge_api_key_env="JUDGE_KEY", judge_retries=0,
        judge_cache=str(tmp_path / "cache.jsonl"),
    )  # fmt: skip
    (judge,) = make_judges(args)
    try:
        verdicts = judge.judge([[{"role": "user", "content": "p"}]], [Answer("1", [], True)], [Answer("2", [], True)])
    except ConfigError:
        verdicts = []
        shown = traceback.format_exc()
    else:
        shown = verdicts[0].note
    assert "[key]" in shown
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    out, err = capfd.readouterr()
    everything = [shown, repr(verdicts), repr(judge.cost), repr(vars(judge)), repr(args), caplog.text, out, err]
    everything += [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    everything += [json.dumps(body) for body in server.bodies]
    # What is cut must not leave a part of the key either.
    for text in everything:
        assert not any(form[:12] in text for form in FORMS)


def test_a_key_that_cannot_be_sent_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("sk-one\nsk-two", "sk one", "sk-ö"):
        monkeypatch.setenv("JUDGE_KEY", value)
        with pytest.raises(ConfigError, match="JUDGE_KEY") as raised:
            ApiKey("JUDGE_KEY")
        assert "sk" not in str(raised.value)
    monkeypatch.setenv("JUDGE_KEY", f" {KEY}\n")
    assert ApiKey("JUDGE_KEY").headers() == {"Authorization": f"Bearer {KEY}"}


def test_a_key_in_the_place_of_its_name_is_not_shown() -> None:
    with pytest.raises(ConfigError, match="never the key itself") as raised:
        JudgeArguments(judge_api_key_env=KEY)
    assert KEY not in str(raised.value)


@pytest.mark.parametrize("url", ["http://me:{}@host/v1", "http://host/v1?key={}", "http://host/v1#{}", "{}"])
def test_a_key_in_the_address_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigError, match="judge_endpoint") as raised:
        JudgeArguments(judge_endpoint=url.format(FORMS[2]), judge_model="m")
    assert FORMS[2] not in str(raised.value)


def test_without_a_key_nothing_is_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY")
    key = ApiKey("JUDGE_KEY")
    assert (key.headers(), key.redact("text"), bool(key)) == ({}, "text", False)
