"""One row per pair against two rows: the same losses and gradients, and the layout of the docstring."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from conftest import FAMILIES, IDS, SMALL, make_batch, make_model, model_from_config
from torch.nn.attention.flex_attention import flex_attention
from transformers.integrations.flex_attention import WrappedFlexAttention

from qadapter.model import QAdapterForCausalLM
from qadapter.model.shared_prefix import pack_pairs, packed_attention_mask, packed_states


def rows_seen(model) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = []
    model.base.base_model.register_forward_pre_hook(
        lambda _m, _a, kw: shapes.append(tuple(kw["input_ids"].shape)), with_kwargs=True
    )
    return shapes


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_losses_and_gradients(family: str, checkpointing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models with a sliding window get one that holds the row; shorter ones fall back, see below."""
    config = copy.deepcopy(FAMILIES[family])
    if getattr(config, "sliding_window", None):
        config.sliding_window = 64
    monkeypatch.setitem(FAMILIES, family, config)
    batch, found = make_batch(), []
    for share in (True, False):
        model = make_model(family).train()
        model.share_prefix = share
        shapes = rows_seen(model)
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        output = model(**batch)
        output.loss.backward()
        assert shapes[0][0] == (3 if share else 6)
        found.append((output.pair_loss, [p.grad for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("family", "shared"), [("llama", True), ("gpt2", True), ("qwen3", True), ("mistral", False)])
def test_who_shares(family: str, shared: bool, caplog: pytest.LogCaptureFixture) -> None:
    """The tiny Mistral's window is 5 tokens: longer pairs fall back to two rows, with the same result."""
    model = make_model(family)
    shapes = rows_seen(model)
    model(**make_batch())
    assert [shape[0] for shape in shapes] == ([3, 3] if shared else [6, 6])


def loss_of_rows(config: transformers.PretrainedConfig, batch: dict[str, torch.Tensor], rows: int) -> torch.Tensor:
    """The loss of each pair, read in so many rows by each policy; the same as with two rows a pair."""
    model = model_from_config(config)
    shapes = rows_seen(model)
    together = model(**batch)
    assert [shape[0] for shape in shapes] == [rows, rows]
    model.share_prefix = False
    torch.testing.assert_close(together.pair_loss, model(**batch).pair_loss, rtol=1e-4, atol=1e-5)
    return together.pair_loss


def test_local_layers_of_gpt_neo_keep_two_rows() -> None:
    """They mask by the place in the row: the rejected response would lose its prompt, without a word."""
    config = transformers.GPTNeoConfig(
        vocab_size=61, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]],
        window_size=5, max_position_embeddings=128, **IDS,
    )  # fmt: skip
    batch, found = make_batch(), []
    for window, rows in ((5, 6), (64, 3)):
        config.window_size = window
        found.append(loss_of_rows(config, batch, rows))
    assert not torch.allclose(*found), "the window matters"


def test_a_packed_row_beyond_the_mask_of_gpt_neo_is_two_rows() -> None:
    """It holds its causal mask, of as many places as positions: each response fits, both in one row do not."""
    config = transformers.GPTNeoConfig(
        vocab_size=61, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global"], 2]],
        max_position_embeddings=128, **IDS,
    )  # fmt: skip
    batch = make_batch()
    for positions, rows in ((128, 3), (batch["input_ids"].shape[1], 6)):
        config.max_position_embeddings = positions
        loss_of_rows(config, batch, rows)


def test_convolutions_keep_two_rows(caplog: pytest.LogCaptureFixture) -> None:
    """In a packed row one reaches from the rejected response back into the end of the chosen one."""
    config = transformers.Lfm2Config(
        **SMALL, **IDS, num_attention_heads=4, num_key_value_heads=2, layer_types=["conv", "full_attention"]
    )
    model, batch = model_from_config(config), make_batch()
    assert "its 'conv' layers mix neighbouring tokens" in caplog.text
    together = model(**batch)
    for pair in range(3):
        alone = model(**{name: value[[pair, pair + 3]] for name, value in batch.items()})
        torch.testing.assert_close(together.pair_loss[pair], alone.pair_loss[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.base_logp_rejected[pair], alone.base_logp_rejected[0])
    model.share_prefix = True
    assert not torch.allclose(model(**batch).pair_loss, together.pair_loss, atol=1e-2)


def test_different_prompts_are_not_shared() -> None:
    model, batch = make_model(), make_batch()
    batch["input_ids"][4, 1] = 60
    shapes = rows_seen(model)
    assert torch.isfinite(model(**batch).pair_loss).all()
    assert shapes[0][0] == 6


def test_the_layout() -> None:
    ids = torch.tensor([[5, 6, 7, 8, 2, 0], [5, 6, 9, 2, 0, 0]])
    packed = pack_pairs(ids, first=torch.tensor([2, 2]), lengths=torch.tensor([3, 2]))
    assert packed is not None
    assert packed.input_ids.tolist() == [[5, 6, 7, 8, 2, 9, 2]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 3, 4, 2, 3]]
    assert packed.segments.tolist() == [[0, 0, 1, 1, 1, 2, 2]]
    seen = (packed_attention_mask(packed.segments, torch.float32)[0, 0] == 0).int()
    assert seen[4].tolist() == [1, 1, 1, 1, 1, 0, 0]
    assert seen[6].tolist() == [1, 1, 0, 0, 0, 1, 1]
    row, column = packed_states(
        torch.tensor([2, 2]),
        torch.tensor([3, 2]),
        row=torch.tensor([0, 0, 0, 0, 1, 1, 1]),
        t=torch.tensor([0, 1, 2, 3, 0, 1, 2]),
    )
    assert row.tolist() == [0] * 7
    assert column.tolist() == [1, 2, 3, 4, 1, 5, 6]


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))]
)
def test_flex_attention_gives_the_same(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values; gradients too on CUDA (FlexAttention has no backward pass on a CPU)."""
    if device == "cpu":
        # As torch 2.13 compiles it for a CPU with AVX2 alone, its values are wrong.
        monkeypatch.setattr(WrappedFlexAttention, "__call__", lambda self: flex_attention)
    batch, found = {name: value.to(device) for name, value in make_batch().items()}, []
    for attention in ("sdpa", "flex_attention"):
        model = make_model().to(device)
        model.base.set_attn_implementation(attention)
        model = QAdapterForCausalLM(model.base, model.constants, peft_model=model.peft_model)
        shapes = rows_seen(model)
        with torch.set_grad_enabled(device == "cuda"):
            losses = model(**batch).pair_loss
            grads = []
            if device == "cuda":
                losses.sum().backward()
                grads = [p.grad for p in model.parameters() if p.grad is not None]
        assert {shape[0] for shape in shapes} == {3}
        found.append([losses, *grads])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
