"""Any body gets an answer or a 4xx in OpenAI's format, and leaves no trace."""

from __future__ import annotations

import json
from typing import Any

import httpx2 as httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

schemathesis = pytest.importorskip("schemathesis")

NAMES = ["one", "two", "base"]


def check(api: tuple[str, Any], response: Any) -> None:
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        error = json.loads(response.text)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/playground/tokens"),
        ("GET", "/v1/playground/report"),
        ("GET", "/v1/models/{name}"),
    ],
)
def test_bodies_from_the_schema(method: str, path: str, api: tuple[str, Any]) -> None:
    """What schemathesis makes of the published schema."""
    schema = schemathesis.openapi.from_url(f"{api[0]}/openapi.json")

    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=schema[path][method].as_strategy())
    def ask(case: Any) -> None:
        body = case.body
        if isinstance(body, dict):
            if isinstance(body.get("model"), str):
                body["model"] = NAMES[len(body["model"]) % 3]  # else nearly all would be refused for their name
            if isinstance(body.get("max_tokens"), int):
                body["max_tokens"] = min(body["max_tokens"], 4)
        check(api, case.call())

    ask()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    ["model", "messages", "prompt", "n", "stop", "seed", "temperature", "top_p", "max_tokens", "logprobs", "stream",
     "top_logprobs", "strength", "alpha_0", "alpha_tilde", "timeout", "stream_options", "tools", "user", "answer"]
)  # fmt: skip


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    path=st.sampled_from(["chat/completions", "completions", "playground/tokens"]),
    changes=st.dictionaries(FIELDS, JSON, max_size=3),
    name=st.sampled_from(NAMES),
)
def test_good_bodies_with_anything_in_some_fields(
    path: str, changes: dict[str, Any], name: str, api: tuple[str, Any]
) -> None:
    good: dict[str, Any] = {"model": name, "max_tokens": 2}
    good |= {"prompt": "Hi"} if path == "completions" else {"messages": [{"role": "user", "content": "Hi"}]}
    headers = {"Content-Type": "application/json"}
    check(api, httpx.post(f"{api[0]}/v1/{path}", content=json.dumps(good | changes), headers=headers, timeout=30))


def test_nothing_is_left_over(api: tuple[str, Any]) -> None:
    """Runs last in this module: after all that, the engine is idle and answers."""
    engine = api[1].engine
    body = {"model": "one", "prompt": "Hi", "max_tokens": 2}
    assert httpx.post(f"{api[0]}/v1/completions", json=body, timeout=30).status_code == 200
    assert engine.idle
    assert engine.slots.cache.lengths == []
    # Requests that asked for a shorter time than there was failed with 408; a step that failed would have been a 500.
    assert engine.alive
