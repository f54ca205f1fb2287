"""The prompt/response boundary, the end of a turn, truncation, and the padded batch."""

from __future__ import annotations

import copy

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from qadapter.data import NoRoomError, PreferenceCollator, encode_prompt, end_of_turn_id, tokenize_pair
from qadapter.data.tokenization import written_before_answers
from qadapter.errors import DataError


def chat(prompt: str = "wa wb", chosen: str = "wc wd we", rejected: str = "wf") -> dict:
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


def test_the_boundary_is_that_of_the_template(tokenizer) -> None:
    pair = tokenize_pair(chat(), tokenizer, max_length=None)
    generation_starts_from = tokenizer.apply_chat_template(chat()["prompt"], add_generation_prompt=True)["input_ids"]
    assert pair.prompt_ids == generation_starts_from == encode_prompt(chat()["prompt"], tokenizer)
    assert tokenizer.convert_ids_to_tokens(pair.chosen_ids) == ["wc", "wd", "we", "<|im_end|>"]
    assert tokenizer.convert_ids_to_tokens(pair.rejected_ids) == ["wf", "<|im_end|>"]
    assert pair.chosen_terminated
    assert pair.rejected_terminated


def test_no_second_bos(tokenizer) -> None:
    """The template writes a BOS and the tokenizer would add another."""
    assert tokenizer("wa")["input_ids"][0] == tokenizer.bos_token_id
    assert tokenize_pair(chat(), tokenizer, None).prompt_ids.count(tokenizer.bos_token_id) == 1
    standard = {"prompt": "wa wb", "chosen": " wc", "rejected": " wd"}
    assert tokenize_pair(standard, tokenizer, None).prompt_ids.count(tokenizer.bos_token_id) == 1
    rendered = {**standard, "prompt": f"{tokenizer.bos_token}wa wb"}
    assert tokenize_pair(rendered, tokenizer, None) == tokenize_pair(standard, tokenizer, None)


@pytest.mark.parametrize("adds", ["<s> $A", "$A", "<s> $A </s>", "$A </s>", "</s> $A"])
def test_only_an_eos_that_the_tokenizer_added_goes(tokenizer, adds: str) -> None:
    """T5's tokenizers end every text with one; a few-shot prompt may end with its own."""
    from tokenizers import processors

    ending = copy.deepcopy(tokenizer)
    ending.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=adds, special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    before = adds.partition("$A")[0].split()
    for prompt in ("wa", "wa </s>", "wa </s> </s>", "wa </s> wb"):
        pair = tokenize_pair({"prompt": prompt, "chosen": " wc", "rejected": " wd </s>"}, ending, None)
        assert ending.convert_ids_to_tokens(pair.prompt_ids) == [*before, *prompt.split()]
        assert ending.convert_ids_to_tokens(pair.chosen_ids) == ["wc", "</s>"]
        assert ending.convert_ids_to_tokens(pair.rejected_ids) == ["wd", "</s>"]


def test_a_template_that_writes_the_date(tokenizer) -> None:
    """A run that goes on after midnight must see the same pairs; whoever answers sees today."""
    dated = copy.deepcopy(tokenizer)
    date = "{{ 'wa ' if strftime_now('%d %b %Y') == '26 Jul 2024' else 'wb ' }}"
    dated.chat_template = date + tokenizer.chat_template
    pair, plain = tokenize_pair(chat(), dated, None), tokenize_pair(chat(), tokenizer, None)
    wa, wb = tokenizer.convert_tokens_to_ids(["wa", "wb"])
    assert wa in pair.prompt_ids[:2]
    assert wb not in pair.prompt_ids[:2]
    assert (pair.chosen_ids, pair.rejected_ids) == (plain.chosen_ids, plain.rejected_ids)
    assert wb in encode_prompt(chat()["prompt"], dated)[:2]


def test_of_several_templates_the_default_is_taken(tokenizer) -> None:
    several = copy.deepcopy(tokenizer)
    date = "{{ 'wa ' if strftime_now('%d %b %Y') == '26 Jul 2024' else 'wb ' }}"
    several.chat_template = {"tool_use": "{{ raise_exception('no tools') }}", "default": tokenizer.chat_template}
    assert tokenize_pair(chat(), several, None) == tokenize_pair(chat(), tokenizer, None)
    assert end_of_turn_id(several) == end_of_turn_id(tokenizer)
    several.chat_template["default"] = date + tokenizer.chat_template
    pair = tokenize_pair(chat(), several, None)
    assert tokenizer.convert_tokens_to_ids("wa") in pair.prompt_ids[:2], "the clock stands still there, too"
    several.chat_template = {"tool_use": tokenizer.chat_template, "rag": tokenizer.chat_template}
    with pytest.raises(DataError, match=r"of the chat templates of '' \(tool_use, rag\) none is the default"):
        tokenize_pair(chat(), several, None)


def test_the_end_of_turn_comes_from_the_template(tokenizer) -> None:
    assert tokenizer.convert_ids_to_tokens(end_of_turn_id(tokenizer)) == "<|im_end|>" != tokenizer.eos_token


def test_what_the_template_refuses_is_said(tokenizer) -> None:
    refusing = copy.deepcopy(tokenizer)
    refusing.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(DataError, match="the chat template refuses the messages: System role not supported"):
        encode_prompt(chat()["prompt"], refusing)


def test_a_template_that_wants_a_system_message_gets_one_in_probes_too(tokenizer) -> None:
    wanting = copy.deepcopy(tokenizer)
    refuse = "{{ raise_exception('A system message is required') }}"
    begun = "{% if messages[0]['role'] != 'system' %}" + refuse + "{% endif %}"
    wanting.chat_template = begun + tokenizer.chat_template
    row = chat()
    with pytest.raises(DataError, match="A system message is required"):
        tokenize_pair(row, wanting, None)
    row["prompt"].insert(0, {"role": "system", "content": "wa"})
    assert tokenize_pair(row, wanting, None) == tokenize_pair(row, tokenizer, None)
    assert written_before_answers(wanting) == ""


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
def test_tokens_make_the_text_also_where_the_prompt_ends_with_a_space(scheme: str) -> None:
    """Tokenizers of the SentencePiece family put a space before a text that stands alone."""
    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    inner.decoder = decoders.Metaspace(prepend_scheme=scheme)
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", "</s>"])
    inner.train_from_iterator(["Question: hello Answer: yes please no \n yes no thanks."] * 5, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="</s>")
    row = {"prompt": "Question: hello Answer: ", "chosen": "yes please", "rejected": "no thanks"}
    pair = tokenize_pair(row, tokenizer, None)
    assert tokenizer.convert_ids_to_tokens(pair.chosen_ids) == ["yes", "▁please", "</s>"]
    text = tokenizer.decode(pair.prompt_ids + pair.rejected_ids, skip_special_tokens=True)
    assert text == "Question: hello Answer: no thanks"


def test_standard_pairs_end_with_eos(tokenizer) -> None:
    pair = tokenize_pair({"prompt": "wa wb", "chosen": " wc", "rejected": " wd we"}, tokenizer, None)
    assert tokenizer.convert_ids_to_tokens(pair.chosen_ids) == ["wc", "</s>"]
    assert tokenizer.convert_ids_to_tokens(pair.rejected_ids) == ["wd", "we", "</s>"]


def test_a_template_that_writes_no_end_of_turn_gets_eos(tokenizer) -> None:
    plain = copy.deepcopy(tokenizer)
    plain.chat_template = (
        "{% for m in messages %} {{ m['role'] }} {{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %} assistant {% endif %}"
    )
    assert tokenizer.convert_ids_to_tokens(tokenize_pair(chat(), plain, None).rejected_ids) == ["wf", "</s>"]


def test_truncation_cuts_responses_and_says_so(tokenizer) -> None:
    whole = tokenize_pair(chat(), tokenizer, None)
    pair = tokenize_pair(chat(), tokenizer, max_length=len(whole.prompt_ids) + 2)
    assert pair.chosen_ids + pair.chosen_cut_ids == whole.chosen_ids
    assert len(pair.chosen_ids) == 2
    assert (pair.chosen_terminated, pair.rejected_terminated) == (False, True)
    with pytest.raises(NoRoomError, match="no room to answer"):
        tokenize_pair(chat(), tokenizer, max_length=len(whole.prompt_ids))


def test_conversations_need_a_template(tokenizer) -> None:
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    with pytest.raises(DataError, match="has no chat template"):
        tokenize_pair(chat(), bare, None)


def test_a_template_that_rewrites_the_prompt_is_refused(tokenizer) -> None:
    rewriting = copy.deepcopy(tokenizer)
    rewriting.chat_template = "{{ messages | length }} {% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(DataError, match="does not begin with its text for the prompt"):
        tokenize_pair(chat(), rewriting, None)


def test_the_batch_of_the_docstring() -> None:
    pair = {
        "prompt_ids": [5, 6],
        "chosen_ids": [7, 2],
        "rejected_ids": [8, 9, 2],
        "chosen_terminated": True,
        "rejected_terminated": False,
    }
    batch = PreferenceCollator(pad_token_id=0)([pair])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 2, 0], [5, 6, 8, 9, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert batch["completion_mask"].tolist() == [[False, False, True, True, False], [False, False, True, True, True]]
    assert batch["terminated"].tolist() == [True, False]
    assert batch["completion_mask"].dtype == torch.bool
