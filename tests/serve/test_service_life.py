"""Queue full, deadlines, clients that leave, the end of the server, and who is let in."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest
from served_model import make_engine, serving

from qadapter.serve.adapters import ServedModel
from qadapter.serve.api.app import create_app
from qadapter.serve.api.completions import CompletionAnswer
from qadapter.serve.api.gate import GateRules
from qadapter.serve.api.service import Service, ServiceLimits
from qadapter.serve.engine.token_view import Viewing

SHORT = {"model": "one", "prompt": "Hi", "max_tokens": 2, "temperature": 0}
ENDLESS = {**SHORT, "max_tokens": 100_000}


@contextmanager
def server(
    served: ServedModel, rules: GateRules | None = None, grace: float = 5.0, cors: tuple[str, ...] = (), **limits: int
) -> Iterator[tuple[str, Any, Any]]:
    """URL, server and engine, whose answers do not end by themselves."""
    engine = make_engine(served, endless=True, **limits)
    service = Service(served, engine, ServiceLimits(max_context=200_000, max_tokens=100_000, timeout=60))
    with serving(create_app(service, rules, cors), engine, grace) as (url, running):
        yield url, running, engine


def until(condition: Any, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


class Asking(threading.Thread):
    """A request in a thread of its own."""

    def __init__(self, url: str, body: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self.url, self.body = url, body
        self.response: httpx.Response | None = None
        self.start()

    def run(self) -> None:
        self.response = httpx.post(f"{self.url}/v1/completions", json=self.body, timeout=60)

    def result(self) -> httpx.Response:
        self.join(30)
        assert self.response is not None, "no answer"
        return self.response


def hang_up_after_first_line(url: str, body: dict[str, Any]) -> None:
    """Open a connection, ask, read something or nothing, and close it."""
    address = urlsplit(url)
    content = json.dumps(body).encode()
    with socket.create_connection((address.hostname, address.port)) as connection:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        if body.get("stream"):
            connection.recv(100)
        else:
            time.sleep(0.1)


def test_a_full_queue_is_429_with_retry_after(served: ServedModel) -> None:
    with server(served, max_batch=1, max_queue=1) as (url, running, engine):
        first = Asking(url, ENDLESS)
        until(lambda: engine.slots.choices)
        second = Asking(url, ENDLESS)
        until(lambda: engine.scheduler.waiting)
        refused = httpx.post(f"{url}/v1/completions", json=SHORT)
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.json()["error"]["code"] == "queue_full"
        assert "qadapter_requests_refused_total 1" in httpx.get(f"{url}/metrics").text
        running.grace = 0.0
        running.begin_shutdown()
        assert {first.result().status_code, second.result().status_code} == {503}


@pytest.mark.parametrize("stream", [False, True])
def test_a_deadline_ends_the_answer(served: ServedModel, stream: bool) -> None:
    with server(served) as (url, _, engine):
        response = httpx.post(f"{url}/v1/completions", json={**ENDLESS, "timeout": 0.2, "stream": stream}, timeout=30)
        if stream:
            *_, last, end = response.text.split("\n\n")
            assert end == ""
            error = json.loads(last.removeprefix("data: "))["error"]
        else:
            assert response.status_code == 408
            error = response.json()["error"]
        assert (error["code"], error["param"]) == ("deadline", "timeout")
        until(lambda: engine.idle)


def test_openais_client_does_not_ask_again_after_a_deadline(served: ServedModel) -> None:
    openai = pytest.importorskip("openai")
    with server(served) as (url, _, engine):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
        with pytest.raises(openai.APIStatusError, match="not finished within its time limit") as late:
            client.completions.create(**ENDLESS, extra_body={"timeout": 0.2})
        assert late.value.status_code == 408
        assert engine.metrics.failed.value() == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_slot(served: ServedModel, stream: bool) -> None:
    with server(served) as (url, _, engine):
        hang_up_after_first_line(url, {**ENDLESS, "stream": stream})
        until(lambda: engine.metrics.cancelled.value() == 1)
        until(lambda: engine.idle)
        assert engine.slots.cache.lengths == []


def test_shutdown_finishes_a_token_view_that_is_made(served: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks the engine chunk by chunk, and is work between two chunks too."""
    advance, reached, go_on = Viewing.advance, threading.Event(), threading.Event()

    def held(viewing: Viewing, tokens: int) -> bool:
        done = advance(viewing, 8)
        reached.set()
        return go_on.wait(20) and done

    monkeypatch.setattr(Viewing, "advance", held)
    body = {"model": "two", "messages": [{"role": "user", "content": "Hi"}], "answer": "x" * 40}
    with server(served) as (url, running, engine), ThreadPoolExecutor(2) as clients:
        made = clients.submit(httpx.post, f"{url}/v1/playground/tokens", json=body, timeout=30)
        assert reached.wait(20)
        running.begin_shutdown()
        assert httpx.post(f"{url}/v1/playground/tokens", json=body, timeout=30).status_code == 503
        assert not engine.idle
        go_on.set()
        assert made.result().status_code == 200
        until(lambda: engine.idle)


def test_shutdown_finishes_what_runs_and_refuses_what_comes(served: ServedModel) -> None:
    with server(served, max_batch=1) as (url, running, engine):
        running_request = Asking(url, {**SHORT, "max_tokens": 400})
        until(lambda: engine.slots.choices)
        running.begin_shutdown()
        refused = httpx.post(f"{url}/v1/completions", json=SHORT)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        assert httpx.get(f"{url}/health").status_code == 503
        answer = running_request.result()
        assert answer.status_code == 200
        assert answer.json()["usage"]["completion_tokens"] == 400
        until(lambda: not engine.alive)


def test_what_outlasts_the_grace_is_told(served: ServedModel) -> None:
    with server(served, grace=0.2) as (url, running, engine):
        endless = Asking(url, {**ENDLESS, "stream": True})
        until(lambda: engine.slots.choices)
        running.begin_shutdown()
        events = endless.result().text.strip().split("\n\n")
        assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "shutting_down"


def test_a_key_opens_the_api_and_nothing_less(served: ServedModel) -> None:
    with server(served, GateRules(api_key="secret")) as (url, _, _):
        for headers in ({}, *({"Authorization": sent} for sent in ("Bearer secre", "Bearer secret2", "Basic secret"))):
            for path in ("v1/models", "metrics", "openapi.json", "v1/playground/report?model=one"):
                response = httpx.get(f"{url}/{path}", headers=headers)
                assert response.status_code == 401
                assert response.json()["error"]["code"] == "invalid_api_key"
        for scheme in ("Bearer", "bearer", "BEARER"):  # HTTP does not tell them apart
            assert httpx.get(f"{url}/v1/models", headers={"Authorization": f"{scheme} secret"}).status_code == 200
        assert httpx.get(f"{url}/health").status_code == 200
        assert httpx.get(f"{url}/").status_code == 200


@pytest.mark.parametrize("path", ["/", "/health"])
def test_head_is_get_without_a_body(served: ServedModel, path: str) -> None:
    with server(served) as (url, _, _):
        got, head = httpx.get(url + path), httpx.head(url + path)
        assert (head.status_code, head.content) == (200, b"")
        for name in ("content-type", "content-length"):
            assert head.headers[name] == got.headers[name]


def test_on_loopback_other_names_are_refused(served: ServedModel) -> None:
    with server(served, GateRules(hosts={"127.0.0.1", "localhost", "[::1]"})) as (url, _, _):
        port = urlsplit(url).port
        for host, status in (
            ("evil.example", 403), (f"evil.example:{port}", 403), (f"localhost:{port}", 200), (f"[::1]:{port}", 200),
        ):  # fmt: skip
            assert httpx.get(f"{url}/v1/models", headers={"Host": host}).status_code == status


def test_cors_is_closed_unless_an_origin_is_named(served: ServedModel) -> None:
    asks = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    with server(served) as (url, _, _):
        answer = httpx.get(f"{url}/v1/models", headers={"Origin": "https://page.example"})
        assert "access-control-allow-origin" not in answer.headers
    with server(served, GateRules(api_key="k"), cors=("https://page.example",)) as (url, _, _):
        # What OpenAI's client for browsers sends with every request.
        wants = {"Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang,x-stainless-arch"}
        allowed = httpx.options(f"{url}/v1/chat/completions", headers={**asks, **wants})
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "https://page.example"
        assert httpx.options(f"{url}/v1/models", headers={**asks, "Origin": "https://x.example"}).status_code == 400


def test_a_fault_is_counted_logged_and_readable_for_other_pages(
    served: ServedModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with server(served, cors=("https://page.example",)) as (url, _, _), httpx.Client(base_url=url) as client:

        def fault(*_: Any) -> None:
            raise ZeroDivisionError("a fault of a route")

        monkeypatch.setattr(Service, "served_policy", fault)
        failed = client.get("/v1/models/one", headers={"Origin": "https://page.example"})
        assert failed.status_code == 500
        assert failed.json()["error"]["code"] == "internal_error"
        assert failed.headers["access-control-allow-origin"] == "https://page.example"
        assert "a fault of a route" in caplog.text
        assert 'qadapter_http_responses_total{status="500"} 1' in client.get("/metrics").text.splitlines()


def test_a_fault_in_the_middle_of_an_answer_breaks_it_off(served: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that ended in good order would be taken for the whole answer."""
    with server(served) as (url, _, engine):

        def fault(*_: Any) -> None:
            raise ZeroDivisionError("a fault of a stream")

        monkeypatch.setattr(CompletionAnswer, "pieces", fault)
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.post(f"{url}/v1/completions", json={**SHORT, "stream": True}, timeout=30)
        until(lambda: engine.idle)
        responses = [line for line in httpx.get(f"{url}/metrics").text.splitlines() if "http_responses_total{" in line]
        assert responses == ['qadapter_http_responses_total{status="200"} 1'], "one answer, whose status had been sent"


@pytest.mark.parametrize("log_prompts", [False, True])
def test_prompts_are_logged_only_when_asked_for(
    served: ServedModel, log_prompts: bool, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make_engine(served)
    service = Service(served, engine, ServiceLimits(max_context=200), log_prompts=log_prompts)
    with caplog.at_level(logging.DEBUG), serving(create_app(service), engine) as (url, _):
        httpx.post(f"{url}/v1/completions", json={**SHORT, "prompt": "a secret"})
        httpx.post(f"{url}/v1/completions", json={**SHORT, "prompt": "a secret", "n": -1})
    assert ("a secret" in caplog.text) == log_prompts


def test_metrics_count(served: ServedModel) -> None:
    with server(served) as (url, _, _):
        httpx.post(f"{url}/v1/completions", json=SHORT)
        lines = httpx.get(f"{url}/metrics").text.splitlines()
    assert "qadapter_requests_answered_total 1" in lines
    assert "qadapter_completion_tokens_total 2" in lines
    assert "qadapter_prompt_tokens_total 2" in lines
    assert 'qadapter_http_responses_total{status="200"} 1' in lines
    assert 'qadapter_first_token_steps_bucket{le="0"} 1' in lines
    assert "qadapter_slots_used 0" in lines


def test_a_completion_goes_on_from_its_prompts_text_and_a_chat_answer_does_not(
    api: tuple[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, service = api
    submitted: list[bool] = []
    submit = service.engine.submit

    def noting(requests: Any) -> None:
        submitted.extend(request.continues for request in requests)
        submit(requests)

    monkeypatch.setattr(service.engine, "submit", noting)
    body = {"model": "one", "max_tokens": 1}
    assert httpx.post(f"{url}/v1/completions", json={**body, "prompt": ["a", "b"]}, timeout=30).status_code == 200
    chat = {**body, "messages": [{"role": "user", "content": "a"}]}
    assert httpx.post(f"{url}/v1/chat/completions", json=chat, timeout=30).status_code == 200
    assert submitted == [True, True, False]
