"""Attention by matrix products: torch's result and gradients, no worse in bfloat16, and only where it is meant."""

from __future__ import annotations

import oracles
import pytest
import torch
import torch.nn.functional as F
import transformers
from conftest import IDS, SMALL, make_base, make_batch, make_model, model_from_config, two_logits

from qadapter.model import QAdapterForCausalLM, masked_attention
from qadapter.model.attention_blocks import attention_blocks
from qadapter.model.shared_prefix import packed_attention_mask


def heads(count: int, tokens: int, dtype: torch.dtype, seed: int, offset: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(2, tokens, count, 8, generator=generator, dtype=torch.float64)
    values += offset * torch.randn(1, 1, count, 8, generator=generator, dtype=torch.float64)
    # Strided as transformers hands them over.
    return values.to(dtype).transpose(1, 2).detach().requires_grad_()


def random_mask(queries: int, keys: int, dtype: torch.dtype) -> torch.Tensor:
    hidden = torch.rand(2, 1, queries, keys, generator=torch.Generator().manual_seed(9)) < 0.4
    hidden[..., 0] = False
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, torch.finfo(dtype).min)


def both(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> list[list[torch.Tensor]]:
    """Output and gradients: ours, torch's."""
    found = []
    blocks = attention_blocks(mask, q.shape[1] // k.shape[1])
    for out in (
        masked_attention.masked_attention(q, k, v, blocks, 0.3),
        F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3, enable_gqa=True),
    ):
        upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(out.dtype)
        found.append([out, *torch.autograd.grad(out, (q, k, v), upstream)])
    return found


@pytest.mark.parametrize("key_heads", [6, 3, 1])
@pytest.mark.parametrize(("size", "scores"), [(128, 2**20), (4, 2**20), (128, 100)])
def test_exact_in_float64(key_heads: int, size: int, scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qadapter.model.attention_blocks._QUERIES", size)
    monkeypatch.setattr("qadapter.model.attention_blocks._SCORES", scores)
    f64 = torch.float64
    q, k, v = heads(6, 13, f64, 0), heads(key_heads, 17, f64, 1, offset=2.0), heads(key_heads, 17, f64, 2)
    for ours, theirs in zip(*both(q, k, v, random_mask(13, 17, f64)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_blocks_of_a_packed_row_leave_out_what_no_query_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompt of 4, chosen of 4, rejected of 4, four of padding; blocks of 4 queries."""
    monkeypatch.setattr("qadapter.model.attention_blocks._QUERIES", 4)
    segments = torch.tensor([[0] * 4 + [1] * 4 + [2] * 4 + [-1] * 4])
    mask = packed_attention_mask(segments, torch.float64)
    (blocks,) = attention_blocks(mask, heads_per_key=2)
    seen = [torch.arange(16)[block.keys].tolist() for block in blocks]
    assert seen == [list(range(4)), list(range(8)), [0, 1, 2, 3, 8, 9, 10, 11], list(range(4)) + list(range(12, 16))]
    assert [block.bias.shape for block in blocks] == [(8, 4), (8, 8), (8, 8), (8, 8)]
    f64 = torch.float64
    q, k, v = (heads(count, 16, f64, seed)[:1].detach().requires_grad_() for seed, count in enumerate((4, 2, 2)))
    for ours, theirs in zip(*both(q, k, v, mask), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_a_query_that_sees_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one key"):
        attention_blocks(torch.full((1, 1, 2, 2), torch.finfo(torch.float32).min), 1)


@pytest.mark.parametrize("offset", [0.0, 8.0])
def test_in_bfloat16_the_errors_are_those_of_rounding(offset: float) -> None:
    """Keys share a direction in trained models; without centring, the rounding of large scores would show."""
    bf16 = torch.bfloat16
    q, k, v = heads(6, 64, bf16, 0, offset=3.0), heads(3, 64, bf16, 1, offset=offset), heads(3, 64, bf16, 2)
    ours = both(q, k, v, random_mask(64, 64, bf16))[0]
    wide = [x.detach().double().requires_grad_() for x in (q, k, v)]
    truth = both(*wide, random_mask(64, 64, torch.float64))[1]
    for mine, exact in zip(ours, truth, strict=True):
        assert float((mine.detach().double() - exact).norm() / exact.norm()) < 0.01


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_uses_it_on_a_cpu_and_decoding_does_not(checkpointing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = masked_attention.masked_attention
    monkeypatch.setattr(
        masked_attention, "masked_attention", lambda *args: calls.append(args[0].shape[0]) or original(*args)
    )
    model = make_model().train()
    if checkpointing:  # recomputed outside of the forward pass, where the base's own attention is back
        model.activation_checkpointing_enable({"use_reentrant": False})
    model(**make_batch()).loss.backward()
    layers, passes = model.config.num_hidden_layers, 2
    assert calls == ([] if checkpointing else [3] * layers * passes)
    assert model.base.config._attn_implementation == "sdpa"
    calls.clear()
    model.eval().generate(torch.tensor([[5, 6, 7]]), max_new_tokens=3)
    assert calls == []


def test_the_choice_is_taken_back_after_an_exception() -> None:
    base = make_base()
    with pytest.raises(KeyError), masked_attention.matrix_attention(base):
        raise KeyError
    assert base.config._attn_implementation == "sdpa"


def test_other_attention_stays_as_it_is() -> None:
    base = make_base()
    base.set_attn_implementation("eager")
    model = QAdapterForCausalLM(base)
    with masked_attention.matrix_attention(model.base):
        assert model.base.config._attn_implementation == "eager"


@pytest.mark.parametrize("alibi", [False, True])
@pytest.mark.parametrize("share_prefix", [False, True])
def test_a_model_that_branches_on_the_name_itself(alibi: bool, share_prefix: bool) -> None:
    """Falcon; the loss of the oracle on its plain logits, row by row without padding."""
    config = transformers.FalconConfig(
        vocab_size=61, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=alibi,
        parallel_attn=not alibi, multi_query=not alibi, **IDS,
    )  # fmt: skip
    model, batch = model_from_config(config), make_batch()
    model.share_prefix = model.share_prefix and share_prefix
    found = model(**batch).pair_loss
    c, returns = model.constants, []
    for ids, mask, at, terminated in zip(
        batch["input_ids"], batch["attention_mask"].bool(), batch["completion_mask"], batch["terminated"], strict=True
    ):
        z1, z0 = (z[0, int(at.int().argmax()) - 1 :].double() for z in two_logits(model, input_ids=ids[mask][None]))
        q = oracles.q_function(c.parametrization, z1, z0, c.alpha_tilde)
        dials = (c.alpha_0, c.alpha_tilde, c.gamma)
        returns.append(oracles.rewards(q, z0, ids[at].tolist(), bool(terminated), *dials))
    expected = [oracles.pair_loss(returns[i], returns[i + 3], c.gamma, c.chi2_coef) for i in range(3)]
    torch.testing.assert_close(found, torch.stack(expected).float(), rtol=1e-3, atol=1e-4)


def test_values_of_another_size_than_the_keys_go_to_torch() -> None:
    """As in latent attention (MLA)."""
    config = transformers.MiniCPM3Config(
        **SMALL, **IDS, num_attention_heads=4, num_key_value_heads=4, q_lora_rank=16, kv_lora_rank=16,
        qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8,
    )  # fmt: skip
    model, batch = model_from_config(config), make_batch()
    found = model(**batch)
    model.base.config._attn_implementation = "eager"
    torch.testing.assert_close(found.pair_loss, model(**batch).pair_loss, rtol=1e-4, atol=1e-5)
    ids = batch["input_ids"][:2, :3]
    with torch.no_grad():
        z1, z0 = two_logits(model, input_ids=ids)
        mixed = model(ids, strength=0.5).logits
    expected = (0.5 * z1 + 0.5 * z0).log_softmax(-1)
    torch.testing.assert_close(mixed.log_softmax(-1), expected, rtol=1e-4, atol=1e-4)
