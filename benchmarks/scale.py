"""What larger models would cost: arithmetic on the figures measured with the small one. Writes docs/scale.md.

    python benchmarks/scale.py

Nothing is simulated. Each function is one formula; the tables are the formulas at 8B and 70B, and
tests/test_scale.py holds the same formulas against results/latest-cpu.json.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parent / "results" / "latest-cpu.json"
PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
BYTES = 2
"""Of a frozen weight, an activation, a key or a value: bfloat16."""
TRAINED_BYTES = 16
"""Of a factor of the LoRA, in float32: itself, its gradient, two moments of Adam."""


class Shape(NamedTuple):
    """A decoder of the Llama family, as its config.json says it."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_heads: int
    head_size: int
    vocabulary: int
    tied: bool
    """Whether the LM head is the embedding."""

    @property
    def linears(self) -> list[tuple[int, int]]:
        """Inputs and outputs of the linear layers of one decoder layer: q, k, v, o, gate, up, down."""
        queries, keys = self.heads * self.head_size, self.key_heads * self.head_size
        attention = [(self.hidden, queries), (self.hidden, keys), (self.hidden, keys), (queries, self.hidden)]
        return [*attention, *[(self.hidden, self.intermediate)] * 2, (self.intermediate, self.hidden)]

    @property
    def linear(self) -> int:
        """N: parameters of the linear layers, the LM head left out."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linears)

    @property
    def head(self) -> int:
        """Parameters of the LM head."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """P: all of them."""
        return self.linear + self.head * (1 if self.tied else 2) + (2 * self.layers + 1) * self.hidden

    def lora(self, rank: int) -> int:
        """Parameters of a LoRA on all linear layers."""
        return self.layers * rank * sum(inputs + outputs for inputs, outputs in self.linears)


class Card(NamedTuple):
    """An accelerator, by its maker's data sheet."""

    name: str
    flops: float
    """bfloat16 products, dense, FLOP/s."""
    memory: float
    """Bytes."""
    bandwidth: float
    """Of its memory, bytes/s."""
    link: float
    """To the other cards of a machine, one direction, bytes/s."""
    dollars: float
    """Per hour: an assumption, put your own."""


SMALL = Shape("SmolLM2-135M", 576, 1536, 30, 9, 3, 64, 49152, tied=True)
LARGE = (
    Shape("Llama-3.1-8B", 4096, 14336, 32, 32, 8, 128, 128256, tied=False),
    Shape("Llama-3.1-70B", 8192, 28672, 80, 64, 8, 128, 128256, tied=False),
)
# NVIDIA's data sheets "H100 Tensor Core GPU" (SXM) and "A100 80GB" (SXM).
CARDS = (
    Card("H100 80GB", 989e12, 80e9, 3.35e12, 450e9, 2.5),
    Card("A100 80GB", 312e12, 80e9, 2.04e12, 300e9, 1.5),
)
RANK = 8
# Assumptions, not measurements. The share of the peak: 0.42 was measured on a CPU; Meta reports 0.38 to 0.43 for
# training on H100s ("The Llama 3 Herd of Models", table 4), with longer rows.
SHARE_OF_PEAK = 0.35
SHARE_OF_BANDWIDTH = 0.6
SHARE_OF_MEMORY = 0.9
PAIRS_PER_CARD = 8
CONTEXT, REQUESTS = 2048, 32


def training_flops(shape: Shape, tokens: float, states: float, *, base_pass: bool = True) -> float:
    """FLOPs of the products of a step: 2·passes·(N·tokens + head·states).

    Args:
        tokens: of the pairs, a prompt counted once.
        states: response tokens.
        base_pass: whether the base's pass is made, or read from its cache.
    """
    return 2 * (3 if base_pass else 2) * (shape.linear * tokens + shape.head * states)


def activation_bytes(shape: Shape, tokens: float, *, checkpointing: bool) -> float:
    """What is kept for the backward pass.

    A decoder layer keeps per token, in units of `BYTES`: of each of two norms its input in float32 and its output (6
    hidden sizes), queries, keys, values, the attention's output, and gate, silu(gate), up and their product (4
    intermediate sizes). With checkpointing each layer keeps its input, and one layer at a time all of it.
    """
    attention = (2 * shape.heads + 2 * shape.key_heads) * shape.head_size
    layer = BYTES * (6 * shape.hidden + attention + 4 * shape.intermediate)
    return tokens * (shape.layers * BYTES * shape.hidden + layer if checkpointing else shape.layers * layer)


def training_bytes(shape: Shape, tokens: float, cards: int, *, checkpointing: bool) -> float:
    """Memory of one card: the base (spread over the cards, one layer and the LM head at a time whole), the LoRA, the
    activations of its tokens."""
    base = BYTES * shape.parameters
    if cards > 1:
        base = base / cards + BYTES * (2 * shape.linear / shape.layers + shape.head)
    return base + TRAINED_BYTES * shape.lora(RANK) / cards + activation_bytes(
        shape, tokens, checkpointing=checkpointing
    )  # fmt: skip


def cards_needed(shape: Shape, tokens: float, card: Card, *, checkpointing: bool) -> int:
    """The fewest cards, a power of two, with which training fits."""
    cards = 1
    while training_bytes(shape, tokens, cards, checkpointing=checkpointing) > SHARE_OF_MEMORY * card.memory:
        cards *= 2
        if cards > 1024:
            raise ValueError(f"{tokens:.0f} tokens of {shape.name} do not fit onto a {card.name}")
    return cards


def seconds(flops: float, card_flops: float, share: float) -> float:
    """Time of products at a share of the peak."""
    return flops / (card_flops * share)


def tokens_to_hide_sharding(shape: Shape, card: Card, cards: int) -> float:
    """Tokens of a card's micro-batch from which the products take as long as gathering the base three times."""
    gathered = 3 * BYTES * shape.parameters * (cards - 1) / cards
    return (gathered / card.link) / seconds(6 * shape.linear, card.flops, SHARE_OF_PEAK)


def cache_bytes(shape: Shape, states: float, *, hidden: bool) -> float:
    """The base cache on disk: two numbers in float32 per state, and h₀ where α₀ ≠ α̃."""
    return states * (8 + (BYTES * shape.hidden if hidden else 0))


def kv_bytes(shape: Shape, policies: int) -> int:
    """Keys and values of one token."""
    return policies * 2 * shape.layers * shape.key_heads * shape.head_size * BYTES


def decode_seconds(
    shape: Shape, *, requests: int, context: int, policies: int, bandwidth: float, flops: float, cards: int = 1
) -> float:
    """One decoding step: the weights and the keys and values are read once, or the products take longer.

    Args:
        bandwidth, flops: what one card reaches, bytes/s and FLOP/s.
        cards: that share the model evenly; their exchange is left out.
    """
    read = BYTES * (shape.linear + shape.head) + requests * context * kv_bytes(shape, policies)
    products = 2 * requests * (policies * shape.linear + shape.head)
    return max(read / bandwidth, products / flops) / cards


class Pair(NamedTuple):
    """A pair of the measured data, on average."""

    tokens: float
    """The prompt counted once."""
    states: float
    """Response tokens."""
    padding: float
    """Share of the tokens of an epoch's rows."""


def measured_pair(results: dict[str, Any]) -> Pair:
    """From the batches of the result file."""
    batches = results["measurements"]["training"]["batches"]
    pairs = sum(batch["pairs"] for batch in batches)
    tokens, states = (sum(batch[name] for batch in batches) / pairs for name in ("unique_tokens", "states"))
    return Pair(tokens, states, results["figures"]["padding_share_of_an_epoch"])


# ---------------------------------------------------------------------------------------------------------- the page


def page(results: dict[str, Any]) -> str:
    """docs/scale.md."""
    pair = measured_pair(results)
    parts = [_HEAD.format(share=results["figures"]["matmul_peak_share"], date=results["date"][:10])]
    parts.append(_inputs(pair))
    parts.append(_training(pair))
    parts.append(_serving())
    parts.append(_check(results))
    return "\n".join(parts)


_HEAD = """# Scale: what 8B and 70B would cost

<!-- made by `python benchmarks/scale.py` from benchmarks/results/latest-cpu.json -->

**Nothing on this page was run at that size.** It is arithmetic: the formulas of
[benchmarks/scale.py](../benchmarks/scale.py) at other sizes, with what a pair looks like and what a step of
SmolLM2-135M took on a 2-core CPU ({date}; {share:.2f} of the machine's matmul peak). `tests/test_scale.py` holds the
formulas against those measurements; the last table says how far off they are. Shares of a GPU's peak and prices are
assumptions, and named so.
"""


def _inputs(pair: Pair) -> str:
    cards = "\n".join(
        f"| {card.name} | {card.flops / 1e12:.0f} TFLOP/s | {card.memory / 1e9:.0f} GB "
        f"| {card.bandwidth / 1e12:.2f} TB/s | {card.link / 1e9:.0f} GB/s | ${card.dollars:.2f} |"
        for card in CARDS
    )
    shapes = "\n".join(
        f"| {shape.name} | {shape.parameters / 1e9:.2f} B | {shape.linear / 1e9:.2f} B | {shape.head / 1e9:.2f} B "
        f"| {shape.lora(RANK) / 1e6:.1f} M |"
        for shape in (SMALL, *LARGE)
    )
    return f"""## Inputs

A pair (measured, HH-RLHF of up to 224 tokens a row): {pair.tokens:.0f} tokens with its prompt counted once, of which
{pair.states:.0f} response tokens; {pair.padding:.1%} padding. Longer pairs cost in proportion.

| model | P, parameters | N, of linear layers | LM head | LoRA, r = {RANK} |
|---|---|---|---|---|
{shapes}

| card (its data sheet) | bfloat16, dense | memory | bandwidth | link, one way | per hour (assumed) |
|---|---|---|---|---|---|
{cards}

Assumed: {SHARE_OF_PEAK:.0%} of the bfloat16 peak in training (measured on the CPU: see above; Meta reports 38 to 43 %
on H100s in "The Llama 3 Herd of Models", table 4), {SHARE_OF_BANDWIDTH:.0%} of the bandwidth in decoding,
{SHARE_OF_MEMORY:.0%} of the memory usable.
"""


def _training(pair: Pair) -> str:
    rows, memory = [], []
    tokens = PAIRS_PER_CARD * pair.tokens / (1 - pair.padding)
    for shape in LARGE:
        flops = training_flops(shape, pair.tokens, pair.states)
        cached = training_flops(shape, pair.tokens, pair.states, base_pass=False)
        for card in CARDS:
            hours, hours_cached = (seconds(1e6 * one, card.flops, SHARE_OF_PEAK) / 3600 for one in (flops, cached))
            cards = cards_needed(shape, tokens, card, checkpointing=True)
            hide = "" if cards == 1 else f"{tokens_to_hide_sharding(shape, card, cards):,.0f}"
            rows.append(
                f"| {shape.name} | {card.name} | {flops / 1e12:.1f} | {hours:,.0f} | ${hours * card.dollars:,.0f} "
                f"| {hours_cached:,.0f} | {cards} | {hours / cards:,.0f} | {hide} |"
            )
        for checkpointing in (False, True):
            base, lora = BYTES * shape.parameters, TRAINED_BYTES * shape.lora(RANK)
            kept = activation_bytes(shape, tokens, checkpointing=checkpointing)
            needed = cards_needed(shape, tokens, CARDS[0], checkpointing=checkpointing)
            each = training_bytes(shape, tokens, needed, checkpointing=checkpointing)
            memory.append(
                f"| {shape.name} | {'yes' if checkpointing else 'no'} | {base / 1e9:.0f} | {lora / 1e9:.2f} "
                f"| {kept / 1e9:.1f} | {needed} | {each / 1e9:.0f} |"
            )
    disk = "\n".join(
        f"| {shape.name} | {cache_bytes(shape, 1e6 * pair.states, hidden=False) / 1e9:.2f} GB "
        f"| {cache_bytes(shape, 1e6 * pair.states, hidden=True) / 1e9:,.0f} GB |"
        for shape in LARGE
    )
    return f"""## Training, per million pairs

- FLOPs of a pair = 2 · 3 · (N · tokens + head · response tokens): the adapter's pass, the gradients of its inputs, the
  base's pass; 2 · 2 · (…) from the second epoch on with `--cache-base`. Neither the LoRA's products nor the attention's
  scores are counted, as in the measured share.
- card-hours = FLOPs / (peak · {SHARE_OF_PEAK}) / 3600; dollars = card-hours · price; hours = card-hours / cards.
  Anchors are left out: the default's add a row for every two pairs or so, and are sampled before.
- cards: the fewest, a power of two, onto which {PAIRS_PER_CARD} pairs a card fit with activation checkpointing (next
  table).
- tokens to hide = time to gather the base three times (3 · 2 P · (cards − 1) / cards / link) over the time of one
  token's products: smaller micro-batches wait for FSDP2's exchange.

| model | card | TFLOP a pair | card-hours | cost | … cached epochs, card-hours | cards | hours | tokens to hide |
|---|---|---|---|---|---|---|---|---|
{chr(10).join(rows)}

Memory of {PAIRS_PER_CARD} pairs a card ({tokens:,.0f} tokens with padding), GB: base = 2 P; LoRA = {TRAINED_BYTES}
bytes a factor (weight, gradient and Adam's moments in float32); kept for the backward pass per layer and token = 2 ·
(6 hidden + 2 (heads + key heads) · head size + 4 intermediate), with checkpointing 2 · hidden and one layer's whole;
on several cards base and LoRA are divided among them, and one card holds two layers and the LM head whole at a time.

| model | checkpointing | base | LoRA | activations of a card | H100s needed | GB on each |
|---|---|---|---|---|---|---|
{chr(10).join(memory)}

The base cache on disk, per million pairs: 8 bytes a response token where α₀ = α̃ and there are no anchors,
8 + 2 · hidden otherwise (so in the default, whose anchors add about one row for every two pairs).

| model | α₀ = α̃, no anchors | otherwise |
|---|---|---|
{disk}
"""


def _serving() -> str:
    card, rows = CARDS[0], []
    for shape in LARGE:
        weights = BYTES * shape.parameters
        for policies in (1, 2):
            cache = REQUESTS * CONTEXT * kv_bytes(shape, policies)
            cards = 2 ** math.ceil(math.log2(max(1.0, (weights + cache) / (SHARE_OF_MEMORY * card.memory))))
            step = decode_seconds(
                shape, requests=REQUESTS, context=CONTEXT, policies=policies, cards=cards,
                bandwidth=SHARE_OF_BANDWIDTH * card.bandwidth, flops=SHARE_OF_PEAK * card.flops,
            )  # fmt: skip
            what = "the base, or the adapter folded in" if policies == 1 else "the mixture at any strength"
            rows.append(
                f"| {shape.name} | {what} | {kv_bytes(shape, policies) / 1e3:.0f} kB | {cache / 1e9:.0f} GB | {cards} "
                f"| {1e3 * step:.1f} ms | {REQUESTS / step:,.0f} |"
            )
    return f"""## Serving, {REQUESTS} requests at a context of {CONTEXT} tokens, H100

- KV of a token = policies · 2 · layers · key heads · head size · 2 bytes: twice as much for the mixture.
- A step reads 2 · (N + head) bytes of weights once, whatever the number of policies, and the keys and values of all
  requests; or its products, 2 · requests · (policies · N + head), take longer. Seconds = the larger of bytes /
  (bandwidth · {SHARE_OF_BANDWIDTH}) and FLOPs / (peak · {SHARE_OF_PEAK}), over the cards. Their exchange and the
  scheduler are left out, so tokens/s are an upper bound.

| model | policy | KV of a token | KV in all | cards | a step | tokens/s |
|---|---|---|---|---|---|---|
{chr(10).join(rows)}
"""


def predictions(results: dict[str, Any]) -> dict[str, tuple[str, float, float, float]]:
    """Name → what it is, what the formula says, what was measured, and how far apart they may be, relative."""
    training, decoding = (results["measurements"][name] for name in ("training", "decoding"))
    batches = training["batches"]
    flops = [training_flops(SMALL, batch["unique_tokens"], batch["states"]) for batch in batches]
    peak, share = training["matmul_peak_flops_per_second"], results["figures"]["matmul_peak_share"]
    middle = sorted(flops)[len(flops) // 2]
    rows = max(batch["unique_tokens"] / (1 - batch["padding"]) for batch in batches)
    kept = [activation_bytes(SMALL, rows, checkpointing=checkpointing) for checkpointing in (False, True)]
    tokens = decoding["prompt_tokens"] + decoding["new_tokens"] / 2
    steps = [
        decode_seconds(SMALL, requests=1, context=round(tokens), policies=policies, bandwidth=1.0, flops=math.inf)
        for policies in (1, 2)
    ]
    measured = training["peak_bytes"]["qadapter"] - training["peak_bytes"]["qadapter_checkpointing"]
    return {
        "flops": ("FLOPs of the five measured batches", sum(flops), sum(b["flops"] for b in batches), 0.0),
        "seconds": (
            "seconds of the median step, at the measured share of the measured peak",
            seconds(middle, peak, share), training["median_seconds_per_step"]["qadapter"], 0.1,
        ),
        "activations": ("memory that checkpointing saves, GB", (kept[0] - kept[1]) / 1e9, measured / 1e9, 0.25),
        "decoding": (
            "time per token of the mixture over the base's, one request",
            steps[1] / steps[0], results["figures"]["decode_time_vs_base"], 0.15,
        ),
    }  # fmt: skip


def _check(results: dict[str, Any]) -> str:
    rows = "\n".join(
        f"| {what} | {formula:.4g} | {measured:.4g} | {formula / measured - 1:+.1%} | {tolerance:.0%} |"
        for what, formula, measured, tolerance in predictions(results).values()
    )
    return f"""## The formulas against the small measurements

SmolLM2-135M on the CPU, from the result file; the tolerance is what the test allows.

| | formula | measured | difference | tolerance |
|---|---|---|---|---|
{rows}

What no small measurement can say: how well FSDP2 hides its exchange, how a GPU's kernels do at these shapes, what a
cluster loses to failures.
"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(json.loads(RESULTS.read_text(encoding="utf-8"))), encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
