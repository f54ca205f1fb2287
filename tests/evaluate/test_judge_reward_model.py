"""A reward model as the judge, against its own forward on one text at a time."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import transformers
from conftest import FAMILIES, make_base

from qadapter.errors import ConfigError
from qadapter.evaluate.judges import JudgeArguments, make_judges
from qadapter.evaluate.judges.reward_model import RewardModel, load_reward_model
from qadapter.generate import Answer

PROMPTS = [[{"role": "user", "content": " ".join(["wa", "wb", "wc"][: 1 + i % 3] * (1 + i))}] for i in range(7)]
ANSWERS = [Answer(" ".join(["va", "vb"] * (7 - i)), [], i % 2 == 0) for i in range(7)]


def reward_net(family: str = "llama", **config: object) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    settings = copy.deepcopy(FAMILIES[family])
    settings.num_labels = 1
    for name, value in config.items():
        setattr(settings, name, value)
    net = transformers.AutoModelForSequenceClassification.from_config(settings)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.25)
    return net.eval()


def by_hand(net: transformers.PreTrainedModel, tokenizer, prompt: list[dict[str, str]], text: str) -> float:
    """The head on the last hidden state that is no padding token; one text, no padding."""
    rendered = "<s>" + "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in prompt)
    rendered += f"<|im_start|>assistant\n{text}<|im_end|>\n"
    ids = torch.tensor([tokenizer(rendered, add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        states = net.base_model(ids).last_hidden_state
        return float(net.score(states[0, -1]))


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral"])
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_rewards_one_by_one(tokenizer, family: str, batch_size: int) -> None:
    net = reward_net(family)
    verdicts = RewardModel(net, tokenizer, "tiny", batch_size=batch_size).judge(PROMPTS, ANSWERS)
    expected = [by_hand(net, tokenizer, p, a.text) for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    assert [verdict.score for verdict in verdicts] == pytest.approx(expected, abs=1e-5)
    assert max(expected) - min(expected) > 0.1


def test_without_a_padding_token_texts_are_read_one_at_a_time(tokenizer) -> None:
    net = reward_net(pad_token_id=None)
    verdicts = RewardModel(net, tokenizer, "tiny", batch_size=4).judge(PROMPTS, ANSWERS)
    expected = [by_hand(net, tokenizer, p, a.text) for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    assert [verdict.score for verdict in verdicts] == pytest.approx(expected, abs=1e-5)


def test_a_padding_token_that_also_ends_texts(tokenizer) -> None:
    """The model then takes its reward before that token, in a batch as alone."""
    net = reward_net(pad_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"))
    verdicts = RewardModel(net, tokenizer, "tiny", batch_size=7).judge(PROMPTS, ANSWERS)
    alone = [RewardModel(net, tokenizer, "tiny").judge([p], [a])[0] for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    assert [v.score for v in verdicts] == pytest.approx([v.score for v in alone], abs=1e-5)
    assert alone[0].score != pytest.approx(by_hand(net, tokenizer, PROMPTS[0], ANSWERS[0].text), abs=1e-3)


def test_it_is_on_its_device_while_it_judges_alone(tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    net, events = reward_net(), []
    monkeypatch.setattr(net, "to", lambda device: events.append(str(device)))
    judge = RewardModel(net, tokenizer, "tiny", device="cuda")
    assert events == []
    monkeypatch.setattr(judge, "_rewards", lambda rows: events.append("rewards") or [0.0] * len(rows))
    judge.judge(PROMPTS[:1], ANSWERS[:1])
    assert events == ["cuda", "rewards", "cpu"]


def test_it_judges_without_a_graph(tokenizer) -> None:
    net = reward_net()
    assert all(parameter.requires_grad for parameter in net.parameters())
    seen = []
    net.register_forward_hook(lambda module, args, output: seen.append(output.logits.requires_grad))
    RewardModel(net, tokenizer, "tiny").judge(PROMPTS[:1], ANSWERS[:1])
    assert seen == [False]


def test_what_is_too_long_is_not_cut(tokenizer) -> None:
    net = reward_net("gpt2")  # reads 128 tokens
    long = Answer(" ".join(["va"] * 200), [], True)
    verdicts = RewardModel(net, tokenizer, "tiny").judge(PROMPTS[:2], [long, ANSWERS[1]])
    assert verdicts[0].score is None
    assert "the reward model reads 128" in verdicts[0].note
    assert verdicts[1].score == pytest.approx(by_hand(net, tokenizer, PROMPTS[1], ANSWERS[1].text), abs=1e-5)


def test_a_prompt_that_the_template_refuses(tokenizer) -> None:
    strict = copy.deepcopy(tokenizer)
    strict.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        + tokenizer.chat_template
    )
    prompts = [[{"role": "system", "content": "wa"}, *PROMPTS[0]], PROMPTS[1]]
    verdicts = RewardModel(reward_net(), strict, "tiny").judge(prompts, ANSWERS[:2])
    assert (verdicts[0].score, "no system role" in verdicts[0].note) == (None, True)
    assert verdicts[1].score is not None


def test_a_reward_that_is_no_number_has_failed(tokenizer) -> None:
    net = reward_net()
    with torch.no_grad():
        net.score.weight.fill_(float("nan"))
    (verdict,) = RewardModel(net, tokenizer, "tiny").judge(PROMPTS[:1], ANSWERS[:1])
    assert verdict.score is None


def test_a_folder_is_loaded(tokenizer, tmp_path: Path) -> None:
    net = reward_net()
    net.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (judge,) = make_judges(JudgeArguments(reward_model=[str(tmp_path)], reward_batch_size=2))
    assert (judge.name, judge.kind, judge.needs_reference) == (f"reward:{tmp_path}", "reward_model", False)
    found = [verdict.score for verdict in judge.judge(PROMPTS, ANSWERS)]
    expected = [by_hand(net, tokenizer, p, a.text) for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    assert found == pytest.approx(expected, abs=1e-5)


def test_several_labels_are_refused(tokenizer, tmp_path: Path) -> None:
    reward_net(num_labels=3).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"3 labels \(LABEL_0, LABEL_1, LABEL_2\)"):
        load_reward_model(tmp_path)


def test_no_chat_template_is_refused(tokenizer, tmp_path: Path) -> None:
    reward_net().save_pretrained(tmp_path)
    plain = copy.deepcopy(tokenizer)
    plain.chat_template = None
    plain.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="no chat template"):
        load_reward_model(tmp_path)


def test_a_causal_lm_is_no_reward_model(tokenizer, tmp_path: Path) -> None:
    base = make_base()
    base.config.num_labels = 1
    base.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"lacks score\.weight"):
        load_reward_model(tmp_path)


def test_an_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_reward_model(tmp_path / "nothing")
