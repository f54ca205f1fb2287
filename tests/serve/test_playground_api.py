"""The view of each token and the report of the training."""

from __future__ import annotations

import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import httpx2 as httpx
import oracles
import pytest
import torch
from conftest import RESIDUAL, make_model, two_logits
from served_model import make_engine, serving

from qadapter.core import LMHead
from qadapter.model import QAdapterForCausalLM
from qadapter.serve.adapters import ServedModel
from qadapter.serve.api.app import create_app
from qadapter.serve.api.service import Service, ServiceLimits
from qadapter.serve.engine.token_view import Viewing

CHAT = [{"role": "user", "content": "Hi"}]


def view(api: tuple[str, Any], **fields: Any) -> httpx.Response:
    body = {"model": "two", "messages": CHAT, "top": 3, **fields}
    return httpx.post(f"{api[0]}/v1/playground/tokens", json=body, timeout=30)


def test_the_view_is_what_the_equations_say(api: tuple[str, Any], artifacts: Path) -> None:
    """Against the slow oracle on two separate passes; the prompt is longer than a chunk."""
    answer, strength = "né?", 0.6
    seen = view(api, answer=answer, strength=strength).json()
    tokenizer = api[1].tokenizer
    prompt = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=True)["input_ids"]
    ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
    assert (seen["prompt_tokens"], seen["finish_reason"]) == (len(prompt), None)
    model = QAdapterForCausalLM.from_pretrained(artifacts / "two")
    z1, z0 = (z[0, len(prompt) - 1 : -1].double() for z in two_logits(model, input_ids=torch.tensor([[*prompt, *ids]])))
    q = oracles.q_function("residual", z1, z0, 0.3)
    policy, base = oracles.policy_logp(strength * q, z0, 0.3, 0.3), oracles.log_softmax(z0)
    assert len(seen["tokens"]) == len(ids)
    for at, (token, entry) in enumerate(zip(ids, seen["tokens"], strict=True)):
        assert entry["logp"] == pytest.approx(float(policy[at, token]), abs=1e-3)
        assert entry["base_logp"] == pytest.approx(float(base[at, token]), abs=1e-3)
        assert entry["log_ratio"] == pytest.approx(entry["logp"] - entry["base_logp"])
        assert entry["q"] == pytest.approx(float(q[at, token]), abs=1e-3)
        assert [top["logp"] for top in entry["top"]] == pytest.approx(policy[at].topk(3).values.tolist(), abs=1e-3)
        assert [top["logp"] for top in entry["base_top"]] == pytest.approx(base[at].topk(3).values.tolist(), abs=1e-3)
    assert [entry["text"] for entry in seen["tokens"]] == ["n", "�", "�", "?"]


def test_the_head_reads_many_states_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 states in chunks of 40: of each policy and of the mixture one product per 32 states or less."""
    model = make_model(constants=RESIDUAL)
    product, states = LMHead._product, []

    def counted(head: LMHead, hidden: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
        states.append(hidden.shape[1])
        return product(head, hidden, dtype)

    monkeypatch.setattr(LMHead, "_product", counted)
    mixture = model.constants.mixture(0.5)
    viewing = Viewing(model, 2, [5, 6], [7, 8] * 32, "default", mixture, model.constants.residual_q, top=2)
    with torch.inference_mode():
        while not viewing.advance(40):
            pass
    assert states == [32] * 3 + [7] * 3 + [25] * 3
    assert [seen.token for seen in viewing.views] == [7, 8] * 32


def test_without_an_answer_it_is_the_greedy_one(api: tuple[str, Any]) -> None:
    seen = view(api, max_tokens=7, strength=0.5).json()
    chat = {"model": "two", "messages": CHAT, "max_tokens": 7, "temperature": 0, "strength": 0.5, "logprobs": True}
    choice = httpx.post(f"{api[0]}/v1/chat/completions", json=chat).json()["choices"][0]
    assert [entry["text"] for entry in seen["tokens"]] == [entry["token"] for entry in choice["logprobs"]["content"]]
    assert [entry["logp"] for entry in seen["tokens"]] == pytest.approx(
        [entry["logprob"] for entry in choice["logprobs"]["content"]], abs=1e-3
    )
    assert seen["finish_reason"] == choice["finish_reason"]
    assert all(entry["top"][0]["logp"] == pytest.approx(entry["logp"], abs=1e-5) for entry in seen["tokens"])


def test_views_are_made_one_after_the_other(api: tuple[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each holds keys and values of its own: as many as there are clients would not fit."""
    service = api[1]
    made: list[Viewing] = []
    held: list[float] = []
    advance = Viewing.advance

    def noting(viewing: Viewing, tokens: int) -> bool:
        made.append(viewing)
        held.append(service.engine.metrics.view_kv_bytes.value())
        return advance(viewing, tokens)

    monkeypatch.setattr(Viewing, "advance", noting)
    with ThreadPoolExecutor(4) as clients:
        views = list(clients.map(lambda _: view(api, answer="x" * 60).status_code, range(4)))
    assert views == [200] * 4
    runs = [viewing for viewing, _ in itertools.groupby(made)]
    assert len(made) > len(runs) == 4
    assert max(held) == made[0].cache.bytes > 0
    assert service.engine.metrics.view_kv_bytes.value() == 0


def test_more_views_than_the_queue_holds_are_refused(served: ServedModel) -> None:
    engine = make_engine(served, max_queue=2)
    with serving(create_app(Service(served, engine, ServiceLimits(max_context=200))), engine) as (url, _):
        going_on = threading.Event()
        engine.call(lambda: going_on.wait(20))
        with ThreadPoolExecutor(3) as clients:
            asked = [clients.submit(view, (url, None), answer="x") for _ in range(3)]
            refused = next(as_completed(asked, timeout=30)).result()
            going_on.set()
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "queue_full"
        assert refused.headers["Retry-After"] == "1"
        assert sorted(answer.result().status_code for answer in asked) == [200, 200, 429]
        assert view((url, None), answer="x").status_code == 200
        assert engine.metrics.refused.value() == 1


def test_a_view_has_the_time_of_a_request(served: ServedModel) -> None:
    engine = make_engine(served)
    limits = ServiceLimits(max_context=200, timeout=0.2)
    with serving(create_app(Service(served, engine, limits)), engine) as (url, _):
        going_on = threading.Event()
        engine.call(lambda: going_on.wait(20))
        late = view((url, None), answer="x")
        going_on.set()
        assert (late.status_code, late.json()["error"]["code"]) == (408, "deadline")
        assert "not made within 0.2 seconds" in late.json()["error"]["message"]


def test_strength_0_changes_nothing(api: tuple[str, Any]) -> None:
    assert all(abs(entry["log_ratio"]) < 1e-4 for entry in view(api, answer="abc", strength=0).json()["tokens"])


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"model": "base"}, 400, "no adapter to look at"),
        ({"model": "none"}, 404, "served are one, two, base"),
        ({"answer": "x" * 200}, 400, "answer: 200 tokens behind a prompt of"),
        ({"answer": ""}, 400, "answer"),
        ({"top": 21}, 400, "top"),
        ({"temperature": 1}, 400, "unknown field 'temperature'"),
    ],
)
def test_bad_input(api: tuple[str, Any], fields: dict[str, Any], status: int, said: str) -> None:
    response = view(api, **fields)
    assert response.status_code == status
    assert said in response.json()["error"]["message"]


def test_the_report_is_what_lies_in_the_folder(api: tuple[str, Any], artifacts: Path) -> None:
    url = f"{api[0]}/v1/playground/report"
    folder = artifacts / "two"
    nothing = httpx.get(url, params={"model": "two"}).json()
    assert (nothing["metrics"], nothing["evaluations"]) == ([], {})
    assert nothing["config"]["constants"]["alpha_0"] == 0.3
    assert nothing["config"]["base"]["name_or_path"] == "base"
    assert str(artifacts) not in json.dumps(nothing), "where the base lies on this machine is nobody's business"
    files = {"metrics.jsonl": '{"step": 1, "loss": NaN}\n{"step": 2, "loss": 0.5}\n{"step', "eval.json": '{"a": 1}'}
    try:
        for name, text in files.items():
            (folder / name).write_text(text)
        report = httpx.get(url, params={"model": "two"}).json()
        assert report["metrics"] == [{"step": 1, "loss": None}, {"step": 2, "loss": 0.5}]
        assert report["evaluations"] == {"eval.json": {"a": 1}}
    finally:
        for name in files:
            (folder / name).unlink()
    (folder / "eval.json").mkdir()
    try:
        unreadable = httpx.get(url, params={"model": "two"})
        assert unreadable.status_code == 500
        assert unreadable.json()["error"]["code"] == "unreadable_report"
        assert "eval.json of the adapter's report cannot be read: Is a dir" in unreadable.json()["error"]["message"]
        assert str(artifacts) not in unreadable.text
    finally:
        (folder / "eval.json").rmdir()
    assert httpx.get(url, params={"model": "base"}).status_code == 400
    assert httpx.get(url).json()["error"]["param"] == "model"


def test_the_page_is_there(api: tuple[str, Any]) -> None:
    page = httpx.get(f"{api[0]}/")
    assert page.headers["content-type"].startswith("text/html")
    assert "<title>qadapter" in page.text
    assert json.loads(httpx.get(f"{api[0]}/openapi.json").text)["info"]["title"] == "qadapter"
