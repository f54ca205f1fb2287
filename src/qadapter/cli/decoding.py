"""The flags and the loading that `generate` and `chat` share."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..model import QAdapterForCausalLM


def add_decoding_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of loading an artifact and of decoding, but for the strength."""
    parser.add_argument("--alpha-0", type=not_negative, metavar="A", help="weight of the base (default: trained)")
    parser.add_argument(
        "--alpha-tilde", type=positive, metavar="A", help="entropy temperature of the mixed policy (default: trained)"
    )
    parser.add_argument(
        "--max-new-tokens", type=count, default=256, metavar="N", help="tokens of an answer (default: %(default)s)"
    )
    parser.add_argument("--system", type=_text, metavar="TEXT", help="system message")
    parser.add_argument(
        "--temperature", type=not_negative, default=0.0, metavar="T", help="0 is greedy (default: %(default)s)"
    )
    parser.add_argument("--top-p", type=_share, metavar="P", help="sample from the most likely tokens of mass P")
    parser.add_argument("--seed", type=_seed, default=0, help="of sampling (default: %(default)s)")
    add_loading_flags(parser)


def add_loading_flags(parser: argparse.ArgumentParser, *, as_saved: bool = False) -> None:
    """The flags of loading an artifact onto its base.

    Args:
        parser: receives them.
        as_saved: without --dtype the weights stay in the dtype of the checkpoint on every machine.
    """
    parser.add_argument("--base", metavar="ID|DIR", help="where the base model lies (default: as trained; checked)")
    parser.add_argument(
        "--dtype",
        choices=("auto", "bfloat16", "float16", "float32"),
        default="auto" if as_saved else None,
        help="of the weights; auto is the checkpoint's (default: auto"
        + (")" if as_saved else "; float32 on a CPU without bfloat16 instructions)"),
    )
    parser.add_argument(
        "--load-in", choices=("8bit", "4bit"), help="store the base's linear layers so (extra: quantized)"
    )
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the base model")


def dial(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `generate()` that the flags set, but for the strength.

    Raises:
        ConfigError: --top-p without a temperature.
    """
    if args.top_p is not None and not args.temperature:
        raise ConfigError("--top-p has no effect on greedy decoding.", hint="add --temperature 1")
    chosen: dict[str, Any] = {"alpha_0": args.alpha_0, "alpha_tilde": args.alpha_tilde}
    if args.temperature:
        # transformers would cut the tail of the distribution; what is asked for is the policy.
        chosen |= {"do_sample": True, "temperature": args.temperature, "top_p": args.top_p or 1.0, "top_k": 0}
    return chosen


def load(args: argparse.Namespace) -> tuple[QAdapterForCausalLM, PreTrainedTokenizerBase]:
    """The model, on the GPU if there is one, and its tokenizer; the seed is set.

    Raises:
        ArtifactError: not an artifact, damaged, or trained on another base.
    """
    from transformers import set_seed

    from ..model import QAdapterForCausalLM, decoding_device, load_tokenizer, machine_dtype
    from .quiet import quiet_libraries

    quiet_libraries()
    tokenizer = load_tokenizer(args.directory, trust_remote_code=args.trust_remote_code)
    model = QAdapterForCausalLM.from_pretrained(
        args.directory,
        args.base,
        dtype=args.dtype or machine_dtype("auto", decoding_device()),
        load_in=args.load_in,
        trust_remote_code=args.trust_remote_code,
    )
    if decoding_device() != "cpu":
        model.to(decoding_device())
    set_seed(args.seed)
    return model, tokenizer


def not_negative(text: str) -> float:
    """A finite number ≥ 0, for argparse."""
    value = _number(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, got {text}")
    return value


def positive(text: str) -> float:
    """A finite number > 0, for argparse."""
    value = _number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def _share(text: str) -> float:
    value = positive(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"must be at most 1, got {text}")
    return value


def _seed(text: str) -> int:
    # What numpy's generator takes.
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to {2**32 - 1}, got {text!r}")
    return int(text)


def _text(text: str) -> str:
    try:
        return checked_words(text, "the text")
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def checked_words(text: str, what: str) -> str:
    """A text from a command line or a terminal.

    Raises:
        ConfigError: it holds bytes that are no UTF-8, which Python keeps as half characters.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        shown = text.encode("utf-8", "surrogateescape" if error.object[error.start] >= "\udc80" else "replace")
        raise ConfigError(f"{what} is not UTF-8: {shown[:80]!r}") from None
    return text


def count(text: str) -> int:
    """A whole number ≥ 1, for argparse."""
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be finite, got {text}")
    return value
