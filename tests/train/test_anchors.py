"""Anchors: no preference, a distance to the base instead, and a policy that stays at the base on them."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from conftest import FAMILIES, RESIDUAL, make_base, make_batch, make_model, model_from_config
from train.test_trainer import arguments, log_of, pairs

from qadapter import QAdapterTrainer
from qadapter.data import Anchor, PreferenceCollator, read_anchors, write_anchors
from qadapter.errors import ConfigError, DataError
from qadapter.model import QConstants
from qadapter.train import anchors as anchors_module
from qadapter.train import sample_anchors, tokenize_dataset
from qadapter.train.dataset import with_anchors

CONSTANTS = QConstants("residual", 0.3, 0.3, 1.0, chi2_coef=0.1, anchor_coef=7.0)
ANCHORS = [
    Anchor([5, 6, 7], ([8, 9, 2], [10, 11]), (True, False)),
    Anchor([12], ([13, 14, 15, 16], [2]), (False, True)),
]  # fmt: skip


def batch_with_anchor(which: list[bool]) -> dict[str, torch.Tensor]:
    return {**make_batch(len(which)), "anchor": torch.tensor(which).repeat(2)}


def test_a_template_that_writes_nothing_before_a_users_turn_gives_plain_texts(tokenizer) -> None:
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = "{% for message in messages %}{{ message.content + eos_token }}{% endfor %}"
    anchors = sample_anchors(make_model(), bare, 3, max_new_tokens=4)
    opening = bare("")["input_ids"]
    assert len(anchors) == 3
    assert all(anchor.prompt_ids[: len(opening)] == opening for anchor in anchors)


@pytest.mark.parametrize("share_prefix", [True, False])
def test_a_pair_beside_an_anchor_is_not_changed(share_prefix: bool) -> None:
    model = make_model(constants=CONSTANTS)
    model.share_prefix = share_prefix
    plain = model(**make_batch(3))
    mixed = model(**batch_with_anchor([False, True, False]))
    assert torch.equal(mixed.pair_loss[[0, 2]], plain.pair_loss[[0, 2]])
    assert mixed.anchor.tolist() == [False, True, False]
    assert mixed.anchor_kl[[0, 2]].tolist() == [0, 0]
    torch.testing.assert_close(mixed.pair_loss[1], 7.0 * mixed.anchor_kl[1])


@pytest.mark.parametrize("constants", [CONSTANTS, QConstants("logits", 0.2, 0.7, anchor_coef=7.0)], ids=str)
@pytest.mark.parametrize("share_prefix", [True, False])
def test_an_anchor_pays_for_the_distance_to_the_base_on_its_answers(share_prefix: bool, constants: QConstants) -> None:
    model = make_model(constants=constants)
    model.share_prefix = share_prefix
    batch = batch_with_anchor([True, False, True])
    batch["terminated"] = torch.tensor([True, True, False, False, True, True])
    found = model(**batch).anchor_kl
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    with torch.no_grad():
        policy = model(**inputs).logits.log_softmax(-1)
        base = model(**inputs, strength=0.0, alpha_0=1.0, alpha_tilde=1.0).logits.log_softmax(-1)
    kl = (base.exp() * (base - policy)).sum(-1)
    states = batch["completion_mask"].roll(-1, dims=1)  # the state before each token of an answer
    for pair in (0, 2):
        at = states[[pair, pair + 3]]
        torch.testing.assert_close(found[pair], kl[[pair, pair + 3]][at].mean(), rtol=1e-4, atol=1e-6)


def test_anchors_need_the_bases_hidden_states() -> None:
    model = make_model(constants=CONSTANTS)
    batch = batch_with_anchor([False, True, False])
    anchor = batch.pop("anchor")
    known = model.base_states_of_pairs(**batch)
    with pytest.raises(ConfigError, match="holds anchors, but its base_states no hidden states"):
        model(**batch, anchor=anchor, base_states=known)
    kept = model.base_states_of_pairs(**batch, anchor=anchor)
    assert torch.equal(model(**batch, anchor=anchor, base_states=kept).loss, model(**batch, anchor=anchor).loss)


def test_on_anchors_alone_the_policy_returns_to_the_base() -> None:
    model = make_model(constants=CONSTANTS)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    batch = batch_with_anchor([True, True, True])
    before = model(**batch).anchor_kl.mean().item()
    for _ in range(60):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    assert model(**batch).anchor_kl.mean().item() < 0.2 * before


def test_the_trainer_samples_what_the_arguments_ask_for(tmp_path: Path, tokenizer, caplog) -> None:
    def rows(**extra) -> list[bool]:
        args = arguments(tmp_path / "run", **{"anchors": 3, "max_length": 64} | extra)
        return list(QAdapterTrainer(make_base(), args, None, pairs(8), None, tokenizer).train_dataset["anchor"])

    assert rows() == [False] * 8 + [True] * 3
    assert "plain texts" not in caplog.text
    with pytest.raises(ConfigError, match=r"max_length is 17: no room for an answer"):
        rows(max_length=17)


def test_a_model_that_does_not_end_a_users_turn_gives_plain_texts(tokenizer, monkeypatch, caplog) -> None:
    monkeypatch.setattr(anchors_module, "_TURN_TOKENS", 1)
    anchors = sample_anchors(make_model(constants=RESIDUAL), tokenizer, 3, max_new_tokens=4)
    assert "0 came to an end within 1 tokens" in caplog.text
    assert [len(anchor.prompt_ids) for anchor in anchors] == [len(anchors[0].prompt_ids)] * 3


def test_a_template_that_wants_more_than_a_users_turn_gives_plain_texts(tokenizer, caplog) -> None:
    wanting = copy.deepcopy(tokenizer)
    wanting.chat_template = "{{ raise_exception('A system message is required') }}"
    anchors = sample_anchors(make_model(constants=RESIDUAL), wanting, 3, max_new_tokens=4)
    assert "all anchors are plain texts: the chat template refuses the messages: A system message is" in caplog.text
    assert len({len(anchor.prompt_ids) for anchor in anchors}) == 1


def test_anchors_fit_the_positions_of_the_base(tokenizer) -> None:
    """GPT-2 has an embedding for each position and no more."""
    config = copy.deepcopy(FAMILIES["gpt2"])
    config.n_positions = 30
    model = model_from_config(config)
    anchors = sample_anchors(model, tokenizer, 3, max_new_tokens=8)
    assert all(len(anchor.prompt_ids) + 8 <= 30 for anchor in anchors)
    sampled: list[int] = []
    with pytest.raises(ConfigError, match="up to 20 tokens leave no room in the 30 positions of the base"):
        sample_anchors(model, tokenizer, 3, max_new_tokens=20, on_batch=sampled.append)
    assert sampled == []  # it is said at once


def test_anchors_are_those_of_any_day(tokenizer, monkeypatch) -> None:
    """A run that samples them again when it is resumed must not depend on the day: a template may write the date."""
    dated = copy.deepcopy(tokenizer)
    date = "{{ 'wa ' if strftime_now('%d %b %Y') == '26 Jul 2024' else 'wb ' }}"
    dated.chat_template = date + tokenizer.chat_template
    started_from = []

    def one_word(model, prompts, end, most, policy=None):
        started_from.append(prompts[0])
        return [[tokenizer.convert_tokens_to_ids("wc"), end] for _ in prompts]

    monkeypatch.setattr(anchors_module, "_sample", one_word)
    anchors = sample_anchors(make_model(constants=RESIDUAL), dated, 2, max_new_tokens=4)
    wa = tokenizer.convert_tokens_to_ids("wa")
    assert anchors[0].prompt_ids[0] == wa
    assert started_from[0][0] == wa


def test_few_anchors_are_repeated(tokenizer) -> None:
    """All equally often, to the number nearest to one for every two pairs."""
    tokenized = tokenize_dataset(pairs(16), tokenizer, max_length=64)
    repeated = with_anchors(tokenized, ANCHORS, 64)
    assert list(repeated["anchor"]).count(True) == 8
    assert repeated[16] == repeated[18] != repeated[17] == repeated[19]
    assert list(with_anchors(tokenized, ANCHORS * 8, 64)["anchor"]).count(True) == 16, "none is left out"


def test_more_anchors_than_pairs_are_said(tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    tokenized = tokenize_dataset(pairs(16), tokenizer, max_length=64)
    with_anchors(tokenized, ANCHORS * 8, 64)
    assert "anchors beside" not in caplog.text
    with_anchors(tokenized, ANCHORS * 9, 64)
    assert "18 anchors beside 16 pairs" in caplog.text
    assert "anchors=8" in caplog.text


def test_anchors_become_rows_beside_the_pairs(tokenizer) -> None:
    tokenized = tokenize_dataset(pairs(2), tokenizer, max_length=64)
    assert with_anchors(tokenized, [], 64) is tokenized
    rows = with_anchors(tokenized, ANCHORS, 5)
    assert rows["anchor"] == [False, False, True, True]
    assert rows[2]["chosen_ids"] == [8, 9]
    assert (rows[2]["chosen_terminated"], rows[2]["rejected_terminated"]) == (False, False)
    assert rows[3]["chosen_ids"] == [13, 14, 15, 16]
    assert rows[3]["rejected_terminated"] is True
    assert [row["length"] for row in rows][2:] == [3 + 2 + 2, 1 + 4 + 1]
    batch = PreferenceCollator(0)([rows[1], rows[3]])
    assert batch["anchor"].tolist() == [False, True, False, True]
    with pytest.raises(DataError, match="anchor 1 has a prompt of 3 tokens and max_length is 3"):
        with_anchors(tokenized, ANCHORS, 3)


@pytest.mark.parametrize("extra", [{}, {"cache_base": True}, {"auto_micro_batch": True}], ids=str)
def test_training_counts_anchors_apart(tmp_path: Path, tokenizer, extra: dict) -> None:
    if "cache_base" in extra:
        extra = {**extra, "base_cache_dir": str(tmp_path / "cache")}
    args = arguments(tmp_path / "run", parametrization="residual", alpha_0=0.3, alpha_tilde=0.3, anchor_coef=2.0,
                     chi2_coef=0.5, sft_coef=0.0, per_device_train_batch_size=4, train_sampling_strategy="sequential",
                     logging_steps=1, num_train_epochs=3, **extra)  # fmt: skip
    trainer = QAdapterTrainer(
        make_base(), args, train_dataset=pairs(4), processing_class=tokenizer, anchors=ANCHORS * 2
    )
    trainer.train()
    lines = {line["step"]: line for line in log_of(Path(args.output_dir)) if "grad_norm" in line}
    assert len(lines) == 6
    # In the order of the data: a step of pairs, then one of anchors. The first is taken at Q = 0.
    assert lines[1]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    for step, line in lines.items():
        assert ("rewards/margins" in line) == (step % 2 == 1)
        assert ("anchor/kl" in line) == (step % 2 == 0)
    assert lines[6]["loss"] == pytest.approx(2.0 * lines[6]["anchor/kl"], rel=1e-4)
    assert lines[6]["anchor/kl"] > 0


def test_sampled_anchors_are_the_bases_own(tokenizer) -> None:
    model = make_model(constants=RESIDUAL)
    torch.manual_seed(5)
    anchors = sample_anchors(model, tokenizer, 5, max_new_tokens=4, seed=3)
    assert len(anchors) == 5
    for anchor in anchors:
        assert anchor.prompt_ids
        for ids, finished in zip(anchor.answer_ids, anchor.finished, strict=True):
            assert 1 <= len(ids) <= 4
            assert finished or len(ids) == 4
    assert anchors == sample_anchors(model, tokenizer, 5, max_new_tokens=4, seed=3)
    assert anchors != sample_anchors(model, tokenizer, 5, max_new_tokens=4, seed=4)
    with torch.no_grad():  # another adapter, the same base
        for layer in model.row_router.layers:
            layer.lora_B["default"].weight.mul_(-3)
    assert anchors == sample_anchors(model, tokenizer, 5, max_new_tokens=4, seed=3)


def test_what_the_base_recommends_for_decoding_does_not_touch_the_anchors(tokenizer) -> None:
    plain, advised = make_model(constants=RESIDUAL), make_model(constants=RESIDUAL)
    recommended = advised.generation_config
    recommended.update(repetition_penalty=1e6, min_p=0.9, no_repeat_ngram_size=1, temperature=0.1)
    found = [sample_anchors(model, tokenizer, 5, max_new_tokens=12, seed=3) for model in (plain, advised)]
    assert found[0] == found[1]
    assert advised.generation_config is recommended


def test_anchors_without_weight_are_refused(tmp_path: Path, tokenizer) -> None:
    with pytest.raises(ConfigError, match=r"8 anchors with anchor_coef 0\.0 .* have no weight"):
        arguments(tmp_path, preset="paper", anchors=8)
    without = arguments(tmp_path, anchor_coef=0.0, anchors=0)
    with pytest.raises(ConfigError, match="2 anchors were given, and anchor_coef 0 gives them no weight"):
        QAdapterTrainer(make_base(), without, train_dataset=pairs(4), processing_class=tokenizer, anchors=ANCHORS)


def test_anchors_on_disk(tmp_path: Path) -> None:
    write_anchors(tmp_path / "anchors.jsonl", ANCHORS)
    assert read_anchors(tmp_path / "anchors.jsonl") == ANCHORS
    (tmp_path / "broken.jsonl").write_text('{"prompt_ids": [1]')
    with pytest.raises(DataError, match="does not hold anchors"):
        read_anchors(tmp_path / "broken.jsonl")
