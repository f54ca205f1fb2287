"""Answers do not depend on who else is in the batch."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable, Sequence
from typing import ClassVar

import pytest
import torch
from conftest import FAMILIES, RESIDUAL, VOCABULARY, make_model
from served_model import Listener, answers, make_engine, running

from qadapter.core import Mixture
from qadapter.errors import UnsupportedModelError
from qadapter.model import QAdapterForCausalLM
from qadapter.serve.adapters import ServedModel
from qadapter.serve.engine import Engine, EngineLimits, Policy, RefusedError, Request, Sampling
from qadapter.serve.engine.prefill import Prefill

STRENGTHS = (0.0, 0.5, 1.0, 2.0, 0.3)
GREEDY = Sampling(max_tokens=15, top_logprobs=0)


class Letters:
    """A tokenizer of one letter per token."""

    all_special_ids = ()
    added_tokens_decoder: ClassVar[dict] = {}

    def decode(self, ids: Sequence[int], **_: object) -> str:
        return "".join(chr(97 + token % 26) for token in ids)


def nobody(_: object) -> None:
    raise AssertionError


def random_prompts(count: int, longest: int = 20, seed: int = 0) -> list[tuple[int, ...]]:
    rng = random.Random(seed)
    return [tuple(rng.randrange(3, VOCABULARY) for _ in range(rng.randrange(1, longest))) for _ in range(count)]


def alone(model: QAdapterForCausalLM, prompt: Sequence[int], strength: float, tokens: int = 15) -> list[int]:
    """The greedy answer of transformers' own generate()."""
    out = model.generate(
        torch.tensor([prompt]),
        max_new_tokens=tokens,
        do_sample=False,
        strength=strength,
        eos_token_id=2,
        pad_token_id=0,
    )
    return up_to_end(out[0, len(prompt) :].tolist(), {2})


def up_to_end(tokens: list[int], ends: Iterable[int]) -> list[int]:
    return tokens[: min([len(tokens), *(tokens.index(end) for end in ends if end in tokens)])]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_answers_what_generate_answers_to_each_alone(family: str) -> None:
    """Requests of all strengths join and leave: one after the other, read in chunks, and all at once, read together."""
    model = make_model(family, RESIDUAL)
    prompts = random_prompts(11)
    expected = [alone(model, prompt, STRENGTHS[i % 5]) for i, prompt in enumerate(prompts)]
    requests = [
        Request(prompt, Policy("default", model.constants.mixture(STRENGTHS[i % 5])), GREEDY, nobody)
        for i, prompt in enumerate(prompts)
    ]
    for chunk, pause in ((7, 0.002), (64, 0.0)):
        with running(Engine(model, Letters(), [2], EngineLimits(max_batch=5, prefill_chunk=chunk))) as engine:
            heard = answers(engine, requests, pause=pause)
            assert [heard.tokens(i) for i in range(len(prompts))] == expected
            assert engine.slots.cache.lengths == engine.slots.choices == []
            assert engine.slots.cache.bytes == 0


def test_short_prompts_are_read_in_one_pass(served: ServedModel) -> None:
    """As many as fit into a chunk, in their order, whatever their adapters; a longer one is read alone."""
    names = ["one", "two", "base"]
    lengths = [3, 5, 5, 4, 16, 40, 2, 6, 9]
    requests = [
        Request(tuple(range(20, 20 + length)), served.policies[names[i % 3]].policy(), GREEDY, nobody)
        for i, length in enumerate(lengths)
    ]
    engine = make_engine(served, max_batch=len(lengths), prefill_chunk=16)
    together: list[list[int]] = []
    begin_answers = engine._begin_answers

    def remembering(prefill: Prefill, logits: torch.Tensor) -> None:
        together.append([len(request.prompt_ids) for request in prefill.requests])
        begin_answers(prefill, logits)

    engine._begin_answers = remembering  # type: ignore[method-assign]
    listener = Listener()
    engine.submit([listener.hears(i, request) for i, request in enumerate(requests)])
    with running(engine):
        listener.wait(len(requests))
        assert together == [[3, 5, 5], [4], [16], [40], [2, 6], [9]]
        assert engine.metrics.prompt_tokens.value() == sum(lengths)
        for i, request in enumerate(requests):
            assert answers(engine, [request]).tokens(0) == listener.tokens(i)


def test_rows_that_the_mixture_does_not_need_are_not_computed() -> None:
    model = make_model(constants=RESIDUAL)
    with running(Engine(model, Letters(), [], EngineLimits())) as engine:
        rows: list[int] = []
        engine.metrics.step_rows.observe = rows.append  # type: ignore[method-assign]
        for strength, expected in ((0.0, 1), (1.0, 1), (0.5, 2)):
            request = Request((5, 6), Policy("default", model.constants.mixture(strength)), GREEDY, nobody)
            answers(engine, [request])
            assert set(rows) == {expected}
            rows.clear()


def test_two_adapters_in_one_batch_answer_what_each_answers_alone(served: ServedModel, artifacts) -> None:
    """Their constants, ranks and layers differ; the base's rows are in the batch too."""
    names, prompts = ["one", "two", "base"], random_prompts(12, seed=3)
    dials = [{"strength": 0.7}, {"strength": 1.5}, {}]
    requests = [
        Request(prompt, served.policies[names[i % 3]].policy(**dials[i % 3]), GREEDY, nobody)
        for i, prompt in enumerate(prompts)
    ]
    with running(make_engine(served, max_batch=6)) as engine:
        heard = answers(engine, requests, pause=0.002)
    for i, prompt in enumerate(prompts):
        single = QAdapterForCausalLM.from_pretrained(artifacts / ("one" if names[i % 3] == "base" else names[i % 3]))
        strength = dials[i % 3].get("strength", 0.0)
        mixture = single.constants.mixture(strength)
        assert mixture.base != 0
        out = single.generate(
            torch.tensor([prompt]), max_new_tokens=15, do_sample=False, strength=strength, pad_token_id=0,
            eos_token_id=sorted(engine.stop_ids),
        )  # fmt: skip
        assert heard.tokens(i) == up_to_end(out[0, len(prompt) :].tolist(), engine.stop_ids), names[i % 3]


def test_choices_share_the_prompt_and_differ(served: ServedModel) -> None:
    sampling = Sampling(max_tokens=12, temperature=1.0, seed=7, top_logprobs=0)
    policy = served.policies["one"].policy(0.5)
    many = Request(tuple(range(10, 40)), policy, sampling, nobody, choices=4)
    with running(make_engine(served, max_batch=4)) as engine:
        first = answers(engine, [many])
        again = answers(engine, [many])
        assert engine.metrics.prompt_tokens.value() == 60
    drawn = [first.tokens(0, choice) for choice in range(4)]
    assert len({tuple(tokens) for tokens in drawn}) == 4
    assert [again.tokens(0, choice) for choice in range(4)] == drawn


def test_logprobs_are_those_of_the_mixed_policy(served: ServedModel, artifacts) -> None:
    prompt, sampling = tuple(range(20, 33)), Sampling(max_tokens=6, temperature=0.8, seed=1, top_logprobs=3)
    with running(make_engine(served)) as engine:
        heard = answers(engine, [Request(prompt, served.policies["two"].policy(0.4, 0.2, 0.5), sampling, nobody)])
    reports = [report for delta in heard.deltas[0, 0] for report in delta.tokens]
    single = QAdapterForCausalLM.from_pretrained(artifacts / "two")
    ids = torch.tensor([[*prompt, *heard.tokens(0)]])
    with torch.no_grad():
        logits = single(ids, strength=0.4, alpha_0=0.2, alpha_tilde=0.5).logits[0, len(prompt) - 1 : -1]
    logp = logits.log_softmax(-1)
    for at, report in enumerate(reports):
        assert report.logprob == pytest.approx(float(logp[at, report.token]), abs=1e-4)
        values, tokens = logp[at].topk(3)
        assert [token for token, _ in report.top] == tokens.tolist()
        assert [value for _, value in report.top] == pytest.approx(values.tolist(), abs=1e-4)


def test_the_first_token_comes_within_two_steps_of_admission(served: ServedModel) -> None:
    """Also while others decode. The prompts fit into one chunk."""
    policy = served.policies["one"].policy(0.5)
    requests = [Request((5, 6, 7, 8), policy, Sampling(max_tokens=20), nobody) for _ in range(12)]
    with running(make_engine(served, max_batch=4)) as engine:
        steps: list[float] = []
        engine.metrics.first_token_steps.observe = steps.append  # type: ignore[method-assign]
        answers(engine, requests, pause=0.003)
    assert len(steps) == 12
    assert max(steps) <= 2


def test_a_long_prompt_does_not_stall_those_who_decode(served: ServedModel) -> None:
    """It takes 7 turns to be read, and the one that decodes gets a token in each of them."""
    policy = served.policies["one"].policy(0.5)
    with running(make_engine(served, endless=True, max_batch=2)) as engine:
        listener = Listener()
        steps: list[float] = []
        engine.metrics.first_token_steps.observe = steps.append  # type: ignore[method-assign]
        short = Request((5, 6), policy, Sampling(max_tokens=60), nobody)
        long = Request(tuple(range(5, 105)), policy, Sampling(max_tokens=1), nobody)
        engine.submit([listener.hears(0, short), listener.hears(1, long)])
        listener.wait(2)
    assert max(steps) >= 5
    assert len(listener.deltas[0, 0]) == 60


def test_a_cancelled_request_leaves_and_says_nothing_more(served: ServedModel) -> None:
    policy = served.policies["one"].policy(0.5)
    with running(make_engine(served, endless=True, max_batch=2)) as engine:
        listener = Listener()
        endless = [listener.hears(i, Request((5, 6), policy, Sampling(max_tokens=100_000), nobody)) for i in range(3)]
        engine.submit(endless)  # two decode, one waits
        for request in endless:
            engine.cancel(request)
        until = time.monotonic() + 20
        while not engine.idle and time.monotonic() < until:
            time.sleep(0.005)
        assert engine.idle
        assert engine.slots.cache.lengths == []
        said = listener.events.qsize()
        after = Request((5, 6), policy, Sampling(max_tokens=3), nobody)
        answers(engine, [after])
        assert listener.events.qsize() == said
        assert engine.metrics.cancelled.value() == 3


def test_deadlines_hold_in_the_queue_and_while_decoding(served: ServedModel) -> None:
    policy = served.policies["one"].policy(0.5)
    with running(make_engine(served, endless=True, max_batch=1)) as engine:
        listener = Listener()
        soon = time.monotonic() + 0.3
        requests = [
            Request((5, 6), policy, Sampling(max_tokens=100_000), nobody, deadline=soon),
            Request((5, 6), policy, Sampling(max_tokens=2), nobody, deadline=soon - 0.2),
        ]
        engine.submit([listener.hears(i, request) for i, request in enumerate(requests)])
        listener.wait(2)
    assert listener.failed == {0: "deadline", 1: "deadline"}
    assert len(listener.deltas[0, 0]) > 0


def test_a_full_queue_refuses_all_or_none(served: ServedModel) -> None:
    policy = served.policies["one"].policy(0.5)
    request = Request((5, 6), policy, Sampling(max_tokens=2), nobody)
    engine = make_engine(served, max_queue=3)  # not started: nothing leaves the queue
    listener = Listener()
    engine.submit([listener.hears(i, request) for i in range(2)])
    with pytest.raises(RefusedError, match="queue holds 3") as refused:
        engine.submit([listener.hears(i, request) for i in (2, 3)])
    assert refused.value.retry_after >= 1
    assert engine.scheduler.waiting == 2
    with running(engine):
        listener.wait(2)


def test_closing_ends_what_runs_and_refuses_what_comes(served: ServedModel) -> None:
    policy = served.policies["one"].policy(0.5)
    request = Request((5, 6), policy, Sampling(max_tokens=100_000), nobody)
    listener = Listener()
    with running(make_engine(served, endless=True, max_batch=1)) as engine:
        engine.submit([listener.hears(0, request), listener.hears(1, request)])
        engine.drain()
        with pytest.raises(RefusedError, match="shutting down"):
            engine.submit([listener.hears(2, request)])
        assert not engine.idle
    listener.wait(2)
    assert listener.failed == {0: "shutdown", 1: "shutdown"}
    assert not engine.alive


def test_a_fault_ends_the_requests_it_hits_and_no_others(served: ServedModel, monkeypatch) -> None:
    """One that decodes is lost with the step that fails; the next request is answered as ever."""
    policy = served.policies["one"].policy(0.5)
    listener = Listener()
    with running(make_engine(served)) as engine:
        decode, failing = engine._decode, threading.Event()

        def fail_once() -> None:
            if not failing.is_set():
                failing.set()
                raise MemoryError
            decode()

        monkeypatch.setattr(engine, "_decode", fail_once)
        engine.submit([listener.hears(0, Request((5, 6), policy, GREEDY, nobody))])
        listener.wait(1)
        assert listener.failed == {0: "error"}
        assert len(answers(engine, [Request((5, 6), policy, GREEDY, nobody)]).tokens(0)) == 15


def test_a_prompt_without_memory_ends_alone(served: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails in the second of its chunks; the one that decodes meanwhile answers as if nothing had been."""
    policy = served.policies["one"].policy(0.5)
    short, long = (Request(ids, policy, GREEDY, nobody) for ids in ((5, 6), tuple(range(20, 60))))
    advance = Prefill.advance

    def short_of_memory(prefill: Prefill, columns: int) -> torch.Tensor | None:
        if prefill.cache.lengths[0] >= 16:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return advance(prefill, columns)

    listener = Listener()
    with running(make_engine(served, prefill_chunk=16)) as engine:
        expected = answers(engine, [short]).tokens(0)
        monkeypatch.setattr(Prefill, "advance", short_of_memory)
        engine.submit([listener.hears(0, short), listener.hears(1, long)])
        listener.wait(2)
        assert listener.failed == {1: "memory"}
        assert listener.tokens(0) == expected == answers(engine, [short]).tokens(0)
        assert engine.idle
        assert engine.slots.cache.lengths == []


def test_calls_take_turns_with_those_who_decode(served: ServedModel) -> None:
    """Ten calls that are there at once: a step of the running answer lies between any two of them."""
    listener = Listener()
    with running(make_engine(served, endless=True)) as engine:
        request = Request((5, 6), served.policies["one"].policy(0.5), Sampling(max_tokens=100_000), nobody)
        engine.submit([listener.hears(0, request)])
        while not engine.slots.choices:
            time.sleep(0.005)
        together = threading.Event()
        engine.call(together.wait)
        calls = [engine.call(lambda: engine._steps) for _ in range(10)]
        together.set()
        steps = [call.result(timeout=20) for call in calls]
    assert len(set(steps)) == 10


def test_models_whose_attention_takes_no_masks_are_refused() -> None:
    model = make_model()
    model.base.config._attn_implementation = "flex_attention"
    with pytest.raises(UnsupportedModelError, match="compile a mask"):
        Engine(model, Letters(), [])
    chunked = make_model()
    chunked.base.config.attention_chunk_size = 4
    with pytest.raises(UnsupportedModelError, match="chunked_attention"):
        Engine(chunked, Letters(), [])


def test_a_mixture_of_one_policy_has_rows_of_that_policy_only() -> None:
    """By value, not by name: any weights may be asked for."""
    model = make_model()
    request = Request((5, 6, 7), Policy("default", Mixture(0.0, 2.0)), GREEDY, nobody)
    with running(Engine(model, Letters(), [2])) as engine:
        assert answers(engine, [request]).tokens(0) == alone(model, (5, 6, 7), 0.0)
