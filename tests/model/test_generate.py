"""generate(), pipeline and friends sample the mixed policy: log-probs against the oracle, not only the arg-max."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import oracles
import pytest
import torch
import torch.nn.functional as F
import transformers
from conftest import FAMILIES, PAPER, RESIDUAL, VOCABULARY, make_base, make_model, two_logits
from transformers import StaticCache

from qadapter.errors import ConfigError, UnsupportedModelError
from qadapter.generate import answer_prompts
from qadapter.model import QAdapterForCausalLM, QConstants
from qadapter.model.caches import PairedRows
from qadapter.model.lora import row_sliced_forward

NEW = 8
RHO = QConstants("residual", alpha_0=0.1, alpha_tilde=0.4)


def left_padded(rows: int = 3) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, VOCABULARY, (rows, 7), generator=torch.Generator().manual_seed(5))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    ids[0, :3] = 0
    return {"input_ids": ids, "attention_mask": mask}


def oracle_step_logp(model: QAdapterForCausalLM, sequence: torch.Tensor, strength: float = 1.0) -> torch.Tensor:
    """log π̃ of every next token of one unpadded sequence, from two dense passes without any cache."""
    z1, z0 = (z[0].double() for z in two_logits(model, input_ids=sequence[None]))
    c = model.constants
    q = strength * oracles.q_function(c.parametrization, z1, z0, c.alpha_tilde)
    return oracles.policy_logp(q, z0, c.alpha_0, c.alpha_tilde)


def check_against_oracle(model, inputs: dict, output, strength: float | list[float] = 1.0, repeats: int = 1) -> None:
    """Every generated token's whole distribution (log-probs over the vocabulary) equals the oracle's."""
    width = inputs["input_ids"].shape[1]
    for row, sequence in enumerate(output.sequences):
        source = row // repeats
        dial = strength[source] if isinstance(strength, list) else strength
        start = int((1 - inputs["attention_mask"][source]).sum())
        expected = oracle_step_logp(model, sequence[start:], dial)
        for step, logits in enumerate(output.logits):
            if step and sequence[width + step - 1] in (0, 2):
                break
            got = logits[row].double().log_softmax(-1)
            torch.testing.assert_close(got, expected[width - start + step - 1], rtol=1e-4, atol=2e-4)


DETAILS = {"return_dict_in_generate": True, "output_logits": True, "max_new_tokens": NEW}


@pytest.mark.parametrize("constants", [PAPER, RHO], ids=["paper", "rho 1/4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_left_padded(family: str, constants: QConstants) -> None:
    model, inputs = make_model(family, constants), left_padded()
    check_against_oracle(model, inputs, model.generate(**inputs, do_sample=False, **DETAILS))


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_equals_recomputed(family: str) -> None:
    model, inputs = make_model(family), left_padded()
    kw = {"do_sample": False, "max_new_tokens": 12}
    assert torch.equal(model.generate(**inputs, **kw), model.generate(**inputs, use_cache=False, **kw))


@pytest.mark.parametrize(
    "kw",
    [
        {"cache_implementation": "static"},
        {"prefill_chunk_size": 3},
        {"cache_implementation": "static", "prefill_chunk_size": 3},
        pytest.param(
            {"cache_implementation": "offloaded_static"},
            marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"),
        ),
    ],
    ids=["static", "chunked prefill", "both", "offloaded"],
)
def test_other_caches(kw: dict) -> None:
    model, inputs = make_model(), left_padded()
    output = model.generate(**inputs, do_sample=False, disable_compile=True, **DETAILS, **kw)
    check_against_oracle(model, inputs, output)


def test_strength_0_is_the_bases_own_generate() -> None:
    inputs = left_padded()
    base_alone = make_base()
    model = make_model(constants=RESIDUAL)
    for kw in ({"do_sample": False}, {"num_beams": 3, "do_sample": False}):
        expected = base_alone.generate(**inputs, max_new_tokens=12, **kw)
        assert torch.equal(model.generate(**inputs, strength=0.0, max_new_tokens=12, **kw), expected)


@pytest.mark.parametrize("decoding", [{}, {"do_sample": True, "top_k": 0}])
def test_what_the_base_recommends_for_decoding_does_not_touch_the_answers(tokenizer, decoding: dict) -> None:
    """The server and the measurements know nothing of it either."""
    found = []
    for recommended in ({}, {"repetition_penalty": 1e6, "min_p": 0.9, "no_repeat_ngram_size": 1}):
        model = make_model(constants=RESIDUAL)
        model.generation_config.update(**recommended)
        torch.manual_seed(0)
        found.append(answer_prompts(model, tokenizer, ["wa wb", "wc"], max_new_tokens=12, **decoding))
        assert model.generation_config.to_diff_dict().items() >= recommended.items()
    assert found[0] == found[1]


def test_what_the_base_recommends_touches_no_answer_of_several_threads(tokenizer, monkeypatch) -> None:
    model = make_model(constants=RESIDUAL)
    recommended = model.generation_config
    recommended.update(repetition_penalty=1e6)
    prompts, strengths = ["wa wb", "wc"], [0.0, 0.5, 1.0] * 2
    expected = [answer_prompts(model, tokenizer, prompts, max_new_tokens=12, strength=eta) for eta in strengths]
    generate = QAdapterForCausalLM.generate
    entered = threading.Barrier(2)

    def both_at_once(self: QAdapterForCausalLM, *args, **kwargs):
        with suppress(threading.BrokenBarrierError):  # with the lock held nobody else comes this far
            entered.wait(timeout=0.2)
        return generate(self, *args, **kwargs)

    monkeypatch.setattr(QAdapterForCausalLM, "generate", both_at_once)
    with ThreadPoolExecutor(2) as threads:
        found = threads.map(
            lambda eta: answer_prompts(model, tokenizer, prompts, max_new_tokens=12, strength=eta), strengths
        )
        assert list(found) == expected
    assert model.generation_config is recommended


def test_dial_per_row() -> None:
    model, inputs = make_model(constants=RHO), left_padded()
    output = model.generate(**inputs, do_sample=False, strength=[0.0, 0.7, 2.0], **DETAILS)
    check_against_oracle(model, inputs, output, strength=[0.0, 0.7, 2.0])
    output = model.generate(
        **inputs, do_sample=True, num_return_sequences=2, strength=[0.0, 0.7, 2.0], top_k=0, **DETAILS
    )
    check_against_oracle(model, inputs, output, strength=[0.0, 0.7, 2.0], repeats=2)


def test_sampling_follows_the_policy() -> None:
    """Frequencies of 4000 first tokens against π̃; the base's and the adapter's own policies are clearly rejected."""
    model = make_model(constants=PAPER)
    ids = left_padded()["input_ids"][1:2]
    torch.manual_seed(0)
    drawn = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, num_return_sequences=4000, max_new_tokens=1
    )[:, -1]
    frequency = torch.bincount(drawn, minlength=VOCABULARY) / 4000
    z1, z0 = (z[0, -1].double() for z in two_logits(model, input_ids=ids))
    policy = oracles.policy_logp(z1, z0, 0.01, 1.0).exp()
    assert (frequency - policy).abs().sum() / 2 < 0.05
    assert (frequency - z0.softmax(-1)).abs().sum() / 2 > 0.2


@pytest.mark.parametrize("num_return_sequences", [1, 3])
def test_beams(num_return_sequences: int) -> None:
    """Beam scores are sums of the mixed policy's log-probs: the caches of both policies follow the beams."""
    model, inputs = make_model(constants=RHO), left_padded()
    output = model.generate(
        **inputs,
        num_beams=3,
        num_return_sequences=num_return_sequences,
        do_sample=False,
        length_penalty=0.0,
        output_scores=True,
        **DETAILS,
    )
    width = inputs["input_ids"].shape[1]
    for row, sequence in enumerate(output.sequences):
        start = int((1 - inputs["attention_mask"][row // num_return_sequences]).sum())
        logp = oracle_step_logp(model, sequence[start:])
        total = 0.0
        for position in range(width, len(sequence)):
            total += float(logp[position - start - 1, sequence[position]])
            if sequence[position] == 2:
                break
        assert total == pytest.approx(float(output.sequences_scores[row]), abs=1e-3)


def test_streaming_and_pipeline(tokenizer) -> None:
    model = make_model()
    prompt = "wa wb wc"
    ids = tokenizer(prompt, return_tensors="pt")
    expected = model.generate(**ids, do_sample=False, max_new_tokens=NEW)[0]

    pieces: list[int] = []

    class Collect(transformers.generation.streamers.BaseStreamer):
        def put(self, value: torch.Tensor) -> None:
            pieces.extend(value.flatten().tolist())

        def end(self) -> None:
            pass

    model.generate(**ids, do_sample=False, max_new_tokens=NEW, streamer=Collect())
    assert pieces == expected.tolist()

    pipe = transformers.pipeline("text-generation", model=model, tokenizer=tokenizer)
    result = pipe(prompt, max_new_tokens=NEW, do_sample=False, return_tensors=True)
    assert result[0]["generated_token_ids"] == expected.tolist()
    dialled = pipe(prompt, max_new_tokens=NEW, do_sample=False, return_tensors=True, strength=0.0)
    base = make_base().generate(**ids, do_sample=False, max_new_tokens=NEW)[0]
    assert dialled[0]["generated_token_ids"] == base.tolist() != expected.tolist()


@pytest.mark.parametrize(
    "dial", [{}, {"strength": 0.5}, {"strength": [2.0], "alpha_0": 0.2, "alpha_tilde": 0.3}], ids=str
)
@pytest.mark.parametrize("how", ["prompt lookup", "assistant", "assistant with a dial"])
def test_speculative_decoding(how: str, dial: dict) -> None:
    model = make_model(constants=RHO)
    ids = left_padded()["input_ids"][1:2].repeat(1, 3)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    kw = {
        "prompt lookup": {"prompt_lookup_num_tokens": 3},
        "assistant": {"assistant_model": make_base(seed=7)},
        "assistant with a dial": {"assistant_model": make_model(constants=RHO, seed=7)},
    }[how]
    expected = model.generate(**inputs, do_sample=False, max_new_tokens=12, **dial)
    assert torch.equal(model.generate(**inputs, do_sample=False, max_new_tokens=12, **dial, **kw), expected)


@pytest.mark.parametrize("negative", [True, False], ids=["negative prompt", "last token"])
@pytest.mark.parametrize("strength", [0.0, 0.5, [0.0, 2.0]], ids=str)
def test_guidance_has_the_dial_for_both_of_its_prompts(strength: float | list[float], negative: bool) -> None:
    """By hand: with c of the prompt and u of the other one, log π̃ each, the scores are u + 2·(c − u)."""
    model, inputs = make_model(constants=RHO), left_padded(rows=3)
    inputs = {name: value[1:] for name, value in inputs.items()}
    ids = inputs["input_ids"]
    other = ids[:, :4].flip(0) if negative else ids[:, -1:]
    kw = {"negative_prompt_ids": other} if negative else {}
    output = model.generate(
        **inputs, strength=strength, do_sample=False, guidance_scale=2.0, output_scores=True, **DETAILS, **kw
    )
    for row, sequence in enumerate(output.sequences):
        dial = strength[row] if isinstance(strength, list) else strength
        answer = sequence[ids.shape[1] :]
        c = oracle_step_logp(model, sequence, dial)[ids.shape[1] - 1 :]
        u = oracle_step_logp(model, torch.cat([other[row], answer]), dial)[other.shape[1] - 1 :]
        for step, scores in enumerate(output.scores):
            if step and answer[step - 1] in (0, 2):
                break
            torch.testing.assert_close(scores[row].double(), (2 * c - u)[step], rtol=1e-4, atol=5e-4)


def test_a_returned_cache_can_be_continued() -> None:
    model, inputs = make_model(), left_padded(rows=2)
    inputs["attention_mask"][:] = 1
    with torch.no_grad():
        whole = model(**inputs).logits
        first = model(inputs["input_ids"][:, :4], use_cache=True)
        assert isinstance(first.past_key_values, PairedRows)
        rest = model(inputs["input_ids"][:, 4:], past_key_values=first.past_key_values).logits
    torch.testing.assert_close(torch.cat([first.logits, rest], dim=1), whole, rtol=1e-4, atol=1e-4)


def test_a_cache_of_one_policy_is_refused() -> None:
    model, inputs = make_model(), left_padded(rows=2)
    with torch.no_grad():
        cache = model.base(inputs["input_ids"], use_cache=True).past_key_values
        with pytest.raises(ConfigError, match="holds the keys of one policy"):
            model(inputs["input_ids"][:, :1], past_key_values=cache)


@pytest.mark.parametrize(("first", "second"), [(1.0, 0.0), (0.0, 1.0)])
def test_a_cache_of_the_other_policy_is_refused(first: float, second: float) -> None:
    model, inputs = make_model(constants=RESIDUAL), left_padded(rows=1)
    kw = {**inputs, "do_sample": False, "max_new_tokens": 4, "return_dict_in_generate": True}
    so_far = model.generate(**kw, strength=first)
    new = so_far.sequences.shape[1] - inputs["input_ids"].shape[1]
    again = {**kw, "input_ids": so_far.sequences, "attention_mask": F.pad(inputs["attention_mask"], (0, new), value=1)}
    with pytest.raises(ConfigError, match="this strength decodes with the other"):
        model.generate(**again, strength=second, past_key_values=so_far.past_key_values)
    alone = model.generate(**again, strength=first)
    reused = model.generate(**again, strength=first, past_key_values=so_far.past_key_values)
    assert torch.equal(alone.sequences, reused.sequences)


@pytest.mark.parametrize("dial", ["strength", "alpha_0", "alpha_tilde"])
def test_a_dial_per_prompt_follows_its_prompt(tokenizer, dial: str) -> None:
    """Prompts are answered in the order of their lengths."""
    model, prompts, values = make_model(constants=RHO), ["wa wb wc wd", "we", "wf wg"], [0.05, 2.0, 0.3]
    found = answer_prompts(model, tokenizer, prompts, max_new_tokens=6, batch_size=2, **{dial: values})
    for prompt, value, answer in zip(prompts, values, found, strict=True):
        assert answer_prompts(model, tokenizer, [prompt], max_new_tokens=6, **{dial: value}) == [answer]
    assert len({tuple(answer.token_ids) for answer in found}) > 1


def test_an_own_static_cache() -> None:
    model, inputs = make_model(constants=RHO), left_padded()
    cache = StaticCache(config=model.config, max_cache_len=32)
    output = model.generate(**inputs, do_sample=False, past_key_values=cache, disable_compile=True, **DETAILS)
    assert isinstance(cache, PairedRows)
    check_against_oracle(model, inputs, output)


@pytest.mark.parametrize(
    ("dial", "message"),
    [
        ({"strength": -0.5}, "strength must be finite and ≥ 0, got -0.5"),
        ({"strength": float("nan")}, "strength must be finite"),
        ({"strength": [0.5, float("inf"), 1.0]}, "strength must be finite"),
        ({"alpha_tilde": 0.0}, "alpha_tilde must be finite and > 0"),
        ({"alpha_0": [[0.1]]}, "one number per prompt"),
        ({"strength": [0.0, 1.0, 1.0], "alpha_0": 0.0}, "no policy"),
        ({"strength": 0.0, "alpha_0": torch.tensor([0.1, 0.0, 0.1])}, "no policy"),
        ({"strength": 1e39}, "weights beyond ±1000 are refused"),
        ({"strength": [1.0, 1.0, 2e3]}, "weights beyond ±1000 are refused"),
        ({"strength": [0.5, 1.0]}, "strength has 2 numbers for 3 prompts: give one number, or one per prompt"),
        ({"strength": [0.5] * 3, "alpha_0": torch.ones(4)}, "alpha_0 has 4 numbers for 3 prompts"),
    ],
    ids=str,
)
def test_bad_dials(dial: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_model().generate(**left_padded(), max_new_tokens=1, **dial)


def test_a_dial_for_each_of_many_prompts_without_a_prompt() -> None:
    model = make_model()
    embeds = model.get_input_embeddings()(torch.tensor([[3, 4], [5, 6]]))
    assert len(model.generate(inputs_embeds=embeds, strength=[0.5, 1.0], max_new_tokens=1)) == 2
    for inputs in ({}, {"inputs_embeds": embeds[:1]}):
        with pytest.raises(ConfigError, match="2 numbers for 1 prompt:"):
            model.generate(**inputs, strength=[0.5, 1.0], max_new_tokens=1)


@pytest.mark.parametrize("how", ["generate", "forward"])
def test_several_threads_at_different_dials(how: str) -> None:
    model, inputs = make_model(constants=RHO), left_padded()
    details = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": None}

    @torch.no_grad()
    def answer(strength: float) -> torch.Tensor:
        if how == "forward":
            return model(**inputs, strength=strength).logits
        return model.generate(**inputs, strength=strength, **details)

    alone = {strength: answer(strength) for strength in (0.0, 0.5, 1.0)}

    def decode(strength: float) -> list[bool]:
        return [torch.equal(answer(strength), alone[strength]) for _ in range(8)]

    with ThreadPoolExecutor(3) as threads:
        assert all(all(equal) for equal in threads.map(decode, alone))
    # What decoding puts into the layers is taken out again: it would not follow further training.
    assert all(layer.forward.__func__ is row_sliced_forward for layer in model.row_router.layers)
    assert torch.equal(copy.deepcopy(model)(**inputs).logits, model(**inputs).logits)


def test_continuous_batching_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="continuous batching"):
        make_model().generate_batch([[1, 2, 3]])
