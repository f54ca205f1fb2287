"""Text from tokens, stop strings, and the choice of tokens."""

from __future__ import annotations

import random
from functools import cache

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from served_model import SPECIAL, byte_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from qadapter.core import Mixture
from qadapter.serve.engine import Delta, Policy, Request, Sampling
from qadapter.serve.engine.choice import Choice, special_stops
from qadapter.serve.engine.detokenizer import Detokenizer
from qadapter.serve.engine.sampling import Sampler, choose, nucleus
from qadapter.serve.engine.stop_strings import StopStrings

TOKENIZER = byte_tokenizer()
END = TOKENIZER.convert_tokens_to_ids("<|im_end|>")
# Bytes that are no character alone, and the three beginnings of one that has four.
PARTS = [TOKENIZER("🙂", add_special_tokens=False)["input_ids"][:length] for length in (1, 2, 3)]
PIECES = st.sampled_from([*PARTS, *PARTS, *TOKENIZER(list("aé🙂\ufffd"), add_special_tokens=False)["input_ids"], [END]])
TEXTS = st.text(st.sampled_from("ab é√🙂\n"), max_size=12)


@given(
    st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=24)
    | st.lists(PIECES, min_size=8, max_size=40).map(lambda pieces: [token for piece in pieces for token in piece])
)
@example(PARTS[0] * 14 + [END] * 3 + TOKENIZER("🙂", add_special_tokens=False)["input_ids"][1:])
def test_pieces_make_the_text_of_all_tokens(ids: list[int]) -> None:
    """Of any tokens: bytes that make no character, long rows of them, and special tokens too."""
    detokenizer = Detokenizer(TOKENIZER)
    pieces = [detokenizer.push(token) for token in ids] + [detokenizer.flush()]
    assert "".join(pieces) == TOKENIZER.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@given(st.lists(st.integers(1, 7), max_size=24))
def test_special_tokens_without_a_role_are_left_out_too(ids: list[int]) -> None:
    """A text goes on behind them as if they were not there: it keeps the space that it would lose at its beginning."""
    tokenizer = tokenizer_with_header()
    detokenizer = Detokenizer(tokenizer)
    text = "".join([detokenizer.push(token) for token in ids] + [detokenizer.flush()])
    assert text == tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@cache
def tokenizer_with_header() -> PreTrainedTokenizerFast:
    """One of the SentencePiece family with two more tokens: a special one, and one that is text."""
    pieces = ["<unk>", "▁the", "▁", "a", ".", "。"]
    inner = Tokenizer(models.BPE({piece: index for index, piece in enumerate(pieces)}, merges=[], unk_token="<unk>"))
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    tokenizer.add_tokens([AddedToken("<|header|>", special=True), AddedToken("<tool>", special=False)])
    assert not {6, 7}.intersection(tokenizer.all_special_ids)
    return tokenizer


@pytest.mark.parametrize("repeated", [PARTS[0], PARTS[1], TOKENIZER("\ufffd", add_special_tokens=False)["input_ids"]])
def test_what_never_becomes_a_character_is_shown_and_forgotten(repeated: list[int]) -> None:
    """Else nothing would be streamed, and each further token would take longer than the one before."""
    detokenizer = Detokenizer(TOKENIZER)
    ids = repeated * 40
    shown = "".join(detokenizer.push(token) for token in ids)
    assert len(detokenizer.ids) < 40
    assert 20 < len(shown) < 40
    assert shown + detokenizer.flush() == TOKENIZER.decode(ids) == "\ufffd" * 40


@given(st.lists(st.sampled_from([*"rrrss", *"\x82\xac\xe2\xf0\xff"]), max_size=40))
@example(["\xe2", *["r"] * 40])
@example(["\xf0", *["r"] * 14, *["s"] * 8])
def test_tokens_may_end_one_character_and_begin_the_next(tokens: list[str]) -> None:
    """Then a text may end incomplete all the time, with whole characters before that."""
    across = {"r": b"\x82\xac\xe2", "s": b"\x9f\x98\x80\xf0"}
    pieces = [across.get(token, token.encode("latin-1")) for token in tokens]
    vocabulary = {name: index for index, name in enumerate(dict.fromkeys(map(in_alphabet, pieces)))}
    inner = Tokenizer(models.BPE(vocabulary, merges=[]))
    inner.decoder = decoders.ByteLevel()
    detokenizer = Detokenizer(PreTrainedTokenizerFast(tokenizer_object=inner))
    shown = "".join(detokenizer.push(vocabulary[in_alphabet(piece)]) for piece in pieces)
    assert len(detokenizer.ids) < 32
    assert shown + detokenizer.flush() == b"".join(pieces).decode(errors="replace")


def in_alphabet(piece: bytes) -> str:
    """The bytes as ByteLevel writes them: those that print as themselves, the others from 256 on."""
    printed = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printed]
    return "".join(chr(byte if byte in printed else 256 + others.index(byte)) for byte in piece)


def test_a_character_is_shown_once_it_is_whole() -> None:
    detokenizer = Detokenizer(TOKENIZER)
    ids = TOKENIZER("é🙂", add_special_tokens=False)["input_ids"]
    assert [detokenizer.push(token) for token in ids] == ["", "é", "", "", "", "🙂"]
    assert detokenizer.flush() == ""


def test_text_goes_on_from_the_prompts_where_the_tokenizer_drops_a_first_space() -> None:
    """As those of the SentencePiece family do."""
    pieces = ["<unk>", "▁The", "▁capital", "▁is", "▁Paris", "."]
    inner = Tokenizer(models.BPE({piece: index for index, piece in enumerate(pieces)}, merges=[], unk_token="<unk>"))
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    for before, text in (((1, 2, 3), " Paris."), ((), "Paris.")):
        detokenizer = Detokenizer(tokenizer, before)
        assert "".join([detokenizer.push(token) for token in (4, 5)] + [detokenizer.flush()]) == text
    for continues, text in ((True, " Paris."), (False, "Paris.")):
        request = Request(
            (1, 2, 3), Policy("a", Mixture(1.0, 0.0)), Sampling(max_tokens=2), lambda _: None, continues=continues
        )
        choice = Choice(request, 0, tokenizer, [0])
        assert "".join(choice.take(token, torch.zeros(6)).text for token in (4, 5)) == text


@given(st.lists(TEXTS, max_size=8), st.lists(st.text(st.sampled_from("ab "), min_size=1, max_size=4), max_size=3))
def test_text_ends_before_the_first_stop_string(pieces: list[str], stops: list[str]) -> None:
    """However it is cut into pieces. What was shown never has to be taken back."""
    whole = "".join(pieces)
    # A stop string is found with the piece that completes it; the earliest in the text so far counts.
    expected, found = whole, False
    for end in range(len(pieces) + 1):
        so_far = "".join(pieces[:end])
        at = [so_far.find(stop) for stop in stops if stop in so_far]
        if at:
            expected, found = so_far[: min(at)], True
            break
    stopping = StopStrings(stops)
    shown = ""
    for piece in pieces:
        shown += stopping.push(piece)
        assert expected.startswith(shown)
    shown += "" if stopping.found else stopping.flush()
    assert (shown, stopping.found) == (expected, found)


def written(text: str, sampling: Sampling, end: bool = False) -> list[Delta]:
    """What is shown of an answer whose tokens are the bytes of a text."""
    request = Request((1,), Policy("", Mixture(0.0, 1.0)), sampling, emit=print)
    choice = Choice(request, 0, TOKENIZER, {END})
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"] + ([END] if end else [])
    deltas = []
    for token in ids:
        deltas.append(choice.take(token, torch.zeros(len(TOKENIZER))))
        if deltas[-1].finish:
            break
    return deltas


def test_how_an_answer_ends() -> None:
    by_token = written("né", Sampling(max_tokens=9), end=True)
    assert [delta.text for delta in by_token] == ["n", "", "é", ""]
    assert (by_token[-1].finish, by_token[-1].completion_tokens) == ("stop", 4)
    by_length = written("né", Sampling(max_tokens=2))
    assert [delta.text for delta in by_length] == ["n", "�"]
    assert by_length[-1].finish == "length"
    by_string = written("one two three", Sampling(max_tokens=99, stop=(" tw", "x")))
    assert "".join(delta.text for delta in by_string) == "one"
    assert (by_string[-1].finish, by_string[-1].completion_tokens) == ("stop", 6)
    held = written("one tw", Sampling(max_tokens=6, stop=("two",)))
    assert "".join(delta.text for delta in held) == "one tw"
    assert held[-1].finish == "length"


def test_a_special_token_as_a_stop_string_ends_an_answer() -> None:
    """It has no text in which the string would be found."""
    pad = TOKENIZER.pad_token
    assert TOKENIZER.pad_token_id not in {END, TOKENIZER.unk_token_id}
    assert [delta.text for delta in written(f"a{pad}b", Sampling(max_tokens=9))] == ["a", "", "b"]
    stopped = written(f"a{pad}b", Sampling(max_tokens=9, stop=("c", pad)))
    assert [delta.text for delta in stopped] == ["a", ""]
    assert (stopped[-1].finish, stopped[-1].completion_tokens) == ("stop", 2)
    # A text that is no token has the id of the unknown one, which is special as well.
    assert special_stops(["no token", "<|header|>", "<tool>"], tokenizer_with_header()) == [6]


@pytest.mark.parametrize(("stop", "expected"), [((), "a é b"), (("é b",), "a "), (("never",), "a é b")])
def test_tokens_are_reported_with_their_text(stop: tuple[str, ...], expected: str) -> None:
    """Every token of the shown text once, none of what a stop string cut off, and no token before its text."""
    deltas = written("a é b", Sampling(max_tokens=99, stop=stop, top_logprobs=0), end=True)
    reported = [report.token for delta in deltas for report in delta.tokens]
    assert TOKENIZER.decode(reported) == "".join(delta.text for delta in deltas) == expected
    assert all(delta.text or delta.finish or not delta.tokens for delta in deltas)


def drawn(sampler: Sampler, logits: torch.Tensor) -> int:
    (token,) = choose(logits[None], [sampler])
    return token


def test_a_row_draws_the_same_alone_and_among_others() -> None:
    """Greedy rows, whole distributions and nuclei of all temperatures in one call."""
    dials = [(0.0, 1.0), (0.8, 1.0), (1.3, 0.9), (0.5, 0.4), (0.0, 0.3), (2.0, 1.0), (1.0, 0.0)]
    samplings = [Sampling(1, temperature=t, top_p=p, seed=seed) for seed, (t, p) in enumerate(dials)]
    together, alone = ([Sampler(sampling, 0) for sampling in samplings] for _ in range(2))
    rows = torch.Generator().manual_seed(0)
    for _ in range(40):
        logits = 3 * torch.randn(len(dials), 701, generator=rows)
        assert choose(logits, together) == [drawn(*pair) for pair in zip(alone, logits, strict=True)]


def test_draws_follow_the_distribution_and_the_seed() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    sampler = Sampler(Sampling(1, temperature=0.5, seed=3), 0)
    draws = [drawn(sampler, logits) for _ in range(4000)]
    share = torch.bincount(torch.tensor(draws), minlength=4) / 4000
    torch.testing.assert_close(share, (logits / 0.5).softmax(-1), atol=0.03, rtol=0)
    again = Sampler(Sampling(1, temperature=0.5, seed=3), 0)
    assert [drawn(again, logits) for _ in range(50)] == draws[:50]
    other = Sampler(Sampling(1, temperature=0.5, seed=3), 1)
    assert [drawn(other, logits) for _ in range(50)] != draws[:50]


def test_top_p_keeps_the_fewest_likeliest_tokens() -> None:
    probabilities = torch.tensor([0.1, 0.5, 0.15, 0.25])
    for top_p, kept in ((0.0, [1]), (0.5, [1]), (0.51, [1, 3]), (0.9, [1, 3, 2]), (1.0, [1, 3, 2, 0])):
        assert nucleus(probabilities, top_p)[1].tolist() == kept
    sampler = Sampler(Sampling(1, temperature=1.0, top_p=0.6, seed=0), 0)
    assert {drawn(sampler, probabilities.log()) for _ in range(200)} == {1, 3}


def test_a_nucleus_larger_than_the_first_look_is_found() -> None:
    flat = torch.full((1000,), 0.001, dtype=torch.float64)
    assert 898 <= len(nucleus(flat, 0.9)[0]) <= 902


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_greedy_rows_take_the_likeliest_token(seed: int) -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(seed))
    samplers = [Sampler(Sampling(1, temperature=t, seed=random.Random(seed).randrange(99)), 0) for t in (0.0, 0.0, 1.0)]
    assert choose(logits, samplers)[:2] == logits.argmax(-1).tolist()[:2]


@pytest.mark.parametrize("text", ["a€b", "日本", "x😀é1", "é€"])
def test_every_token_is_reported_once_where_its_character_begins(text: str) -> None:
    """A character of several tokens begins where the first of them does."""
    deltas = written(text, Sampling(max_tokens=99, top_logprobs=0), end=True)
    assert "".join(delta.text for delta in deltas) == text
    reports = [report for delta in deltas for report in delta.tokens]
    assert [report.token for report in reports] == TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert [report.start for report in reports] == [at for at, letter in enumerate(text) for _ in letter.encode()]


@given(st.lists(st.integers(len(SPECIAL), len(TOKENIZER) - 1), min_size=1, max_size=24) | st.just(PARTS[2] * 20))
def test_bytes_that_make_no_character_are_reported_once_and_in_order(ids: list[int]) -> None:
    choice = Choice(
        Request((1,), Policy("", Mixture(0.0, 1.0)), Sampling(len(ids), top_logprobs=0), print), 0, TOKENIZER, {}
    )
    deltas = [choice.take(token, torch.zeros(len(TOKENIZER))) for token in ids]
    reports = [report for delta in deltas for report in delta.tokens]
    assert [report.token for report in reports] == ids
    starts = [report.start for report in reports]
    assert starts == sorted(starts)
    assert starts[-1] < len("".join(delta.text for delta in deltas))
