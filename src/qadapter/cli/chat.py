"""`qadapter chat`: talk to an adapter on the terminal and turn its dial while talking."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, QAdapterError, did_you_mean
from .decoding import add_decoding_flags, checked_words, dial, load, not_negative

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..generate import Answer
    from ..model import QAdapterForCausalLM

Message = dict[str, str]

_HELP = """\
/strength S   answer at strength S: 1 is what was trained, 0 the base model (at temperature α̃/α₀); without S, show it
/base         switch to the base model, and back
/compare      answer the last message with the base model, at strength 0.5 and at strength 1
/reset        forget the conversation
/help         this list
/quit         leave (so does the end of the input)"""

_COMPARED = (None, 0.5, 1.0)


def add_parser(subparsers: Any) -> None:
    """Register `chat`.

    Args:
        subparsers: what `ArgumentParser.add_subparsers` returned. `args.run(args)` returns the exit status.
    """
    parser = subparsers.add_parser("chat", help="talk to an adapter on the terminal", description="Commands: /help")
    parser.add_argument("directory", metavar="DIR", help="the folder that `qadapter train` wrote, or its hub id")
    parser.add_argument(
        "--strength", type=not_negative, default=1.0, metavar="S", help="to begin with (default: %(default)s)"
    )
    add_decoding_flags(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Talk until /quit or the end of the input.

    Returns:
        0.

    Raises:
        QAdapterError: an artifact that cannot be used, or a model without a chat template.
    """
    decoding = dial(args)
    model, tokenizer = load(args)
    if not tokenizer.chat_template:
        raise ConfigError(
            "chat needs a chat model: this tokenizer has no chat template.", hint="use `qadapter generate`"
        )
    chat = Chat(model, tokenizer, args.strength, args.system, args.max_new_tokens, decoding)
    print(f"{args.directory} at strength {args.strength:g}; /help lists the commands")
    if isinstance(sys.stdin, io.TextIOWrapper):
        # A strict reader would lose the lines behind one in another encoding as well.
        sys.stdin.reconfigure(errors="surrogateescape")
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return 0
        if line == "/quit":
            return 0
        try:
            chat.take(checked_words(line, "this line"))
        except QAdapterError as error:
            print(f"error: {error}")
        except KeyboardInterrupt:
            print("\n(stopped; this answer is not part of the conversation)")


class Chat:
    """A conversation and the dial. It prints to standard output.

    Args:
        model: the model.
        tokenizer: its tokenizer, with a chat template.
        strength: of the answers, to begin with.
        system: system message, kept when the conversation is reset.
        max_new_tokens: most tokens of an answer.
        decoding: arguments of `generate()`.
    """

    def __init__(
        self,
        model: QAdapterForCausalLM,
        tokenizer: PreTrainedTokenizerBase,
        strength: float,
        system: str | None,
        max_new_tokens: int,
        decoding: dict[str, Any],
    ) -> None:
        self.model, self.tokenizer, self.decoding, self.max_new_tokens = model, tokenizer, decoding, max_new_tokens
        self.strength = strength
        self.at_base = False
        self.system: list[Message] = [{"role": "system", "content": system}] if system is not None else []
        self.history: list[Message] = []

    def take(self, line: str) -> None:
        """Answer a message, or do what a command says. Raises `QAdapterError` where the model cannot answer."""
        commands: dict[str, Callable[[str], None]] = {
            "/strength": self._set_strength,
            "/base": self._toggle_base,
            "/compare": self._compare,
            "/reset": self._reset,
            "/help": lambda _: print(_HELP),
        }
        if not line.startswith("/"):
            if line:
                self._talk(line)
            return
        name, _, rest = line.partition(" ")
        if name in commands:
            commands[name](rest.strip())
        else:
            print(f"unknown command {name}{did_you_mean(name, [*commands, '/quit'])}; /help lists them")

    def _talk(self, text: str) -> None:
        messages = self._fitting([*self.history, {"role": "user", "content": text}])
        if messages:
            answer = self._answer(messages, None if self.at_base else self.strength)
            self.history = [*messages, {"role": "assistant", "content": answer.text}]

    def _compare(self, rest: str) -> None:
        last = max((i for i, message in enumerate(self.history) if message["role"] == "user"), default=None)
        if last is None:
            print("/compare answers the last message again, and there is none yet")
            return
        for strength in _COMPARED:
            print(f"== {'base' if strength is None else f'strength {strength:g}'} ==")
            self._answer(self.history[: last + 1], strength)

    def _set_strength(self, rest: str) -> None:
        if rest:
            try:
                self.strength = not_negative(rest)
            except argparse.ArgumentTypeError as error:
                print(f"/strength {error}")
                return
            self.at_base = False
        self._say_policy()

    def _toggle_base(self, rest: str) -> None:
        self.at_base = not self.at_base
        self._say_policy()

    def _say_policy(self) -> None:
        print("base model; /base goes back" if self.at_base else f"strength {self.strength:g}")

    def _reset(self, rest: str) -> None:
        self.history = []
        print("the conversation is forgotten")

    def _answer(self, messages: list[Message], strength: float | None) -> Answer:
        """Print an answer while it is written. Without a strength it is the base's own, whatever α₀/α̃ is."""
        from transformers import TextStreamer

        from ..evaluate.policy import policy_at
        from ..generate import answer_prompts

        # Flags that change the mixture do not change the base.
        base = {"alpha_tilde": None, **policy_at(self.model, 0.0)}
        dial = base if strength is None else {"strength": strength}
        streamer = TextStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        (answer,) = answer_prompts(
            self.model,
            self.tokenizer,
            [[*self.system, *messages]],
            max_new_tokens=self.max_new_tokens,
            streamer=streamer,
            **self.decoding | dial,
        )
        if not answer.finished:
            print(f"(stopped after {self.max_new_tokens} tokens; --max-new-tokens allows more)")
        return answer

    def _fitting(self, messages: list[Message]) -> list[Message]:
        """The latest exchanges that leave room for an answer; says what it leaves out. Empty where nothing fits."""
        from ..data import encode_prompt

        room = self.model.max_positions
        dropped = 0
        while room is not None:
            tokens = len(encode_prompt([*self.system, *messages], self.tokenizer)) + self.max_new_tokens
            if tokens <= room:
                break
            if len(messages) <= 2:
                print(
                    f"this message with an answer of {self.max_new_tokens} tokens takes {tokens} tokens, and the model "
                    f"has {room} positions: not sent; shorten it, or start with a smaller --max-new-tokens"
                )
                return []
            messages, dropped = messages[2:], dropped + 2
        if dropped:
            print(f"(the model has {room} positions: it no longer sees the oldest {dropped} messages)")
        return messages
