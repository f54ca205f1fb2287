"""OpenAI's own Python client, unchanged, against a server on loopback."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

openai = pytest.importorskip("openai")

HELLO = [{"role": "user", "content": "Hello there"}]


@pytest.fixture(scope="module")
def client(api: tuple[str, Any]) -> Any:
    return openai.OpenAI(base_url=f"{api[0]}/v1", api_key="none", max_retries=0)


def ask(client: Any, **kwargs: Any) -> Any:
    options = {"model": "one", "messages": HELLO, "max_tokens": 12, "temperature": 0, **kwargs}
    return client.chat.completions.create(**options)


def streamed(client: Any, choices: int = 1, **kwargs: Any) -> tuple[list[str], list[str | None], list[Any]]:
    """Text and finish reason of each choice, and all chunks."""
    chunks = list(ask(client, stream=True, n=choices, **kwargs))
    texts, reasons = [""] * choices, [None] * choices
    for chunk in chunks:
        for choice in chunk.choices:
            assert reasons[choice.index] is None, "a choice went on after its end"
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason
    return texts, reasons, chunks


def test_models_are_the_adapters_and_the_base(client: Any) -> None:
    models = list(client.models.list())
    assert [model.id for model in models] == ["one", "two", "base"]
    assert client.models.retrieve("two").qadapter["alpha_0"] == pytest.approx(0.3)
    with pytest.raises(openai.NotFoundError, match="'twoo' is not served \\(did you mean 'two'\\?\\)"):
        client.models.retrieve("twoo")


def test_a_chat_answer(client: Any, api: tuple[str, Any]) -> None:
    answer = ask(client)
    assert answer.object == "chat.completion"
    assert answer.model == "one"
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason == "length"
    service = api[1]
    prompt = service.tokenizer.apply_chat_template(HELLO, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(prompt), 12)
    assert answer.usage.total_tokens == len(prompt) + 12


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 1.2, "top_p": 0.9, "seed": 5}])
def test_a_streamed_answer_is_the_answer(client: Any, sampling: dict[str, Any]) -> None:
    whole = ask(client, n=2, logprobs=True, top_logprobs=2, **sampling)
    texts, reasons, chunks = streamed(
        client, 2, logprobs=True, top_logprobs=2, stream_options={"include_usage": True}, **sampling
    )
    assert texts == [choice.message.content for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert chunks[-1].usage == whole.usage
    for choice in whole.choices:
        pieces = [c for chunk in chunks for c in chunk.choices if c.index == choice.index and c.logprobs]
        got = [entry.model_dump() for piece in pieces for entry in piece.logprobs.content]
        expected = [entry.model_dump() for entry in choice.logprobs.content]
        assert [entry["token"] for entry in got] == [entry["token"] for entry in expected]
        assert [entry["logprob"] for entry in got] == pytest.approx([entry["logprob"] for entry in expected], abs=1e-4)


def test_the_strength_0_is_the_base_and_the_dial_turns(client: Any) -> None:
    """`one` has alpha_0 = alpha_tilde / 2: its base policy is as greedy as the base itself."""
    base = ask(client, model="base").choices[0].message.content
    assert ask(client, extra_body={"strength": 0}).choices[0].message.content == base
    assert ask(client, extra_body={"strength": 1}).choices[0].message.content != base
    assert ask(client, model="two", extra_body={"strength": 0, "alpha_0": 1}).choices[0].message.content == base


def test_stop_strings_end_the_text_in_both_ways(client: Any) -> None:
    text = ask(client, max_tokens=40).choices[0].message.content
    stop = text[10:13]
    expected = text[: text.index(stop)]
    whole = ask(client, max_tokens=40, stop=[stop, "\u0000never"])
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (expected, "stop")
    texts, reasons, _ = streamed(client, max_tokens=40, stop=stop)
    assert (texts, reasons) == ([expected], ["stop"])


def test_completions_of_texts_and_tokens(client: Any, api: tuple[str, Any]) -> None:
    ids = api[1].tokenizer("ab", add_special_tokens=False)["input_ids"]
    options = {"model": "one", "temperature": 0, "max_tokens": 6, "logprobs": 2}
    by_text = client.completions.create(prompt=["ab", "ab"], n=2, **options)
    by_tokens = client.completions.create(prompt=ids, **options)
    assert [choice.index for choice in by_text.choices] == [0, 1, 2, 3]
    assert {choice.text for choice in by_text.choices} == {by_tokens.choices[0].text}
    logprobs = by_tokens.choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset) == 6
    long = client.completions.create(**{**options, "prompt": "hello", "max_tokens": 40, "temperature": 1, "seed": 3})
    text, found = long.choices[0].text, long.choices[0].logprobs
    places = list(zip(found.tokens, found.text_offset, strict=True))
    texts, known = api[1].texts, range(len(api[1].tokenizer))
    ids = {texts.name(token): token for token in known}
    assert len(ids) == len(known), "each has a name of its own, also parts of characters"
    parts = [token for token in found.tokens if "\ufffd" in texts(ids[token])]
    whole = [(token, at) for token, at in places if token not in parts]
    assert [token for token, at in whole] == [text[at : at + len(token)] for token, at in whole]
    assert parts, "characters of several tokens are among them"
    assert api[1].tokenizer.decode([ids[token] for token in found.tokens], skip_special_tokens=True) == text
    assert by_text.usage.completion_tokens == 24
    chunks = list(client.completions.create(prompt="ab", stream=True, **options))
    assert "".join(chunk.choices[0].text for chunk in chunks) == by_tokens.choices[0].text
    offsets = [at for chunk in chunks for at in chunk.choices[0].logprobs.text_offset]
    assert offsets == logprobs.text_offset


def test_top_logprobs_of_completions_hold_every_token_with_its_own_value(client: Any) -> None:
    """Also of tokens that read alike, as parts of characters do, and of a token outside of the likeliest."""
    options = {"model": "one", "prompt": "hello", "max_tokens": 30}
    for sampling, least in (({"temperature": 0}, 12), ({"temperature": 2, "seed": 3}, 1)):
        found = client.completions.create(**options, **sampling, logprobs=least).choices[0].logprobs
        for token, logprob, top in zip(found.tokens, found.token_logprobs, found.top_logprobs, strict=True):
            assert top[token] == logprob
            assert least <= len(top) <= least + 1
    assert any(len(top) == 2 for top in found.top_logprobs), "some were sampled from below the likeliest"


def test_many_at_once_get_their_own_answers(api: tuple[str, Any]) -> None:
    """More than there are slots, at several strengths of two adapters: each as if it were alone."""

    async def all_at_once() -> tuple[list[str], list[str]]:
        async with openai.AsyncOpenAI(base_url=f"{api[0]}/v1", api_key="none", max_retries=0) as client:

            async def one(number: int) -> str:
                answer = await client.chat.completions.create(
                    model=["one", "two"][number % 2],
                    messages=[{"role": "user", "content": "x" * (number + 1)}],
                    max_tokens=10,
                    temperature=0,
                    extra_body={"strength": number % 3 / 2},
                )
                return answer.choices[0].message.content

            together = await asyncio.gather(*[one(number) for number in range(12)])
            return list(together), [await one(number) for number in range(12)]

    together, apart = asyncio.run(all_at_once())
    assert together == apart
    assert len(set(apart)) > 6


def test_errors_are_those_that_the_client_knows(client: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="served are one, two, base") as missing:
        ask(client, model="three")
    assert missing.value.body["param"] == "model"
    with pytest.raises(openai.BadRequestError, match="strength") as negative:
        ask(client, extra_body={"strength": -1})
    assert negative.value.body == {
        "message": "strength: input should be greater than or equal to 0, got -1",
        "type": "invalid_request_error",
        "param": "strength",
        "code": "greater_than_equal",
    }
    with pytest.raises(openai.BadRequestError, match="tools: is not supported"):
        ask(client, tools=[{"type": "function", "function": {"name": "f"}}])
