"""Every format gives the pairs it stands for; every bad row gives its reason."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qadapter.data.formats import parse_hh, row_to_pairs
from qadapter.data.pairs import BadRow, PreferencePair, as_conversation
from qadapter.errors import DataError

AT = "train.jsonl:17"


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


Q, A, B = user("Sky?"), assistant("Blue."), assistant("Green.")
PAIR = PreferencePair([Q], [A], [B], AT)
HH = "\n\nHuman: Sky?\n\nAssistant: "


def pair_of(row: dict[str, Any]) -> PreferencePair | BadRow:
    (result,) = row_to_pairs(row, AT)
    return result


def reason_of(row: dict[str, Any]) -> str:
    result = pair_of(row)
    assert isinstance(result, BadRow), result
    assert result.location == AT
    return result.reason


@pytest.mark.parametrize(
    "row",
    [
        pytest.param({"prompt": [Q], "chosen": [A], "rejected": [B]}, id="explicit conversational"),
        pytest.param({"prompt": [Q], "chosen": "Blue.", "rejected": "Green."}, id="messages with text responses"),
        pytest.param({"prompt": "Sky?", "chosen": [A], "rejected": [B]}, id="text with message responses"),
        pytest.param({"chosen": [Q, A], "rejected": [Q, B]}, id="implicit conversational"),
        pytest.param({"prompt": None, "chosen": [Q, A], "rejected": [Q, B]}, id="null prompt"),
        pytest.param({"prompt": "Sky? ", "chosen": [Q, A], "rejected": [Q, B]}, id="ultrafeedback"),
        pytest.param({"prompt": [Q], "chosen": [Q, A], "rejected": [Q, B]}, id="redundant prompt messages"),
        pytest.param({"chosen": HH + "Blue.", "rejected": HH + "Green."}, id="hh"),
        pytest.param({"chosen": HH[2:] + "Blue.", "rejected": HH[2:] + "Green."}, id="hh without first blank line"),
        pytest.param({"prompt": HH, "chosen": " Blue.", "rejected": " Green."}, id="hh with explicit prompt"),
        pytest.param({"prompt": [Q], "chosen": [A], "rejected": [B], "score": 1, "id": None}, id="other columns"),
        pytest.param(
            {"prompt": [Q | {"name": None}], "chosen": [A | {"tool_calls": None}], "rejected": [B]}, id="other keys"
        ),
        pytest.param(
            {"prompt": [Q], "chosen": [A], "rejected": [B], "question": "Sky", "system": " ", "images": []},
            id="columns that add nothing",
        ),
        pytest.param({"question": "Sky?", "chosen": [Q, A], "rejected": [Q, B]}, id="conversations and question"),
        pytest.param({"input": [Q], "chosen": HH + "Blue.", "rejected": HH + "Green."}, id="hh and question"),
    ],
)
def test_formats_of_the_same_conversational_pair(row: dict[str, Any]) -> None:
    assert pair_of(row) == PAIR


def test_a_longer_conversation_with_a_system_message() -> None:
    turns = [system(""), Q, A, user("Sure?")]
    expected = PreferencePair(turns, [assistant("Yes.")], [assistant("No.")], AT)
    row = {"chosen": [*turns, assistant("Yes.")], "rejected": [*turns, assistant("No.")]}
    assert pair_of(row) == expected
    assert pair_of({"prompt": turns, "chosen": [assistant("Yes.")], "rejected": [assistant("No.")]}) == expected


def test_a_system_column_that_repeats_the_system_message() -> None:
    row = {"prompt": [system("Be terse."), Q], "chosen": [A], "rejected": [B]}
    assert pair_of(row | {"system": "Be terse.\n"}) == pair_of(row)


def test_messages_that_begin_with_the_prompt_say_nothing_new() -> None:
    """Rows of HuggingFaceH4/ultrafeedback_binarized hold the chosen conversation once more."""
    assert pair_of(explicit(messages=[Q, A], instruction=Q["content"])) == PAIR
    assert pair_of({"messages": [Q, A], "chosen": [Q, A], "rejected": [Q, B]}) == PAIR
    assert pair_of({"prompt": "Sky?", "messages": [user("Sky?"), A], "chosen": "a", "rejected": "b"}).prompt == "Sky?"


def test_a_question_that_both_strings_begin_with() -> None:
    row = {"chosen": "The sky is blue.", "rejected": "The sky is green."}
    assert pair_of(row | {"question": "The sky"}) == pair_of(row)


def test_a_response_is_one_turn() -> None:
    """The user's turn in between would be scored as if the policy had written it."""
    row = {"prompt": [Q], "chosen": [A, user("Sure?"), assistant("Yes.")], "rejected": [B]}
    assert pair_of(row) == BadRow(AT, "chosen has 3 messages; only the last turn of a conversation can be compared")


def test_explicit_standard_text_stays_as_it_is() -> None:
    row = {"prompt": "The sky is", "chosen": " blue.", "rejected": " green.\n"}
    result = pair_of(row)
    assert result == PreferencePair("The sky is", " blue.", " green.\n", AT)
    assert not result.conversational


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        ("The sky is blue.", "The sky is green.", ("The sky is", " blue.", " green.")),
        ("The sky is blue.", "The sky is black.", ("The sky is", " blue.", " black.")),  # TRL: "The sky is b"
        ("Q: sky?\nA: blue", "Q: sky?\nB: blue", ("Q: sky?", "\nA: blue", "\nB: blue")),
        ("The sky is blue", "The sky is", ("The sky", " is blue", " is")),
        ("The sky is blue", "The sky is\tred", ("The sky is", " blue", "\tred")),
    ],
)
def test_implicit_standard_prompt_is_the_common_words(chosen: str, rejected: str, expected: tuple[str, ...]) -> None:
    assert pair_of({"chosen": chosen, "rejected": rejected}) == PreferencePair(*expected, AT)


@given(st.text("ab \n", min_size=1), st.text("ab \n"), st.text("ab \n"))
def test_implicit_standard_parts_add_up_and_no_word_is_torn(prompt: str, one: str, other: str) -> None:
    chosen, rejected = prompt + one, prompt + other
    (result,) = row_to_pairs({"chosen": chosen, "rejected": rejected}, AT)
    if isinstance(result, PreferencePair):
        assert result.prompt + result.chosen == chosen
        assert result.prompt + result.rejected == rejected
        assert result.chosen[0].isspace()
        assert result.rejected[0].isspace()


# HH-RLHF ------------------------------------------------------------------------------------------------------------

turn_text = (
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
    .map(str.strip)
    .filter(lambda text: text and "\n\nHuman:" not in text and "\n\nAssistant:" not in text)
)


def written(messages: list[dict[str, str]]) -> str:
    names = {"user": "Human", "assistant": "Assistant"}
    return "".join(f"\n\n{names[message['role']]}: {message['content']}" for message in messages)


@given(st.lists(turn_text, min_size=1, max_size=5))
def test_hh_text_gives_back_its_turns(texts: list[str]) -> None:
    messages = [(user, assistant)[at % 2](text) for at, text in enumerate(texts)]
    assert parse_hh(written(messages)) == messages


@given(st.lists(turn_text, min_size=1, max_size=5).filter(lambda texts: len(texts) % 2), turn_text, turn_text)
def test_hh_pair_is_the_pair_of_its_messages(texts: list[str], one: str, other: str) -> None:
    prompt = [(user, assistant)[at % 2](text) for at, text in enumerate(texts)]
    sides = {"chosen": [*prompt, assistant(one)], "rejected": [*prompt, assistant(other)]}
    assert pair_of({side: written(turns) for side, turns in sides.items()}) == pair_of(sides)


@given(st.text())
def test_hh_parser_never_fails_in_another_way(text: str) -> None:
    for result in row_to_pairs({"chosen": "\n\nHuman:" + text, "rejected": "\n\nHuman: a\n\nAssistant: b"}, AT):
        assert isinstance(result, (PreferencePair, BadRow))


def test_hh_text_that_speaks_of_turns_is_reported() -> None:
    inside = "\n\nHuman: Write\n\nHuman: twice\n\nAssistant: "
    reason = reason_of({"chosen": inside + "A", "rejected": inside + "B"})
    assert reason == "role order: message 2 of chosen is 'user' after 'user'"


# DSP ----------------------------------------------------------------------------------------------------------------

STYLES = {"academy": "Thus.", "business": "Buy!", "normal": "Yes."}


def test_dsp_gives_one_pair_for_each_other_style() -> None:
    assert row_to_pairs({"query": "Why?", "responses": STYLES}, AT, "business") == [
        PreferencePair([user("Why?")], [assistant("Buy!")], [assistant("Thus.")], AT),
        PreferencePair([user("Why?")], [assistant("Buy!")], [assistant("Yes.")], AT),
    ]


def test_dsp_without_a_style_is_an_error_that_names_the_styles() -> None:
    with pytest.raises(DataError, match=r"train.jsonl:17 .*\(academy, business, normal\)(.|\n)*hint: .*--style NAME"):
        row_to_pairs({"query": "Why?", "responses": STYLES}, AT)


@pytest.mark.parametrize(
    ("query", "responses", "reasons"),
    [
        ("Why?", STYLES, ["no response in style 'x' (styles: academy, business, normal)"]),
        ("Why?", {}, ["no response in style 'x' (styles: none)"]),
        ("Why?", {"x": "A"}, ["no style besides 'x' to compare with"]),
        ("Why?", {"x": "A", "y": None}, ["no style besides 'x' to compare with"]),
        (" ", {"x": "A", "y": "B"}, ["query is empty"]),
        ("Why?", {"x": "", "y": "B", "z": "C"}, ["x is empty"]),
        ("Why?", {"x": "A", "y": " ", "z": "A"}, ["x against y: y is empty", "x against z: chosen and rejected are"]),
        ("Why?", {"x": "A", "y": 7}, ["x against y: y is of type int, expected text"]),
    ],
)
def test_dsp_bad_rows(query: str, responses: dict[str, Any], reasons: list[str]) -> None:
    results = row_to_pairs({"query": query, "responses": responses}, AT, "x")
    assert len(results) == len(reasons)
    for result, reason in zip(results, reasons, strict=True):
        assert isinstance(result, BadRow)
        assert result.location == AT
        assert result.reason.startswith(reason)


def test_dsp_bad_pair_leaves_the_others() -> None:
    first, second = row_to_pairs({"query": "Why?", "responses": {"x": "A", "y": "A", "z": "B"}}, AT, "x")
    assert isinstance(first, BadRow)
    assert second == PreferencePair([user("Why?")], [assistant("A")], [assistant("B")], AT)


# Bad rows -----------------------------------------------------------------------------------------------------------


def explicit(**fields: Any) -> dict[str, Any]:
    return {"prompt": [Q], "chosen": [A], "rejected": [B]} | fields


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "unknown format: needs the fields 'chosen' and 'rejected', found none"),
        ({"text": 1, "label": 2}, "unknown format: needs the fields 'chosen' and 'rejected', found 'text', 'label'"),
        ({"prompt": [Q], "chosen": [A]}, "missing field 'rejected'"),
        ({"rejected": "a"}, "missing field 'chosen'"),
        (explicit(rejected=None), "missing field 'rejected'"),
        ({"query": "a"}, "missing field 'responses'"),
        ({"responses": {"a": "b"}}, "missing field 'query'"),
        ({"query": "a", "responses": "b"}, "responses is of type str, expected an object with one text for each style"),
        ({"chosen": [A], "rejected": [B]}, "missing field 'prompt', and chosen and rejected start with the assistant"),
        (
            {"chosen": "Blue.", "rejected": "Green."},
            "missing field 'prompt', and chosen and rejected do not begin alike",
        ),
        (explicit(chosen=7), "chosen is of type int, expected text or messages"),
        (explicit(prompt={"role": "user"}), "prompt is of type dict, expected text or messages"),
        (explicit(chosen="Blue."), "of chosen and rejected, one is text and one is messages"),
        # empty
        (explicit(prompt=[]), "prompt is empty"),
        (explicit(chosen=[]), "chosen is empty"),
        (explicit(rejected=[assistant(" \n")]), "rejected is empty"),
        (explicit(prompt=[user("")]), "message 1 of prompt is empty"),
        ({"prompt": "a", "chosen": "b", "rejected": " "}, "rejected is empty"),
        ({"prompt": "", "chosen": "b", "rejected": "c"}, "prompt is empty"),
        ({"chosen": HH + "Blue.", "rejected": HH}, "rejected is empty"),
        ({"chosen": [Q, assistant(""), Q, A], "rejected": [Q, A]}, "message 2 of chosen is empty"),
        # identical
        (explicit(rejected=[A]), "chosen and rejected are identical"),
        (explicit(rejected=[assistant("Blue.\n")]), "chosen and rejected differ in outer white space only"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "chosen and rejected are identical"),
        ({"prompt": "a", "chosen": "b", "rejected": " b"}, "chosen and rejected differ in outer white space only"),
        ({"chosen": "a b", "rejected": "a b"}, "chosen and rejected are identical"),
        ({"chosen": HH + "Blue.", "rejected": HH + "Blue."}, "chosen and rejected are identical"),
        # prompts that differ
        ({"chosen": [Q, A, Q, A], "rejected": [Q, B, Q, B]}, "prompts differ at message 2"),
        ({"chosen": [Q, A], "rejected": [Q, A, Q, B]}, "prompts differ at message 2"),
        ({"chosen": HH + "A", "rejected": HH.replace("Sky", "Sea") + "B"}, "prompts differ at message 1"),
        (
            {"prompt": "Sea?", "chosen": [Q, A], "rejected": [Q, B]},
            "the prompt differs from the first user message of chosen",
        ),
        ({"prompt": [Q, A, Q], "chosen": [Q, B], "rejected": [Q, A]}, "the prompt differs from chosen at message 2"),
        # roles
        (explicit(prompt=[user("a"), user("b")]), "role order: message 2 of prompt is 'user' after 'user'"),
        (explicit(prompt=[A, Q]), "role order: message 1 of prompt is 'assistant' where 'user' must come"),
        (explicit(prompt=[Q, system("a")]), "role order: message 2 of prompt is 'system' after 'user'"),
        (explicit(prompt=[system("a")]), "role order: prompt ends with 'system', must end with 'user'"),
        (explicit(prompt=[Q, A]), "role order: prompt ends with 'assistant', must end with 'user'"),
        (explicit(chosen=[A, Q]), "role order: chosen ends with 'user', must end with 'assistant'"),
        (explicit(chosen=[A, A]), "role order: message 2 of chosen is 'assistant' after 'assistant'"),
        (explicit(rejected=[Q, B]), "role order: message 1 of rejected is 'user' after 'user'"),
        ({"chosen": [Q, A, Q], "rejected": [Q, B]}, "role order: chosen ends with 'user', must end with 'assistant'"),
        ({"chosen": [Q, Q, A], "rejected": [Q, B]}, "role order: message 2 of chosen is 'user' after 'user'"),
        (explicit(prompt=[{"role": "bot", "content": "a"}]), "role 'bot' is unknown (system, user, assistant)"),
        (explicit(prompt=[{"role": ["user"], "content": "a"}]), "role ['user'] is unknown (system, user, assistant)"),
        # messages
        (explicit(prompt=["a"]), "message 1 of prompt is not an object with role and content"),
        (explicit(chosen=[{"content": "a"}]), "message 1 of chosen has no 'role'"),
        (explicit(chosen=[{"role": "assistant", "content": None}]), "message 1 of chosen has no 'content'"),
        (explicit(chosen=[{"from": "gpt", "value": "a"}]), "message 1 of chosen has no 'role'"),
        (
            explicit(chosen=[{"role": "assistant", "content": [{"type": "text"}]}]),
            "content of message 1 of chosen is of type list, not text",
        ),
        (
            explicit() | {"tools": [{"name": "search"}]},
            "'tools' would change the prompt that the chat template writes, and is not supported",
        ),
        (
            explicit() | {"chat_template_kwargs": {"enable_thinking": False}},
            "'chat_template_kwargs' would change the prompt that the chat template writes, and is not supported "
            "for one row; the option of that name is for all",
        ),
        (
            explicit(chosen=[A | {"reasoning_content": "hm"}]),
            "message 1 of chosen has 'reasoning_content' apart from its content, which is not supported",
        ),
        (explicit(chosen=[A | {"tool_calls": [1]}]), "message 1 of chosen has tool calls, which are not supported"),
        (
            explicit(chosen=[assistant("\ud83d")]),
            "message 1 of chosen holds a lone surrogate '\\ud83d', which is no character",
        ),
        (
            {"prompt": "a", "chosen": "\udc00", "rejected": "b"},
            "chosen holds a lone surrogate '\\udc00', which is no character",
        ),
        # columns of no format that hold the question, a system message or a picture
        (
            {"system": "Be terse.", "question": "2+2?", "chosen": "The answer is 4.", "rejected": "The answer is 5."},
            "missing field 'prompt', and 'question' would be lost, since no format reads it beside chosen and "
            "rejected: rename that column to 'prompt'",
        ),
        (
            {"instruction": "Add.", "input": "2, 2", "chosen": "Four.", "rejected": "Five.", "prompt": None},
            "missing field 'prompt', and 'instruction', 'input' would be lost, since no format reads it beside chosen "
            "and rejected: make one column 'prompt' of them",
        ),
        (
            {"query": "Sky?", "chosen": [A], "rejected": [B]},
            "missing field 'prompt', and 'query' would be lost, since no format reads it beside chosen and rejected: "
            "rename that column to 'prompt'",
        ),
        (
            {"question": [user("Sea?")], "chosen": [Q, A], "rejected": [Q, B]},
            "missing field 'prompt', and 'question' would be lost, since no format reads it beside chosen and "
            "rejected: rename that column to 'prompt'",
        ),
        *(
            (
                row | {"system": "Be terse."},
                "'system' would be lost, since no format reads it: make it the first message of 'prompt', with the "
                "role 'system', or remove the column",
            )
            for row in (
                explicit(),
                {"prompt": "Sky?", "chosen": "Blue.", "rejected": "Green."},
                {"query": "Why?", "responses": STYLES},
            )
        ),
        (
            {"messages": [user("Sea?")], "chosen": "The sky.", "rejected": "The sea."},
            "missing field 'prompt', and 'messages' would be lost, since no format reads it beside chosen and "
            "rejected: rename that column to 'prompt'",
        ),
        (
            {"context": "At sea.", "messages": [Q], "chosen": [A], "rejected": [B]},
            "missing field 'prompt', and 'context', 'messages' would be lost, since no format reads it beside chosen "
            "and rejected: make one column 'prompt' of them",
        ),
        *(
            (
                explicit(**{name: value}),
                f"{name!r} would be lost beside the prompt: make it part of the prompt (a system message is the first "
                "of its messages), or remove the column",
            )
            for name, value in {"input": "A text", "history": [["Sea?", "Deep."]], "context": "At sea."}.items()
        ),
        (
            explicit(messages=[{"role": "system", "content": "Be terse."}, Q, A]),
            "'messages' would be lost beside 'prompt', which is not what they begin with: remove one column",
        ),
        (explicit(images=["sky.png"]), "'images' belongs to the prompt, and only text is supported"),
        (explicit(image={"bytes": b"", "path": "a"}), "'image' belongs to the prompt, and only text is supported"),
        (
            explicit(system=7),
            "'system' would be lost, since no format reads it: make it the first message of 'prompt', "
            "with the role 'system', or remove the column",
        ),
        # HH-RLHF text
        (
            {"chosen": HH + "A", "rejected": "Once. " + HH + "B"},
            "rejected does not start with a 'Human:' turn, but the row is HH-RLHF text",
        ),
        (
            {"chosen": "\n\nHuman: a\n\nHuman: b\n\nAssistant: c", "rejected": HH + "B"},
            "role order: message 2 of chosen is 'user' after 'user'",
        ),
        (
            {"chosen": "\n\nAssistant: a\n\nHuman: b\n\nAssistant: c", "rejected": HH + "B"},
            "role order: message 1 of chosen is 'assistant' where 'user' must come",
        ),
        (
            {"chosen": "\n\nHuman: a", "rejected": HH + "B"},
            "role order: chosen ends with 'user', must end with 'assistant'",
        ),
    ],
)
def test_bad_rows_give_their_reason(row: dict[str, Any], reason: str) -> None:
    assert reason_of(row) == reason


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


fields = ["prompt", "chosen", "rejected", "query", "responses", "question", "system", "images"]


@given(st.dictionaries(st.sampled_from(fields), json_values))
def test_no_row_is_dropped_or_raises(row: dict[str, Any]) -> None:
    assert row_to_pairs(row, AT, "x")


def test_a_standard_pair_as_conversation_is_stripped() -> None:
    assert as_conversation(PreferencePair("The sky is ", " blue.", " red.\n", AT)) == PreferencePair(
        [user("The sky is")], [assistant("blue.")], [assistant("red.")], AT
    )
    assert as_conversation(PAIR) is PAIR


def test_the_indentation_of_code_is_kept_in_a_conversation() -> None:
    pair = PreferencePair("Complete:\ndef f(x):\n", "\n \n    y = x\n    return y\n", "\tpass", AT)
    assert as_conversation(pair) == PreferencePair(
        [user("Complete:\ndef f(x):")], [assistant("    y = x\n    return y")], [assistant("\tpass")], AT
    )
