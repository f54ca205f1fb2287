"""Packed LoRA factors against the products of each projection by itself, whole and divided between processes."""

from __future__ import annotations

import pytest
import torch

from qadapter.errors import ArtifactError
from qadapter.vllm.packing import Factors, Part, factors_by_layer, pack_factors

RANK, INPUTS = 3, 11
WIDTHS = {"q_proj": 10, "k_proj": 4, "v_proj": 6}


def made(projections: tuple[str, ...]) -> dict[str, Factors]:
    torch.manual_seed(0)
    return {name: Factors(torch.randn(RANK, INPUTS), torch.randn(WIDTHS[name], RANK)) for name in projections}


def whole_parts(projections: tuple[str, ...]) -> list[Part]:
    """q, k and v side by side; only some of them adapted."""
    parts, start = [], 0
    for name, width in WIDTHS.items():
        if name in projections:
            parts.append(Part(name, slice(0, width), slice(start, start + width)))
        start += width
    return parts


@pytest.mark.parametrize("projections", [("q_proj", "k_proj", "v_proj"), ("q_proj", "v_proj"), ("k_proj",)])
def test_one_product_of_the_packed_factors_is_each_projections_own(projections: tuple[str, ...]) -> None:
    factors, x = made(projections), torch.randn(5, INPUTS)
    packed = pack_factors(
        factors, whole_parts(projections), rank=RANK, scaling=0.7, inputs=slice(None), outputs=sum(WIDTHS.values())
    )
    expected = [
        0.7 * x @ factors[name].a.t() @ factors[name].b.t() if name in factors else torch.zeros(5, width)
        for name, width in WIDTHS.items()
    ]
    torch.testing.assert_close(x @ packed.a @ packed.b, torch.cat(expected, dim=1))
    assert packed.a.shape == (INPUTS, RANK * len(projections))


def test_a_layer_without_one_of_the_adapted_projections_adds_nothing_there() -> None:
    projections = ("q_proj", "v_proj")
    factors, x = made(("q_proj",)), torch.randn(5, INPUTS)
    packed = pack_factors(
        factors, whole_parts(projections), rank=RANK, scaling=1.0, inputs=slice(None), outputs=sum(WIDTHS.values())
    )
    out = x @ packed.a @ packed.b
    assert out[:, :10].abs().max() > 0.1
    assert not out[:, 10:].any()


def test_outputs_divided_between_two_processes() -> None:
    """Column-parallel: each process holds half of every projection's outputs."""
    factors, x, halves = made(tuple(WIDTHS)), torch.randn(5, INPUTS), []
    for process in (0, 1):
        parts, start = [], 0
        for name, width in WIDTHS.items():
            half = width // 2
            parts.append(Part(name, slice(process * half, (process + 1) * half), slice(start, start + half)))
            start += half
        packed = pack_factors(factors, parts, rank=RANK, scaling=2.0, inputs=slice(None), outputs=start)
        halves.append((x @ packed.a @ packed.b).split([width // 2 for width in WIDTHS.values()], dim=1))
    for number, name in enumerate(WIDTHS):
        expected = 2.0 * x @ factors[name].a.t() @ factors[name].b.t()
        torch.testing.assert_close(torch.cat([halves[0][number], halves[1][number]], dim=1), expected)


def test_inputs_divided_between_two_processes_add_up() -> None:
    """Row-parallel: the sum over processes is taken after the low-rank products."""
    factors, x = made(("q_proj",)), torch.randn(5, INPUTS)
    part, total = [Part("q_proj", slice(None), slice(0, 10))], torch.zeros(5, 10)
    for inputs in (slice(0, 6), slice(6, 11)):
        packed = pack_factors(factors, part, rank=RANK, scaling=1.0, inputs=inputs, outputs=10)
        total += x[:, inputs] @ packed.a @ packed.b
    torch.testing.assert_close(total, x @ factors["q_proj"].a.t() @ factors["q_proj"].b.t())


def test_pefts_names_are_sorted_by_layer_and_projection() -> None:
    stem = "base_model.model.model.layers.12"
    tensors = {f"{stem}.mlp.up_proj.lora_{half}.weight": torch.full((2, 2), float(half == "B")) for half in "AB"}
    ((key, pair),) = factors_by_layer(tensors).items()
    assert key == (12, "up_proj")
    assert (pair.a == 0).all()
    assert (pair.b == 1).all()


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("base_model.model.lm_head.lora_A.weight", "no LoRA factor of a projection"),
        ("base_model.model.model.layers.0.self_attn.q_norm.lora_A.weight", "no LoRA factor of a projection"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "but not the other"),
    ],
)
def test_what_is_no_complete_pair_is_an_error(name: str, word: str) -> None:
    with pytest.raises(ArtifactError, match=word):
        factors_by_layer({name: torch.zeros(2, 2)})
