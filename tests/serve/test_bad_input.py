"""What a body can have wrong is a 4xx that names the field and the rule."""

from __future__ import annotations

import json
import time
from socket import create_connection
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest
from pydantic import ValidationError

from qadapter.serve.api.schema import ChatRequest, CompletionRequest

CHAT = {"model": "one", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "temperature": 0}
TEXT = {"model": "one", "prompt": "Hi", "max_tokens": 3}


def post(api: tuple[str, Any], path: str, body: Any) -> httpx.Response:
    content = body if isinstance(body, (bytes, str)) else json.dumps(body)
    headers = {"Content-Type": "application/json"}
    return httpx.post(f"{api[0]}/v1/{path}", content=content, headers=headers, timeout=30)


@pytest.mark.parametrize(
    ("change", "status", "param", "said"),
    [
        ({"model": None}, 400, "model", "valid string"),
        ({"strength": float("nan")}, 400, "strength", "finite"),
        ({"strength": float("inf")}, 400, "strength", "finite"),
        ({"strength": 1e9}, 400, "strength", "weights beyond ±1000 are refused"),
        ({"strength": 0, "alpha_0": 0}, 400, "strength", "leaves no policy"),
        ({"alpha_tilde": 0}, 400, "alpha_tilde", "greater than 0"),
        ({"model": "base", "strength": 0.5}, 400, "strength", "base model without an adapter"),
        ({"strenght": 1}, 400, "strenght", "did you mean 'strength'?"),
        ({"messages": []}, 400, "messages", "at least 1 item"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages.0.role", "'system', 'developer', 'user'"),
        ({"messages": [{"role": "user", "content": None}]}, 400, "messages.0.content", "valid string"),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]},
            400, "messages.1.role", "one to answer",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, None, "messages.0.content"),
        ({"messages": [{"role": "user", "content": "x" * 300}]}, 400, "messages", "prompt and answer together"),
        ({"max_tokens": 65}, 400, "max_tokens", "at most 64"),
        (
            {"max_completion_tokens": 65, "max_tokens": None},
            400, "max_completion_tokens", "max_completion_tokens: at most 64",
        ),
        ({"max_tokens": 0}, 400, "max_tokens", "greater than or equal to 1"),
        ({"max_completion_tokens": 3}, 400, "max_tokens", "give one of them"),
        ({"n": 5}, 400, "n", "at most 4"),
        ({"n": "2"}, 400, "n", "valid integer"),
        ({"temperature": 3}, 400, "temperature", "less than or equal to 2"),
        ({"top_p": 1.5}, 400, "top_p", "less than or equal to 1"),
        ({"top_logprobs": 2}, 400, "top_logprobs", "needs logprobs"),
        ({"stop": ""}, 400, "stop", "at least 1 character"),
        ({"stop": list("abcde")}, 400, "stop", "at most 4"),
        ({"seed": 2**70}, 400, "seed", "less than"),
        ({"tools": [{}]}, 400, "tools", "not supported here and would change the answer"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format", "not supported"),
        ({"messages": [{"role": "user", "content": "x", "rolle": 1}]}, 400, "messages.0.rolle", "did you mean 'role'?"),
        ({"presence_penalty": 0.5}, 400, "presence_penalty", "not supported here and would change the answer, got 0.5"),
        (
            {"messages": [{"role": "user", "content": "x", "tool_call_id": "1"}]}, 400, "messages.0.tool_call_id",
            "messages.0.tool_call_id: is not supported here and would change the answer, got \"1\"",
        ),
        ({"timeout": 0}, 400, "timeout", "greater than 0"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, None, "half of a surrogate pair"),
        ({"\ud800": 1}, 400, None, "half of a surrogate pair"),
    ],
)  # fmt: skip
def test_chat(api: tuple[str, Any], change: dict[str, Any], status: int, param: str | None, said: str) -> None:
    response = post(api, "chat/completions", CHAT | change)
    assert response.status_code == status
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert said in error["message"]
    assert param is None or error["param"].startswith(param)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": [300]}, "numbered below 261"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a"] * 33}, "at most 32 prompts"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ""}, "has no tokens"),
        ({"echo": True}, "echo: is not supported"),
        ({"suffix": "x"}, "suffix: is not supported"),
        ({"best_of": 3}, "best_of: is not supported"),
        ({"prompt": "x" * 199}, "more than the 200"),
    ],
)
def test_completions(api: tuple[str, Any], change: dict[str, Any], said: str) -> None:
    response = post(api, "completions", TEXT | change)
    assert response.status_code == 400
    assert said in response.json()["error"]["message"]


MESSAGE = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("kind", "path", "change", "said"),
    [
        (ChatRequest, "chat/completions", {"messages": [0] * 5000}, "messages.0: input should be a valid dictionary"),
        (ChatRequest, "chat/completions", {"messages": [{**MESSAGE, "content": [0] * 5000}]}, "messages.0.content"),
        (ChatRequest, "chat/completions", {"stop": [0] * 5000}, "stop: list should have at most 4 items"),
        (CompletionRequest, "completions", {"prompt": [1.5] * 3000}, "prompt: input should be a valid string, got ["),
        (CompletionRequest, "completions", {"prompt": ["a"] * 3000 + [1]}, "prompt: input should be a valid string"),
        (CompletionRequest, "completions", {"prompt": [1] * 5000 + [-1]}, "greater than or equal to 0, got -1"),
        (CompletionRequest, "completions", {"prompt": [[]] * 4000}, "at least 1 item"),
        (CompletionRequest, "completions", {"prompt": [[0.5] * 3000]}, "prompt"),
    ],
)
def test_a_long_list_of_what_is_wrong_makes_few_errors(
    api: tuple[str, Any], kind: type[ChatRequest | CompletionRequest], path: str, change: dict[str, Any], said: str
) -> None:
    """They are collected in the event loop, in which everybody else waits meanwhile."""
    body = (CHAT if kind is ChatRequest else TEXT) | change
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(body)
    assert caught.value.error_count() <= 4
    response = post(api, path, body)
    assert response.status_code == 400
    assert said in response.json()["error"]["message"]


def test_too_many_prompts_are_refused_before_any_is_tokenized(
    api: tuple[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenized: list[str] = []
    encode = api[1].encode

    async def noting(prompt: str, param: str) -> list[int]:
        tokenized.append(prompt)
        return await encode(prompt, param)

    monkeypatch.setattr(api[1], "encode", noting)
    assert post(api, "completions", TEXT | {"prompt": ["a"] * 33}).status_code == 400
    assert tokenized == []
    assert post(api, "completions", TEXT | {"prompt": ["a", "b"]}).status_code == 200
    assert tokenized == ["a", "b"]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ("{", 400, "not JSON"),
        ("", 400, "the body"),
        ("[]", 400, "must be a JSON object"),
        ("[" * 5000, 400, ""),
        (b"\xff\xfe", 400, ""),
        ("9" * 5000, 400, ""),
        ("x" * 20_001, 413, "a body may have 20000 bytes"),
    ],
)
def test_bodies_that_are_none(api: tuple[str, Any], body: str | bytes, status: int, said: str) -> None:
    response = post(api, "chat/completions", body)
    assert response.status_code == status
    assert said in response.json()["error"]["message"]


def test_a_body_without_a_length_is_measured_while_it_comes(api: tuple[str, Any]) -> None:
    def endless():
        for _ in range(40):
            yield b"x" * 1000

    response = httpx.post(f"{api[0]}/v1/chat/completions", content=endless(), timeout=30)
    assert response.status_code == 413


def refused_while_sending(api: tuple[str, Any], *headers: str) -> bytes:
    """What a client gets that sends 60,000 bytes in pieces and looks for an answer only then."""
    address = urlsplit(api[0])
    with create_connection((address.hostname, address.port), timeout=20) as client:
        head = ["POST /v1/chat/completions HTTP/1.1", f"Host: {address.netloc}", "Content-Length: 60000", *headers]
        client.sendall("\r\n".join([*head, "Connection: close", "", ""]).encode())
        for _ in range(60):
            client.sendall(b"x" * 1000)
            time.sleep(0.002)
        return b"".join(iter(lambda: client.recv(65536), b""))


def test_a_refusal_reaches_a_client_that_still_sends(api: tuple[str, Any]) -> None:
    assert refused_while_sending(api).startswith(b"HTTP/1.1 413 ")


def test_fields_that_ask_for_nothing_are_taken(api: tuple[str, Any]) -> None:
    """What clients send as their defaults, and what does not change the answer."""
    neutral = {
        "tools": [], "response_format": {"type": "text"}, "presence_penalty": 0, "frequency_penalty": 0.0,
        "logit_bias": {}, "user": "me", "metadata": {"a": "b"}, "store": False, "n": None, "stop": None, "seed": None,
        "stream_options": {"include_usage": None, "include_obfuscation": None}, "logprobs": False, "top_logprobs": 0,
    }  # fmt: skip
    parts = [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]
    message = {"role": "user", "name": "me", "content": parts}
    plain = post(api, "chat/completions", CHAT).json()["choices"]
    assert post(api, "chat/completions", CHAT | neutral | {"messages": [message]}).json()["choices"] == plain


def test_developer_is_system(api: tuple[str, Any]) -> None:
    def answer(role: str) -> Any:
        messages = [{"role": role, "content": "be brief"}, *CHAT["messages"]]
        return post(api, "chat/completions", CHAT | {"messages": messages}).json()["usage"]["prompt_tokens"]

    assert answer("developer") == answer("system")


@pytest.mark.parametrize("path", ["nothing", "chat/completions"])
def test_paths_and_methods_in_the_same_format(api: tuple[str, Any], path: str) -> None:
    response = httpx.get(f"{api[0]}/v1/{path}")
    assert response.status_code in (404, 405)
    assert f"GET /v1/{path}" in response.json()["error"]["message"]


def test_the_schema_promises_the_errors_that_are_sent(api: tuple[str, Any]) -> None:
    paths = httpx.get(f"{api[0]}/openapi.json").json()["paths"]
    answers = [set(route["responses"]) for path in paths.values() for route in path.values()]
    assert answers
    assert all("422" not in statuses and "4XX" in statuses for statuses in answers)
