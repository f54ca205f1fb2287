"""The loss of a batch of pairs in the model's forward, against the oracle on dense logits."""

from __future__ import annotations

import copy

import oracles
import pytest
import torch
import torch.nn.functional as F
import transformers
from conftest import (
    FAMILIES,
    HEADS,
    IDS,
    PAPER,
    RESIDUAL,
    SMALL,
    VOCABULARY,
    make_batch,
    make_model,
    model_from_config,
    two_logits,
)
from peft import LoraConfig

from qadapter.errors import DataError
from qadapter.model import QAdapterForCausalLM, QConstants


def oracle_losses(model: QAdapterForCausalLM, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """One loss per pair, row by row without padding, from two full passes."""
    c, responses, nlls = model.constants, [], []
    for ids, attended, completion, terminated in zip(*(batch[k] for k in batch), strict=True):
        ids = ids[attended.bool()]
        first, length = int(completion.int().argmax()), int(completion.sum())
        z1, z0 = (z[0].double() for z in two_logits(model, input_ids=ids[None]))
        q = oracles.q_function(c.parametrization, z1, z0, c.alpha_tilde)
        states = slice(first - 1, first + length)
        tokens = ids[first : first + length].tolist()
        logp = oracles.policy_logp(q[states], z0[states], c.alpha_0, c.alpha_tilde)[range(length), tokens]
        nlls.append(-logp.sum())
        responses.append(
            oracles.rewards(q[states], z0[states], tokens, bool(terminated), c.alpha_0, c.alpha_tilde, c.gamma)
        )
    half = len(responses) // 2
    pairs = zip(responses[:half], responses[half:], nlls[:half], strict=True)
    return torch.stack(
        [oracles.pair_loss(w, r, c.gamma, c.chi2_coef) + c.sft_coef * c.alpha_tilde * nll for w, r, nll in pairs]
    )


@pytest.mark.parametrize(
    "constants", [PAPER, RESIDUAL, QConstants("residual", 0.2, 0.5, gamma=0.9, sft_coef=0.7)], ids=str
)
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_against_the_oracle(family: str, constants: QConstants, batch: dict[str, torch.Tensor]) -> None:
    model = make_model(family, constants)
    output = model(**batch)
    expected = oracle_losses(model, batch)
    torch.testing.assert_close(output.pair_loss.double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output.loss, output.pair_loss.mean())


def test_the_first_response_token_counts_and_padding_does_not(batch: dict[str, torch.Tensor]) -> None:
    """The official code's mask is shifted by one: it leaves out the first token and takes in a pad token."""
    model = make_model()
    plain = model(**batch).pair_loss
    padded = {k: torch.nn.functional.pad(v, (0, 7)) if v.ndim == 2 else v for k, v in batch.items()}
    padded["input_ids"][:, -7:] = 5
    torch.testing.assert_close(model(**padded).pair_loss, plain, rtol=1e-5, atol=1e-5)

    changed = {k: v.clone() for k, v in batch.items()}
    row = 1
    first = int(batch["completion_mask"][row].int().argmax())
    single = {k: v.clone() for k, v in batch.items()}
    single["completion_mask"][row] = False
    single["completion_mask"][row, first] = True
    single["terminated"][row] = True
    before = model(**single).pair_loss[row]
    single["input_ids"][row, first] = (changed["input_ids"][row, first] + 1) % 50
    assert (model(**single).pair_loss[row] - before).abs() > 1e-3


@pytest.mark.parametrize("neighbour", [0, 2])
def test_a_neighbour_changes_no_pairs_loss(neighbour: int, batch: dict[str, torch.Tensor]) -> None:
    model = make_model()
    together = model(**batch).pair_loss
    rows = [1, neighbour]
    index = torch.tensor(rows + [r + 3 for r in rows])
    smaller = model(**{k: v[index] for k, v in batch.items()}).pair_loss
    torch.testing.assert_close(smaller, together[rows], rtol=1e-5, atol=1e-5)


def test_a_cut_response_is_bootstrapped(batch: dict[str, torch.Tensor]) -> None:
    model = make_model()
    cut = model(**batch)
    ended = model(**{**batch, "terminated": torch.ones_like(batch["terminated"])})
    assert (cut.return_chosen[0] - ended.return_chosen[0]).abs() > 1e-2
    torch.testing.assert_close(cut.return_chosen[1:], ended.return_chosen[1:])


def test_only_the_adapter_gets_gradients_and_the_base_stays_bit_identical(batch: dict[str, torch.Tensor]) -> None:
    model = make_model()
    before = {n: p.detach().clone() for n, p in model.named_parameters() if "lora_" not in n}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        model(**batch).loss.backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == ("lora_" in name), name
        if "lora_" not in name:
            assert torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_gradient_checkpointing_changes_no_gradient(family: str, batch: dict[str, torch.Tensor]) -> None:
    """Also guards the row routing: the recomputation in backward must see the adapter."""
    gradients = []
    for checkpointing in (False, True):
        model = make_model(family).train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
            assert any(getattr(m, "gradient_checkpointing", False) for m in model.base.modules())
        model(**batch).loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=5e-5)  # two attention kernels


@pytest.mark.parametrize("first", ["train", "checkpointing"])
def test_checkpointed_layers_run_again_in_the_backward_pass(first: str, batch: dict[str, torch.Tensor]) -> None:
    model, calls = make_model(), []
    if first == "train":
        model.train()
    model.activation_checkpointing_enable({"use_reentrant": False})
    if first == "checkpointing":
        model.train()
    model.base.base_model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    loss = model(**batch).loss
    assert len(calls) == 2, "the base's pass and the adapter's"
    loss.backward()
    assert len(calls) == 3


def test_the_frozen_policy_has_no_dropout(batch: dict[str, torch.Tensor]) -> None:
    """GPT-2 drops out by default; π₀ and Q̂ must not be random in train mode."""
    model = make_model("gpt2").train()
    torch.testing.assert_close(model(**batch).pair_loss, model(**batch).pair_loss, rtol=0, atol=0)


@pytest.mark.parametrize(
    "config",
    [
        transformers.OPTConfig(
            vocab_size=VOCABULARY, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
            word_embed_proj_dim=32, max_position_embeddings=128, **IDS,
        ),
        transformers.GPTBigCodeConfig(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=128, **IDS),
        transformers.Starcoder2Config(
            **SMALL, **IDS, num_attention_heads=4, num_key_value_heads=2, residual_dropout=0.1, embedding_dropout=0.1
        ),
        # They read it from their config in each pass.
        transformers.FalconConfig(
            vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, hidden_dropout=0.3,
            attention_dropout=0.3, **IDS,
        ),
        transformers.PersimmonConfig(
            **SMALL, **IDS, num_attention_heads=4, hidden_dropout=0.3, attention_dropout=0.3
        ),
    ],
    ids=lambda config: config.model_type,
)  # fmt: skip
@pytest.mark.parametrize("checkpointing", [False, True])
def test_nor_where_a_family_names_it_otherwise(
    config: transformers.PretrainedConfig, checkpointing: bool, batch: dict[str, torch.Tensor]
) -> None:
    lora = LoraConfig(target_modules=["q_proj", "v_proj", "c_attn", "query_key_value"])
    model = model_from_config(copy.deepcopy(config), lora=lora)
    expected = model(**batch).pair_loss
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    torch.testing.assert_close(model.train()(**batch).pair_loss, expected, rtol=1e-4, atol=1e-5)


def test_the_base_is_the_same_function_in_train_mode(batch: dict[str, torch.Tensor]) -> None:
    """Gemma 3n clips coefficients of its own there, in place, and goes around the LoRA on them."""
    config = transformers.Gemma3nTextConfig(
        **{**SMALL, "num_hidden_layers": 4}, **HEADS, **IDS, vocab_size_per_layer_input=VOCABULARY,
        hidden_size_per_layer_input=8, sliding_window=64, num_kv_shared_layers=0, altup_coef_clip=0.01,
    )  # fmt: skip
    model = model_from_config(config)
    expected = model(**batch).pair_loss.detach()
    weights = {name: value.clone() for name, value in model.named_parameters() if "lora_" not in name}
    model.train()
    found = model(**batch)
    torch.testing.assert_close(found.pair_loss, expected, rtol=1e-4, atol=1e-4)
    found.loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert all(torch.equal(value, weights[name]) for name, value in model.named_parameters() if name in weights)


def test_the_dropout_of_the_lora_is_that_of_the_mode(batch: dict[str, torch.Tensor]) -> None:
    model = make_model(lora=LoraConfig(target_modules="all-linear", lora_dropout=0.5))
    torch.testing.assert_close(model(**batch).pair_loss, model(**batch).pair_loss, rtol=0, atol=0)
    model.train()
    assert not torch.allclose(model(**batch).pair_loss, model(**batch).pair_loss)
    assert not model.base.base_model.layers[0].self_attn.training
    assert not model.base.base_model.layers[0].self_attn.q_proj.base_layer.training


def test_padding_on_the_left_is_refused(batch: dict[str, torch.Tensor]) -> None:
    """A packed row would read it as the prompt, and models with learned positions would count it."""
    padded = {name: F.pad(value, (2, 0)) for name, value in batch.items() if value.ndim == 2}
    with pytest.raises(DataError, match=r"rows \[0, 1, 2, 3, 4, 5\] of the batch have padding before"):
        make_model()(**{**batch, **padded})


@pytest.mark.parametrize("what", ["all masked", "one masked", "no prompt"])
def test_a_batch_without_responses_is_an_error_not_nan(what: str, batch: dict[str, torch.Tensor]) -> None:
    mask = batch["completion_mask"]
    if what == "all masked":
        mask[:] = False
    elif what == "one masked":
        mask[4] = False
    else:
        mask[2] = True
    with pytest.raises(DataError, match="no response token, or no prompt token"):
        make_model()(**batch)


def test_identity_of_the_logged_terms(batch: dict[str, torch.Tensor]) -> None:
    """With γ = 1 and all responses ended, the margin is α̃·Δlog π̃ − α₀·Δlog π₀ (identity + telescoping)."""
    batch["terminated"][:] = True
    model = make_model(constants=QConstants("logits", alpha_0=0.4, alpha_tilde=0.7))
    out = model(**batch)
    margin = 0.7 * (out.logp_chosen - out.logp_rejected) - 0.4 * (out.base_logp_chosen - out.base_logp_rejected)
    torch.testing.assert_close(out.return_chosen - out.return_rejected, margin, rtol=1e-4, atol=1e-4)


def test_mixed_precision_follows_float32() -> None:
    """bfloat16 base with a float32 LoRA: gradients point the way of the float32 model's."""
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        model = make_model()
        for name, parameter in model.named_parameters():
            if "lora_" not in name:
                parameter.data = parameter.data.to(dtype)
        model(**make_batch()).loss.backward()
        assert all(p.grad.dtype == torch.float32 for p in model.parameters() if p.grad is not None)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert torch.cosine_similarity(gradients[0], gradients[1], dim=0) > 0.98
