"""Variables of a chat template that a run fixes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from qadapter.data import fix_variables
from qadapter.errors import ConfigError, DataError

CHAT = [{"role": "user", "content": "va"}]
THINKING = (
    "{%- if tools %}tools{% endif %}{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% endfor %}{% macro end() %}{% if enable_thinking is defined and not enable_thinking %} no thought{% endif %}"
    "{% endmacro %}"
    "{% if add_generation_prompt %}{{ end() }}{% endif %}{% if note is defined %} {{ note | tojson }}{% endif %}"
    "{% set made = bos_token %}"
)


@pytest.fixture
def thinking(tokenizer) -> PreTrainedTokenizerBase:
    other = copy.deepcopy(tokenizer)
    other.chat_template = THINKING
    return other


def prompt_of(tokenizer: PreTrainedTokenizerBase, **variables: Any) -> str:
    return tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True, **variables)


@pytest.mark.parametrize("given", [{"enable_thinking": False}, '{"enable_thinking": false}'])
def test_it_is_what_the_template_writes_without_being_told(thinking, given: Any) -> None:
    expected = prompt_of(thinking, enable_thinking=False)
    assert expected != prompt_of(thinking)
    fix_variables(thinking, given)
    assert prompt_of(thinking) == expected
    assert prompt_of(thinking, enable_thinking=True) == expected, "nobody can undo what was trained with"


@pytest.mark.parametrize(
    "value", [None, True, -1, 2.5e-7, 10**20, 'it\'s "%}" {{ x }}\n\\ é', [1, [None, "a"]], {"a b": {"c": False}}]
)
def test_every_value_of_json_arrives_as_it_is(thinking, value: Any) -> None:
    expected = prompt_of(thinking, note=value)
    fix_variables(thinking, {"note": value})
    assert prompt_of(thinking) == expected


@pytest.mark.parametrize("nothing", [None, {}, "{}"])
def test_without_variables_the_template_stays(thinking, nothing: Any) -> None:
    fix_variables(thinking, nothing)
    assert thinking.chat_template == THINKING


def test_of_several_templates_the_default_gets_them(thinking) -> None:
    thinking.chat_template = {"rag": THINKING, "default": THINKING}
    expected = prompt_of(thinking, enable_thinking=False)
    fix_variables(thinking, {"enable_thinking": False})
    assert thinking.chat_template["rag"] == THINKING
    assert prompt_of(thinking) == expected


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"enable_thinkin": False}, "no variable 'enable_thinkin' .did you mean 'enable_thinking'"),
        ({"xyz": 1}, "no variable 'xyz'; it has enable_thinking, note"),
        # What is written, and what the template makes itself.
        *[
            ({name: "a"}, f"no variable '{name}'")
            for name in ("messages", "add_generation_prompt", "bos_token", "made")
        ],
        ({"a-b": 1}, "'a-b' is no name"),
        ({"enable_thinking": "no"}, "enable_thinking is the text 'no'(.|\\n)*true or false, without quotes"),
        ('{"enable_thinking": "False"}', "enable_thinking is the text 'False'"),
        ({"note": float("nan")}, "must be a mapping of names to values"),
        ({"note": object()}, "must be a mapping"),
        ("enable_thinking=false", "must be a mapping (.|\n)*as JSON, such as"),
        ("[1]", "must be a mapping"),
        ('{"note": NaN}', "must be a mapping"),
    ],
)
def test_what_cannot_be_set_is_refused(thinking, variables: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=f"chat_template_kwargs.*{said}"):
        fix_variables(thinking, variables)
    assert thinking.chat_template == THINKING


def test_a_template_without_variables_and_none_at_all(tokenizer) -> None:
    with pytest.raises(ConfigError, match="no variable 'enable_thinking'; it has none that could be set"):
        fix_variables(copy.deepcopy(tokenizer), {"enable_thinking": False})
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    with pytest.raises(DataError, match="has no chat template"):
        fix_variables(bare, {"enable_thinking": False})


def test_a_template_that_is_no_jinja(thinking) -> None:
    thinking.chat_template = "{% if %}"
    with pytest.raises(ConfigError, match="the chat template cannot be read"):
        fix_variables(thinking, {"enable_thinking": False})
