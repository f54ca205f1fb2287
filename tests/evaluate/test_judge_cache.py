"""The judgments on disk survive a kill: no half line is used, and nothing that was finished is asked again."""

from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path
from typing import Any

import pytest
from judge_server import Scripted, completion, outputs, serving

from qadapter.errors import ConfigError
from qadapter.evaluate.judges.api_key import ApiKey
from qadapter.evaluate.judges.chat_client import ChatClient
from qadapter.evaluate.judges.endpoint import EndpointJudge
from qadapter.evaluate.judges.judgment_cache import JudgmentCache, judgment_key
from qadapter.generate import Answer

BODY = {"model": "m", "messages": [{"role": "user", "content": "é"}], "temperature": 0}


def test_judgments_are_found_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "judgments.jsonl"
    JudgmentCache(path).put("k1", "a", "m")
    again = JudgmentCache(path)
    again.put("k2", "tie", "m")
    third = JudgmentCache(path)
    assert [third.get(key) for key in ("k1", "k2", "k3")] == ["a", "tie", None]
    assert len(third) == 2


def test_a_cut_line_is_closed_and_never_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "judgments.jsonl"
    cache = JudgmentCache(path)
    cache.put("k1", "a", "m")
    cache.put("k2", "b", "m")
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole)):
        path.write_bytes(whole[:cut])
        caplog.clear()
        damaged = JudgmentCache(path)
        assert (damaged.get("k1"), damaged.get("k2")) == ("a", None)
        assert ("not used" in caplog.text) == (cut > first)
        damaged.put("k3", "tie", "m")
        repaired = JudgmentCache(path)
        assert (repaired.get("k1"), repaired.get("k3")) == ("a", "tie")
        # What was there stays as it was: another process may be writing to it.
        assert path.read_bytes().startswith(whole[:cut])


@pytest.mark.parametrize(
    "line", ["no JSON", "[]", "3", '{"key": "k"}', '{"key": "k", "choice": "c"}', '{"key": 1, "choice": "a"}']
)
def test_a_damaged_line_is_not_used(tmp_path: Path, line: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "judgments.jsonl"
    path.write_text(f'{line}\n{{"key": "good", "choice": "b"}}\n')
    cache = JudgmentCache(path)
    assert (len(cache), cache.get("good"), "1 lines" in caplog.text) == (1, "b", True)


def test_the_key_is_all_that_decides_the_reply() -> None:
    def changed(**fields: Any) -> str:
        return judgment_key({**BODY, **fields})

    assert judgment_key(dict(reversed(BODY.items()))) == judgment_key(BODY)
    keys = {judgment_key(BODY), changed(model="n"), changed(temperature=1), changed(messages=[]), changed(top_p=1)}
    assert len(keys) == 5


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "judgments.jsonl"):
        with pytest.raises(ConfigError, match="judge_cache"):
            JudgmentCache(path)


def test_threads_write_whole_lines(tmp_path: Path) -> None:
    cache = JudgmentCache(tmp_path / "judgments.jsonl")

    def work(thread: int) -> None:
        for i in range(50):
            cache.put(f"{thread}-{i}", "a", "m")

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(JudgmentCache(cache.path)) == 200


def judge_four(url: str, path: Path) -> EndpointJudge:
    """Four prompts, eight questions, one at a time; the judge as it is afterwards."""
    judge = EndpointJudge(ChatClient(url, ApiKey("JUDGE_KEY")), "m", JudgmentCache(path), concurrency=1)
    prompts = [[{"role": "user", "content": str(i)}] for i in range(4)]
    verdicts = judge.judge(prompts, [Answer("one", [], True)] * 4, [Answer("two", [], True)] * 4)
    assert [verdict.score for verdict in verdicts] == [1.0] * 4
    return judge


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    path = tmp_path / "judgments.jsonl"
    fifth, never = threading.Event(), threading.Event()

    def prefer_one(body: dict[str, Any]) -> Scripted:
        return completion("model-a" if outputs(body)[0] == "one" else "model-b")

    with serving() as server:

        def hang_at_the_fifth(body: dict[str, Any]) -> Scripted:
            if len(server.bodies) == 5:
                fifth.set()
                never.wait(60)
            return prefer_one(body)

        server.respond = hang_at_the_fifth
        # A fork: a new interpreter would import torch for seconds.
        run = multiprocessing.get_context("fork").Process(target=judge_four, args=(server.url, path))
        run.start()
        assert fifth.wait(60)
        run.kill()
        run.join()
        never.set()
        with path.open("ab") as file:
            file.write(b'{"key": "half')
        asked, server.respond = len(server.bodies), prefer_one
        judge = judge_four(server.url, path)
    assert judge.cost is not None
    assert (asked, judge.cost["cached"], judge.cost["requests"]) == (5, 4, 4)
