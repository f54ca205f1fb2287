"""Measure training and decoding side by side with what users would run instead.

    python benchmarks/run.py cpu --pairs PAIRS.jsonl     (or: make bench PAIRS=...)
    python benchmarks/run.py cuda                        (or: benchmarks/gpu.sh)

Every figure is a ratio of medians: each subject has its process, the processes take turns, in one run. The result goes
to benchmarks/results/, and the table and the plot of benchmarks/README.md are made from it.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]
os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])  # for the subjects' processes
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from harness import decoding, growth, machine, peak, report, training  # noqa: E402
from harness.worker import Worker, take_turns  # noqa: E402
from harness.workload import Workload, batches_of_pairs, load_model, load_tokenizer, padding_of_an_epoch  # noqa: E402

WARMUP = 1

# A Llama of the 1B class; speed and memory do not depend on the weights' values.
LLAMA_1B = {
    "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192,
}  # fmt: skip


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("device", choices=["cpu", "cuda"])
    parser.add_argument("--pairs", help="preference pairs, any form that `qadapter train` takes (cpu)")
    parser.add_argument("--max-row", type=int, help="longest prompt + response, tokens (cpu 224, cuda 512)")
    parser.add_argument("--batch", type=int, default=8, help="pairs per step")
    parser.add_argument("--rounds", type=int, default=5, help="turns that count, after one of warm-up")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="what to measure")
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct", help="base model (cpu)")
    options = parser.parse_args()
    if options.device == "cpu":
        if options.pairs is None:
            parser.error("--pairs is required on a cpu: a file of preference pairs or a hub data set id")
        workload = Workload(options.model, options.pairs, options.max_row or 224, options.batch)
    else:
        workload = Workload(LLAMA_1B, options.pairs, options.max_row or 512, options.batch)
    start = time.monotonic()
    result: dict[str, Any] = {
        "device": options.device, "config": {**workload.describe(), "rounds": options.rounds, "lora": training.LORA},
        **machine.describe(options.device), "figures": {}, "not_measured": {}, "measurements": {},
    }  # fmt: skip
    for part in options.parts:
        print(part, flush=True)
        PARTS[part](result, workload, options.device, options.rounds)
    result["seconds"] = round(time.monotonic() - start, 1)
    for name, value in result["figures"].items():
        print(f"{name:<44} {value:.4g}")
    for path in report.save(HERE, result, complete=set(options.parts) == set(PARTS)):
        print(f"written: {path}")


def measure_training(result: dict[str, Any], workload: Workload, device: str, rounds: int) -> None:
    """Pairs per second and peak memory of training, and the share of the machine's peak."""
    steps = rounds + WARMUP
    qadapter, trl = training.train_qadapter, training.train_trl
    # Groups take turns one after the other: the memory of all subjects at once would not fit.
    # TRL's default is to recompute activations; without that it is faster and takes more memory.
    groups = {
        "plain": {
            "qadapter": qadapter,
            "qadapter_cached": partial(qadapter, cache_base=True),
            "trl": partial(trl, gradient_checkpointing=False),
        },
        "checkpointing": {
            "qadapter_checkpointing": partial(qadapter, gradient_checkpointing=True),
            "trl_checkpointing": partial(trl, gradient_checkpointing=True),
        },
        "dense": {"qadapter_beside_dense": qadapter, "dense": training.train_dense},
        # The share of the peak compares a step with a product that is repeated; among training steps of others, which
        # take all of the memory and the caches in between, a step starts cold and the repeated product does not.
        "peak": {
            "qadapter_beside_peak": qadapter,
            "qadapter_cached_beside_peak": partial(qadapter, cache_base=True),
            "matmul_peak": peak.matmul_peak,
        },
    }
    has_trl = importlib.util.find_spec("trl") is not None
    turns: dict[str, list[dict[str, Any]]] = {}
    for group in groups.values():
        workers = [
            Worker(subject, run, device, **({} if subject == "matmul_peak" else {"workload": workload, "steps": steps}))
            for subject, run in group.items()
            if has_trl or not subject.startswith("trl")
        ]
        take_turns(workers, rounds, WARMUP)
        for worker in workers:
            turns[worker.name] = worker.turns
            worker.close()

    fastest = statistics.median(turn["flops_per_second"] for turn in turns.pop("matmul_peak"))
    seconds = {name: _median(of_one, "seconds") for name, of_one in turns.items()}
    memory = {name: max(turn["peak_bytes"] for turn in of_one) for name, of_one in turns.items()}
    figures = result["figures"]
    if has_trl:
        figures |= {
            "train_speed_vs_trl": seconds["trl"] / seconds["qadapter"],
            "train_speed_vs_trl_cached": seconds["trl"] / seconds["qadapter_cached"],
            "train_memory_vs_trl": memory["qadapter"] / memory["trl"],
            "train_speed_vs_trl_both_checkpointing": seconds["trl_checkpointing"] / seconds["qadapter_checkpointing"],
            "train_memory_vs_trl_both_checkpointing": memory["qadapter_checkpointing"] / memory["trl_checkpointing"],
        }
    else:
        names = ("train_speed_vs_trl", "train_speed_vs_trl_cached", "train_memory_vs_trl")
        result["not_measured"] |= dict.fromkeys(names, "trl is not installed")
    figures["train_speed_vs_dense"] = seconds["dense"] / seconds["qadapter_beside_dense"]
    figures["train_memory_vs_dense"] = memory["qadapter_beside_dense"] / memory["dense"]

    tokenizer, model = load_tokenizer(workload), load_model(workload, device)
    batches = batches_of_pairs(workload, tokenizer, steps)[1][WARMUP:]
    for name, base_pass in (("qadapter", True), ("qadapter_cached", False)):
        shares = [
            peak.training_flops(model, batch["unique_tokens"], batch["states"], base_pass=base_pass)
            / turn["seconds"]
            / fastest
            for batch, turn in zip(batches, turns[f"{name}_beside_peak"], strict=True)
        ]
        figures[f"matmul_peak_share{name.removeprefix('qadapter')}"] = statistics.median(shares)
    figures["padding_share_of_an_epoch"] = padding_of_an_epoch(workload, tokenizer)
    result["measurements"]["training"] = {
        "matmul_peak_flops_per_second": fastest,
        "batches": [
            {**batch, "flops": peak.training_flops(model, batch["unique_tokens"], batch["states"])} for batch in batches
        ],
        "median_seconds_per_step": seconds,
        "pairs_per_second": {name: workload.batch / value for name, value in seconds.items()},
        "peak_bytes": memory,
        "seconds": {name: [turn["seconds"] for turn in of_one] for name, of_one in turns.items()},
    }


def measure_decoding(result: dict[str, Any], workload: Workload, device: str, rounds: int) -> None:
    """Seconds per token, one sequence."""
    static = device == "cuda"
    kinds = ("base", "mixed", "one_pass", "folded", "peft", "two_pass")
    workers = [
        Worker(kind, decoding.decode, device, workload=workload, kind=kind, static_cache=static and kind != "two_pass")
        for kind in kinds
    ]
    take_turns(workers, 2 * rounds + 1, WARMUP)  # short turns: more of them against the noise
    seconds = {worker.name: _median(worker.turns, "seconds_per_token") for worker in workers}
    memory = {worker.name: max(turn["peak_bytes"] for turn in worker.turns) for worker in workers}
    for worker in workers:
        worker.close()
    result["figures"] |= {
        "decode_time_vs_base": seconds["mixed"] / seconds["base"],
        "decode_time_vs_base_folded": seconds["folded"] / seconds["base"],
        "decode_time_vs_base_one_pass": seconds["one_pass"] / seconds["base"],
        "decode_time_vs_peft_lora": seconds["mixed"] / seconds["peft"],
        "decode_time_vs_two_passes": seconds["mixed"] / seconds["two_pass"],
    }
    result["measurements"]["decoding"] = {
        "prompt_tokens": decoding.PROMPT_TOKENS, "new_tokens": decoding.NEW_TOKENS, "static_cache": static,
        "seconds_per_token": seconds, "peak_bytes": memory,
    }  # fmt: skip


def measure_growth(result: dict[str, Any], workload: Workload, device: str, rounds: int) -> None:
    """Time against the length of the rows, memory against the vocabulary."""
    lengths = (64, 128, 256, 512, 1024, 2048)
    by_length = {}
    for tokens in lengths:
        # Always 2,048 tokens a step: what grows is the row, not the matrices.
        worker = Worker(f"{tokens} tokens a row", growth.step_on_rows, device, workload=workload, tokens=tokens,
                        pairs=2048 // tokens)  # fmt: skip
        take_turns([worker], 3, warmup=1)
        by_length[tokens] = _median(worker.turns, "seconds") / worker.facts["pairs"]
        worker.close()
    vocabularies = (32_000, 64_000, 128_000, 256_000)
    by_vocabulary = {}
    for vocabulary in vocabularies:
        # Of several processes: what the allocator keeps differs from one to the next by a quarter of so small a step.
        found = []
        for number in range(1, 6):
            name = f"vocabulary {vocabulary}, process {number}"
            worker = Worker(name, growth.step_on_vocabulary, device, vocabulary=vocabulary)
            take_turns([worker], 1, warmup=0)
            found.append(worker.turns[0]["peak_bytes"] - worker.turns[0]["before_bytes"])
            worker.close()
        by_vocabulary[vocabulary] = statistics.median(found)
    result["figures"] |= {
        "train_time_per_token_2048_vs_64": (by_length[2048] / 2048) / (by_length[64] / 64),
        "train_time_growth_exponent": _slope([math.log(n) for n in lengths], [math.log(by_length[n]) for n in lengths]),
        "train_memory_vocabulary_256k_vs_32k": by_vocabulary[256_000] / by_vocabulary[32_000],
    }
    result["measurements"]["growth"] = {
        "seconds_per_pair_by_tokens_of_a_row": by_length,
        "bytes_of_a_step_by_vocabulary": by_vocabulary,
    }


PARTS = {"training": measure_training, "decoding": measure_decoding, "growth": measure_growth}


def _median(turns: list[dict[str, Any]], field: str) -> float:
    return statistics.median(turn[field] for turn in turns)


def _slope(x: list[float], y: list[float]) -> float:
    return statistics.linear_regression(x, y).slope


if __name__ == "__main__":
    main()
