from __future__ import annotations

import io
from pathlib import Path
from typing import Protocol

import pytest

from qadapter.cli.chat import Chat
from qadapter.cli.main import main


class Talk(Protocol):
    def __call__(self, *lines: str, flags: tuple[str, ...] = ()) -> str: ...


@pytest.fixture
def chat(trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Talk:
    """Lines in, what the conversation prints out, after its first line."""

    def talk(*lines: str, flags: tuple[str, ...] = ()) -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in lines)))
        assert main(["chat", str(trained), "--max-new-tokens", "6", *flags]) == 0
        return capsys.readouterr().out.partition("\n")[2]

    return talk


def test_the_end_of_the_input_and_quit_leave(chat: Talk) -> None:
    assert chat() == ""
    assert chat("/quit", "/help") == ""


def test_the_answer_is_that_of_generate(chat: Talk, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    streamed = chat("Is the cat?").replace("(stopped after 6 tokens; --max-new-tokens allows more)\n", "")
    assert main(["generate", str(trained), "Is the cat?", "--max-new-tokens", "6"]) == 0
    assert streamed.strip() == capsys.readouterr().out.strip()


def test_the_history_reaches_the_model_until_reset(chat: Talk) -> None:
    first, both = chat("Is the cat?"), chat("Is the dog?", "Is the cat?")
    assert not both.endswith(first)
    after_reset = chat("Is the dog?", "/reset", "Is the cat?")
    assert after_reset.endswith("the conversation is forgotten\n" + first)


def test_an_empty_system_message_is_one(trained: Path) -> None:
    def system(text: str | None) -> list:
        return Chat(None, None, 1.0, text, 6, {}).system

    assert (system(None), system("")) == ([], [{"role": "system", "content": ""}])


def test_strength_and_base(chat: Talk) -> None:
    out = chat("/strength", "/strength 0.5", "/base", "/strength", "/base", "/strength -1", "/strength much")
    assert out.splitlines() == [
        "strength 1",
        "strength 0.5",
        "base model; /base goes back",
        "base model; /base goes back",
        "strength 0.5",
        "/strength must not be negative, got -1",
        "/strength must be a number, got 'much'",
    ]
    assert chat("/base", "Is the cat?").partition("goes back\n")[2] == chat("Is the cat?", flags=("--strength", "0"))


def test_base_is_the_base_at_its_own_temperature(chat: Talk) -> None:
    """Strength 0 is π₀^(α₀/α̃): with the paper's α₀ of 0.01, noise."""
    sampled, alpha_0 = ("--temperature", "1", "--seed", "3"), ("--alpha-0", "0.01")
    assert chat("/base", "Is the cat?", flags=sampled) == chat("/base", "Is the cat?", flags=(*sampled, *alpha_0))
    noise = chat("/strength 0", "Is the cat?", flags=(*sampled, *alpha_0))
    assert noise != chat("/strength 0", "Is the cat?", flags=sampled)
    compared = chat("Is the cat?", "/compare", flags=("--alpha-0", "0"))
    answer = compared.partition("== base ==\n")[2].partition("== strength 0.5 ==")[0]
    assert answer == chat("Is the cat?", flags=("--strength", "0"))


def test_compare_answers_the_last_message_at_three_strengths(chat: Talk) -> None:
    out = chat("/compare", "Is the cat?", "/compare")
    assert out.startswith("/compare answers the last message again, and there is none yet\n")
    parts = out.partition("== base ==\n")[2].partition("== strength 0.5 ==\n")
    assert parts[0] == chat("Is the cat?", flags=("--strength", "0"))
    assert parts[2].partition("== strength 1 ==\n")[2] == chat("Is the cat?")
    # Comparing leaves the conversation as it was.
    second = chat("Is the cat?", "Is the dog?").removeprefix(chat("Is the cat?"))
    assert chat("Is the cat?", "/compare", "Is the dog?").endswith(second)


def test_wrong_input_explains_itself(chat: Talk) -> None:
    assert chat("/strenght 1") == "unknown command /strenght (did you mean '/strength'?); /help lists them\n"
    assert "/compare" in chat("/help")
    out = chat("Hi", "/strength 1", flags=("--strength", "0", "--alpha-0", "0"))
    assert "error: strength 0 with alpha_0 0 leaves no policy" in out
    assert out.endswith("strength 1\n")


def test_a_line_in_another_encoding_costs_the_line_alone(
    chat: Talk, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And not those behind it, which a pipe hands over together with it."""
    lines = io.BytesIO("caf\u00e9\n".encode("latin-1") + b"Is the cat?\n/strength\n")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(lines, "utf-8"))
    assert main(["chat", str(trained), "--max-new-tokens", "6"]) == 0
    said = capsys.readouterr().out.partition("\n")[2]
    assert said == "error: this line is not UTF-8: b'caf\\xe9'\n" + chat("Is the cat?", "/strength")


def test_a_long_history_is_shortened_with_a_message(chat: Talk) -> None:
    out = chat(*["Is the cat like the owl? " * 12] * 6)
    assert "(the model has 512 positions: it no longer sees the oldest 2 messages)" in out
    too_long = chat("cat " * 600)
    assert "not sent" in too_long
    assert "512 positions" in too_long
