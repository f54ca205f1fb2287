"""Scores of tokens against one forward per text, and what is built on them: perplexity, preference along the dial."""

from __future__ import annotations

import math

import oracles
import pytest
import torch
import transformers
from conftest import FAMILIES, HEADS, IDS, PAPER, RESIDUAL, SMALL, VOCABULARY, make_model, model_from_config, two_logits
from datasets import Dataset

from qadapter.errors import DataError
from qadapter.evaluate import evaluate_perplexity, evaluate_preference, evaluate_retention
from qadapter.evaluate.perplexity import rolling_windows
from qadapter.evaluate.token_scores import ScoredText, score_tokens
from qadapter.train import tokenize_dataset


def naive_logp(model, ids: list[int], strength: float) -> torch.Tensor:
    """log π̃ of every token but the first, from float64 softmaxes of the two policies' own logits."""
    z1, z0 = (z[0, :-1].double() for z in two_logits(model, input_ids=torch.tensor([ids])))
    if strength == 0:
        logp = oracles.log_softmax(z0)
    else:
        weights = model.constants.mixture(strength)
        logp = oracles.log_softmax(weights.adapter * z1 + weights.base * z0)
    return logp[range(len(ids) - 1), ids[1:]]


def texts(seed: int = 0) -> list[ScoredText]:
    """Some with a context of their own, some with a context that others continue too, in no order."""
    generator = torch.Generator().manual_seed(seed)

    def ids(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high, (1,), generator=generator))
        return torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()

    found = []
    for shared in (1, 3, 2, 4, 1):
        context = ids(1, 11)
        for _ in range(shared):
            scored = ids(1, 7)
            found.append(ScoredText(context + scored, len(scored)))
    return found[::2] + found[1::2]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_scores_against_one_forward_per_text(family: str, strength: float) -> None:
    model = make_model(family, RESIDUAL)
    for batch_size in (1, 4):
        scores = score_tokens(model, texts(), strength=strength, batch_size=batch_size)
        for text, score in zip(texts(), scores, strict=True):
            expected = naive_logp(model, text.ids, strength)[-text.scored :]
            torch.testing.assert_close(score.logp.double(), expected, rtol=1e-4, atol=1e-4)


def test_texts_share_no_row_where_one_is_longer_than_the_attention_window() -> None:
    """That one is read without the mask which keeps the texts of a row apart, and its batch with it."""
    model = model_from_config(transformers.MistralConfig(**SMALL, **HEADS, **IDS, sliding_window=12))
    context = [5, 6, 7]
    within = [ScoredText([*context, *tail], len(tail)) for tail in ([9, 10, 11], [20, 21, 22], [30, 31])]
    for others in ([], [ScoredText(list(range(3, 20)), 4)]):
        scores = score_tokens(model, [*within, *others], strength=0.5)
        for text, score in zip([*within, *others], scores, strict=True):
            expected = naive_logp(model, text.ids, 0.5)[-text.scored :]
            torch.testing.assert_close(score.logp.double(), expected, rtol=1e-4, atol=1e-4)


def test_the_greedy_token_is_recognised() -> None:
    model = make_model(constants=RESIDUAL)
    context = [5, 6, 7]
    with torch.no_grad():
        best = int(model(input_ids=torch.tensor([context])).logits[0, -1].argmax())
    other = 3 if best != 3 else 4
    scores = score_tokens(model, [ScoredText([*context, token], 1) for token in (best, other)])
    assert [bool(score.is_greedy) for score in scores] == [True, False]


def test_strength_0_is_the_base_whatever_the_constants() -> None:
    """With the paper's constants the dial's own zero is π₀^0.01."""
    model = make_model(constants=PAPER)
    ids = [1, 5, 9, 13, 8]
    _, z0 = two_logits(model, input_ids=torch.tensor([ids]))
    expected = oracles.log_softmax(z0[0, :-1].double())[range(4), ids[1:]]
    (score,) = score_tokens(model, [ScoredText(ids, 4)], strength=0.0)
    torch.testing.assert_close(score.logp.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("max_length", [2, 3, 5, 8, 100])
@pytest.mark.parametrize("tokens", [1, 4, 5, 23])
def test_windows_score_every_token_once(max_length: int, tokens: int) -> None:
    ids = list(range(tokens + 1))
    windows = list(rolling_windows(ids, max_length))
    scored = [token for window in windows for token in window.ids[-window.scored :]]
    assert scored == ids[1:]
    for window in windows:
        assert len(window.ids) <= max_length
        context = len(window.ids) - window.scored
        assert context >= min(max(1, max_length // 2), window.ids[-window.scored])


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_perplexity_against_a_naive_loop(tokenizer, strength: float) -> None:
    model = make_model(constants=RESIDUAL)
    documents = ["wa wb wc wd we wf wg wh wi wj wk", "va", "wz vb wa"]
    nats = []
    for document in documents:
        ids = [tokenizer.bos_token_id, *tokenizer(document, add_special_tokens=False)["input_ids"]]
        total = 0.0
        # A token's context: windows of 8 tokens move on by 4.
        for at in range(1, len(ids)):
            start = 0 if at < 8 else 4 * ((at - 8) // 4 + 1)
            total -= float(naive_logp(model, ids[start : at + 1], strength)[-1])
        nats.append(total)
    result = evaluate_perplexity(model, tokenizer, documents, strength=strength, max_length=8, batch_size=2)
    assert [item.tokens for item in result.items] == [11, 1, 3]
    assert [item.nats for item in result.items] == pytest.approx(nats, rel=1e-4)
    assert result.nats_per_token == pytest.approx(sum(nats) / 15, rel=1e-4)
    assert result.perplexity == pytest.approx(math.exp(sum(nats) / 15), rel=1e-3)


def test_a_document_without_tokens(tokenizer) -> None:
    with pytest.raises(DataError, match="document 2 has no tokens"):
        evaluate_perplexity(make_model(), tokenizer, ["wa", ""])


PAIRS = Dataset.from_list(
    [
        {
            "prompt": [{"role": "user", "content": "wa wb"}],
            "chosen": [{"role": "assistant", "content": f"w{a} vb"}],
            "rejected": [{"role": "assistant", "content": f"w{b} vc vd"}],
        }
        for a, b in zip("abcde", "hijkl", strict=True)
    ]
)


@pytest.mark.parametrize("constants", [PAPER, RESIDUAL], ids=["paper", "residual"])
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_preference_along_the_dial(tokenizer, constants, strength: float) -> None:
    model = make_model(constants=constants)
    tokenized = tokenize_dataset(PAIRS, tokenizer, max_length=64)
    result = evaluate_preference(model, tokenized, 0, batch_size=2, strength=strength)
    chosen, rejected = (
        [
            float(naive_logp(model, row["prompt_ids"] + row[side], strength)[-len(row[side]) :].sum())
            for row in tokenized
        ]
        for side in ("chosen_ids", "rejected_ids")
    )
    assert result.logps_chosen == pytest.approx(chosen, rel=1e-3)
    assert result.logp_margins == pytest.approx(
        [a - b for a, b in zip(chosen, rejected, strict=True)], rel=1e-3, abs=1e-3
    )
    assert result.logp_chosen == pytest.approx(sum(chosen) / 5, rel=1e-3)
    trained = evaluate_preference(model, tokenized, 0)
    assert result.margins == (pytest.approx(trained.margins, rel=1e-4) if strength else [0.0] * 5)
    assert result.accuracy == (trained.accuracy if strength else 0.5)
    assert result.margin == pytest.approx(sum(result.margins) / 5)


def test_kl_is_taken_from_the_base_itself(tokenizer) -> None:
    """Also where ρ is not 1: with the paper's constants the distance to π₀, not to π₀^0.01."""
    model = make_model(constants=PAPER)
    prompts = [{"kind": "document", "prompt": "wa wb wc"}]
    (result,) = evaluate_retention(model, tokenizer, prompts, base_answers=[[7, 8, 9]])
    ids = tokenizer("wa wb wc")["input_ids"] + [7, 8, 9]
    z1, z0 = (z[0, -4:-1].double() for z in two_logits(model, input_ids=torch.tensor([ids])))
    base, customized = oracles.log_softmax(z0), oracles.policy_logp(z1, z0, 0.01, 1.0)
    kl = (base.exp() * (base - customized)).sum(-1)
    assert result.kl_to_base == pytest.approx(float(kl.mean()), rel=1e-3)
    assert result.items == [("document", pytest.approx(float(kl.mean()), rel=1e-3), result.top1_agreement, 3)]
