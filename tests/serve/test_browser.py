"""The page in a browser: what a person does with it, on a tiny model whose answers do not end by themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from served_model import make_engine, serving

from qadapter.serve.adapters import ServedModel

pytest.importorskip("selenium", reason="needs selenium")
from chromium import Browser, chromium
from selenium.webdriver.common.keys import Keys

BASE, CUSTOMIZED = "#columns .answer:nth-child(1)", "#columns .answer:nth-child(2)"
ENDLESS = "100000"
# What is shown as a text must not become an element, and its script must not run.
MARKUP = "<img src=x onerror='window.intruder = true'><b>bold</b>"


@pytest.fixture(scope="module")
def tab() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def browser(tab: Browser) -> Iterator[Browser]:
    """A tab in which nothing may go wrong unseen."""
    tab.resize(1200, 900)
    yield tab
    tab.run("sessionStorage.clear()")
    assert tab.complaints() == []


@pytest.fixture(scope="module")
def site(served: ServedModel) -> Iterator[tuple[str, Any]]:
    """Address and engine."""
    with site_of(served) as (url, engine):
        yield url, engine


@contextmanager
def site_of(served: ServedModel, api_key: str | None = None) -> Iterator[tuple[str, Any]]:
    from qadapter.serve.api.app import create_app
    from qadapter.serve.api.gate import GateRules
    from qadapter.serve.api.service import Service, ServiceLimits

    engine = make_engine(served, endless=True, max_batch=8, max_queue=32)
    service = Service(served, engine, ServiceLimits(max_context=200_000, max_tokens=100_000))
    with serving(create_app(service, GateRules(api_key=api_key)), engine) as (url, _):
        yield url, engine


def ask(browser: Browser, prompt: str = "Hi", max_tokens: str = "24") -> None:
    """Fill in the form and press Ctrl+Enter."""
    browser.run("document.querySelector('details').open = true")
    browser.fill("#max-tokens", max_tokens)
    browser.fill("#prompt", prompt)
    browser.keys(Keys.CONTROL, Keys.ENTER)


def ended(browser: Browser, *answers: str) -> bool:
    return all("tokens in" in browser.text(f"{answer} .status") for answer in answers)


def written(browser: Browser, answer: str) -> str:
    return browser.text(f"{answer} .text")


def the_api_says(url: str, **fields: Any) -> str:
    body = {"model": "one", "max_tokens": 24, "temperature": 0, "messages": [{"role": "user", "content": "Hi"}]}
    response = httpx.post(f"{url}/v1/chat/completions", json={**body, **fields}, timeout=30)
    return response.json()["choices"][0]["message"]["content"]


def test_both_columns_stream(browser: Browser, site: tuple[str, Any]) -> None:
    browser.open(site[0])
    # What each column held after each change.
    browser.run(
        "window.grown = [...document.querySelectorAll('#columns .text')].map((text) => {"
        "  const lengths = [];"
        "  new MutationObserver(() => lengths.push(text.textContent.length))"
        "    .observe(text, {characterData: true, childList: true, subtree: true});"
        "  return lengths;"
        "});"
    )
    ask(browser)
    browser.until(lambda: ended(browser, BASE, CUSTOMIZED))
    for lengths, answer in zip(browser.run("return window.grown"), (BASE, CUSTOMIZED), strict=True):
        assert len(set(lengths)) > 3
        assert lengths == sorted(lengths)
        assert lengths[-1] == len(written(browser, answer).encode("utf-16-le")) // 2
    assert written(browser, BASE) == the_api_says(site[0], strength=0)
    assert written(browser, CUSTOMIZED) == the_api_says(site[0], strength=1)
    assert browser.text(f"{BASE} .status").startswith("24 tokens in ")
    assert browser.text(f"{BASE} .status").endswith("cut at the token limit")


def test_the_slider_asks_the_customized_column_again(browser: Browser, site: tuple[str, Any]) -> None:
    browser.open(site[0])
    ask(browser)
    browser.until(lambda: ended(browser, BASE, CUSTOMIZED))
    base, before = written(browser, BASE), written(browser, CUSTOMIZED)
    browser.find("#strength").send_keys(Keys.ARROW_LEFT * 8)
    assert browser.text("#strength-value") == "0.60"
    browser.until(lambda: written(browser, CUSTOMIZED) not in ("", before) and ended(browser, CUSTOMIZED))
    assert written(browser, CUSTOMIZED) == the_api_says(site[0], strength=0.6)
    assert written(browser, BASE) == base
    browser.find("#strength").send_keys(Keys.HOME)
    browser.until(lambda: written(browser, CUSTOMIZED) == base)


def test_the_slider_stops_the_answer_that_it_replaces(browser: Browser, site: tuple[str, Any]) -> None:
    url, engine = site
    browser.open(url)
    cancelled = engine.metrics.cancelled.value()
    ask(browser, max_tokens=ENDLESS)
    browser.until(lambda: written(browser, BASE) and written(browser, CUSTOMIZED))
    browser.find("#strength").send_keys(Keys.ARROW_RIGHT)
    browser.until(lambda: engine.metrics.cancelled.value() == cancelled + 1)
    browser.until(lambda: browser.text(f"{CUSTOMIZED} .status") == "writing")
    browser.keys(Keys.ESCAPE)
    browser.until(lambda: engine.idle)
    assert engine.metrics.cancelled.value() == cancelled + 3
    for answer in (BASE, CUSTOMIZED):
        assert browser.text(f"{answer} .status") == "stopped"
        assert written(browser, answer)


def test_another_adapter_answers_the_same_question(browser: Browser, site: tuple[str, Any]) -> None:
    browser.open(site[0])
    ask(browser)
    browser.until(lambda: ended(browser, BASE, CUSTOMIZED))
    browser.find("#model").send_keys("two")
    answer = the_api_says(site[0], model="two", strength=1)
    browser.until(lambda: written(browser, CUSTOMIZED) == answer)


def test_the_fields_are_sent(browser: Browser, site: tuple[str, Any]) -> None:
    browser.open(site[0])
    browser.run("document.querySelector('details').open = true")
    browser.fill("#system", "Be brief.")
    browser.fill("#temperature", "0.7")
    browser.fill("#seed", "5")
    ask(browser, max_tokens="9")
    browser.until(lambda: ended(browser, BASE, CUSTOMIZED))
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    asked = {"messages": chat, "temperature": 0.7, "seed": 5, "max_tokens": 9}
    assert written(browser, CUSTOMIZED) == the_api_says(site[0], **asked, strength=1)
    # Strength 0 of this adapter is not the base: its α₀ is not its α̃.
    assert browser.text("#strength-0") == "the base, flattened"
    assert written(browser, BASE) == the_api_says(site[0], **asked, model="base")
    assert written(browser, BASE) != the_api_says(site[0], **asked, strength=0)


def test_the_view_of_the_tokens(browser: Browser, site: tuple[str, Any]) -> None:
    browser.open(site[0])
    browser.find("#model").send_keys("two")
    ask(browser)
    browser.until(lambda: ended(browser, BASE, CUSTOMIZED))
    browser.find("#look").click()
    browser.until(lambda: "tokens changed by" in browser.text("#tokens-status"))
    chat = [{"role": "user", "content": "Hi"}]
    body = {"model": "two", "messages": chat, "answer": written(browser, CUSTOMIZED), "strength": 1, "top": 5}
    tokens = httpx.post(f"{site[0]}/v1/playground/tokens", json=body, timeout=30).json()["tokens"]
    drawn = browser.all("#token-text .token")
    assert [span.get_property("textContent") for span in drawn] == [t["text"].replace("\n", "↵") for t in tokens]
    assert ["raised" in span.get_attribute("class").split() for span in drawn] == [t["log_ratio"] > 0 for t in tokens]
    assert {span.get_attribute("class") for span in drawn} == {"token raised", "token lowered"}
    drawn[0].click()
    for at, key in ((0, None), (1, Keys.ARROW_RIGHT), (0, Keys.ARROW_LEFT), (len(tokens) - 1, Keys.END)):
        if key is not None:
            browser.keys(key)
        values = [dd.get_property("textContent") for dd in browser.all("#token-detail dd")]
        read = [float(value.split(" ")[0].replace("−", "-")) for value in values]
        names = ("logp", "base_logp", "log_ratio", "q")
        assert read == pytest.approx([tokens[at][name] for name in names], abs=0.006)
        assert len(browser.all("#token-detail .base li")) == len(browser.all("#token-detail .customized li")) == 5
        assert drawn[at].get_attribute("aria-pressed") == "true"
    # It follows the slider.
    browser.find("#strength").send_keys(Keys.HOME)
    browser.until(lambda: browser.text("#tokens-status").startswith("0 of "))


def test_a_sweep_and_its_end(browser: Browser, site: tuple[str, Any]) -> None:
    url, engine = site
    browser.open(f"{url}/#sweep")
    browser.fill("#strengths", "0, 0 0.5;1.125")
    ask(browser)
    answers = [f"#sweep-answers .answer:nth-child({n})" for n in (1, 2, 3, 4)]
    browser.until(lambda: len(browser.all("#sweep-answers .answer")) == 4 and ended(browser, *answers))
    said = [the_api_says(url, strength=strength) for strength in (0, 0, 0.5, 1.125)]
    assert [written(browser, answer) for answer in answers] == said
    assert [browser.text(f"{answer} h2") for answer in answers] == [f"Strength {s}" for s in ("0", "0", "0.5", "1.125")]
    browser.until(lambda: browser.text(f"{answers[1]} .badge") == "same as at 0")
    browser.fill("#strengths", "0 0.2 0.4 0.6 0.8 1")
    ask(browser, max_tokens=ENDLESS)
    browser.until(lambda: browser.text(f"{answers[3]} .status") == "writing")
    browser.find("#stop").click()
    browser.until(lambda: engine.idle)
    states = [status.get_property("textContent") for status in browser.all("#sweep-answers .status")]
    assert states == ["stopped"] * 4 + ["not asked"] * 2
    browser.fill("#strengths", "0, minus one")
    ask(browser)
    browser.until(lambda: "got “minus”" in browser.text("#question-error"))


def test_the_report(browser: Browser, site: tuple[str, Any], artifacts: Path) -> None:
    lines = [
        {"step": 1, "loss": 0.7, "preference_loss": 0.6, "rewards/accuracies": 0.5},
        {"step": 2, "loss": float("nan"), "preference_loss": 0.3, "rewards/accuracies": 0.75},
        {"step": 3, "loss": 0.4, "preference_loss": 0.2, "rewards/accuracies": 1.0, "eval_loss": 0.45},
    ]
    difference = {
        "judges.checker": {"base": 0.1, "customized": 0.9, "difference": 0.8, "low": 0.7, "high": 0.88, "items": 60},
        "retention.kl": {"base": None, "customized": 0.4, "difference": None, "low": 0.3, "high": 0.5, "items": 60},
    }
    files = {
        "metrics.jsonl": "".join(json.dumps(line) + "\n" for line in lines),
        "eval.json": json.dumps({"policies": [{"strength": 0.0}, {"strength": 0.5, "difference": difference}]}),
        "eval_metrics.json": json.dumps({"eval_loss": 0.45, "note": MARKUP}),
    }
    browser.open(f"{site[0]}/#report")
    browser.until(lambda: "qadapter eval DIR" in browser.text("#report"))
    assert "There is no training log" in browser.text("#report")
    try:
        for name, text in files.items():
            (artifacts / "two" / name).write_text(text)
        browser.find("#model").send_keys("two")
        browser.until(lambda: len(browser.all("#report figure")) == 2)
    finally:
        for name in files:
            (artifacts / "two" / name).unlink()
    assert browser.find("#report figure svg[role=img]").get_attribute("aria-label") == (
        "Loss: loss from 0.700 at step 1 to 0.400 at step 3; eval_loss from 0.450 at step 3 to 0.450 at step 3; "
        "preference_loss from 0.600 at step 1 to 0.200 at step 3"
    )
    curves = browser.all("#report figure:first-child .curve")
    assert [curve.get_attribute("d").count("M") for curve in curves] == [2, 1, 1]
    browser.find("#report figure svg[role=img]").click()
    assert browser.text("#report figure .readout") == "step 2: loss –, preference_loss 0.300"
    browser.keys(Keys.ARROW_LEFT)
    assert browser.text("#report figure .readout") == "step 1: loss 0.700, preference_loss 0.600"
    rows = [[cell.text for cell in row.find_elements("css selector", "th, td")] for row in browser.all("#report tr")]
    assert rows == [
        ["", "base", "strength 0.5", "difference", "95 % interval", "items"],
        ["judges.checker", "0.100", "0.900", "+0.800 ●", "[+0.700, +0.880]", "60"],
        ["retention.kl", "–", "0.400", "–", "[0.300, 0.500]", "60"],
        ["figure", "value"],
        ["eval_loss", "0.450"],
        ["note", MARKUP],
    ]
    assert "0.3" in browser.text("#report dl")


def test_the_key_is_asked_for_and_kept_for_the_tab_alone(browser: Browser, served: ServedModel) -> None:
    with site_of(served, api_key="secret") as (url, _):
        browser.open(url)
        assert browser.find("#key-form").is_displayed()
        assert "401: send the server's key" in browser.text("#models-error")
        for key, accepted in (("wrong", False), ("secret", True)):
            browser.fill("#key", key + Keys.ENTER)
            browser.until(lambda accepted=accepted: browser.find("#model").is_enabled() == accepted)
        browser.until(lambda: not browser.find("#key-form").is_displayed())
        ask(browser)
        browser.until(lambda: ended(browser, BASE, CUSTOMIZED))
        assert browser.run("return [Object.values(sessionStorage), localStorage.length]") == [["secret"], 0]
        assert browser.driver.get_cookies() == []
        assert "secret" not in browser.driver.page_source


def test_errors_stand_where_the_answer_would(browser: Browser, site: tuple[str, Any]) -> None:
    browser.open(site[0])
    ask(browser, max_tokens="100001")
    for answer in (BASE, CUSTOMIZED):
        browser.until(lambda answer=answer: "400: max_tokens: at most 100000 here" in browser.text(f"{answer} .error"))
    ask(browser, prompt=" ")
    assert browser.find("#question-error").text == "The prompt is empty."
    ask(browser, max_tokens="0")
    assert browser.find("#question-error").text.startswith("Max tokens: ")
    assert browser.run("return document.activeElement.id") == "max-tokens"
    ask(browser)
    browser.until(lambda: ended(browser, BASE, CUSTOMIZED))
    assert not browser.find("#question-error").is_displayed()
    assert not browser.find(f"{BASE} .error").is_displayed()


def test_a_lost_connection_is_said(browser: Browser, served: ServedModel) -> None:
    with site_of(served) as (url, _):
        browser.open(url)
    ask(browser)
    browser.until(lambda: browser.text(f"{BASE} .error") == "The server cannot be reached.")


def test_names_prompts_and_answers_are_texts(browser: Browser, served: ServedModel) -> None:
    policies = {MARKUP: replace(served.policies["one"], name=MARKUP), "base": served.policies["base"]}
    with site_of(replace(served, policies=policies)) as (url, _):
        browser.open(url)
        assert browser.text("#model option") == MARKUP
        ask(browser, prompt=MARKUP)
        browser.until(lambda: ended(browser, BASE, CUSTOMIZED))
        browser.open(f"{url}/#report")
        browser.until(lambda: browser.text("#report h2") == MARKUP)
        browser.open(url)
        # A model that answers with markup, whole and as tokens.
        token = {"text": MARKUP, "logp": -1, "base_logp": -2, "log_ratio": 1, "q": 0.1}
        token |= {"top": [{"text": MARKUP, "logp": -1}], "base_top": [{"text": MARKUP, "logp": -2}]}
        choice = {"choices": [{"delta": {"content": MARKUP}, "finish_reason": "stop"}]}
        usage = {"choices": [], "usage": {"completion_tokens": 1}}
        events = "".join(f"data: {json.dumps(event)}\n\n" for event in (choice, usage)) + "data: [DONE]\n\n"
        browser.run(
            f"window.fetch = async (path) => path.endsWith('tokens')"
            f" ? Response.json({json.dumps({'tokens': [token]})}) : new Response({json.dumps(events)});"
        )
        ask(browser)
        browser.until(lambda: ended(browser, BASE, CUSTOMIZED))
        browser.find("#look").click()
        browser.until(lambda: browser.all("#token-detail li"))
        assert written(browser, BASE) == written(browser, CUSTOMIZED) == browser.text("#token-text .token") == MARKUP
        assert browser.text("#token-detail li code") == MARKUP.replace(" ", "␣")
    assert browser.all("main b, main img") == []
    assert browser.run("return window.intruder") is None


@pytest.mark.parametrize("view", ["compare", "sweep", "report"])
def test_on_a_phone_nothing_is_wider_than_the_screen(browser: Browser, site: tuple[str, Any], view: str) -> None:
    browser.resize(360, 740)
    browser.open(f"{site[0]}/#{view}")
    if view != "report":
        ask(browser, prompt="x" * 300)
        answers = "#columns .answer" if view == "compare" else "#sweep-answers .answer"
        browser.until(lambda: ended(browser, f"{answers}:first-child", f"{answers}:last-child"))
    if view == "compare":
        browser.find("#look").click()
        browser.until(lambda: browser.all("#token-detail li"))
        tops = [answer.rect["y"] for answer in browser.all("#columns .answer")]
        assert tops[1] > tops[0]
    assert browser.run("return document.documentElement.scrollWidth") <= 360


def test_every_control_has_a_name_and_takes_the_focus(browser: Browser, site: tuple[str, Any]) -> None:
    browser.open(site[0])
    browser.run("document.querySelector('details').open = true")
    controls = [c for c in browser.all("button, input, select, textarea, [role=tab]") if c.is_displayed()]
    assert len(controls) > 10
    assert [c.get_attribute("outerHTML") for c in controls if not c.accessible_name] == []
    reached = set()
    browser.find("#prompt").click()
    for _ in range(2 * len(controls)):
        browser.keys(Keys.TAB)
        reached.add(browser.run("return document.activeElement.id"))
    assert {"system", "max-tokens", "temperature", "seed", "send", "stop", "strength", "look", "model"} <= reached
    browser.find("#tab-compare").click()
    browser.keys(Keys.ARROW_RIGHT)
    browser.until(lambda: browser.find("#sweep").is_displayed())
    assert browser.run("return [document.activeElement.id, location.hash]") == ["tab-sweep", "#sweep"]
