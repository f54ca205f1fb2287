"""Split one preference set for a small comparison, and train its judge.

    python recipes/small/prepare.py SET DATA OUT

SET is one of those below. DATA is a folder with `preference/` and `benchmarks/`: the files named below, in TRL's
conversational form; they are public, and none is part of this repository. Writes to OUT:

    train.jsonl     pairs that the methods learn from
    heldout.jsonl   pairs of other prompts; the methods are measured on them, and their prompts are answered afresh
    judge/          a reward model (the base with one output) trained on pairs of yet other prompts, for those answers
    judge.json      its accuracy on the held-out pairs, and what it was trained on
    hellaswag.jsonl, ... the first questions of each benchmark; wikitext.jsonl, plain text

Every prompt is in one part alone. Pairs whose prompt has more than 96 tokens are left out, and responses are cut so
that prompt and response have at most 160: what a CPU has time for.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from qadapter import load_preference_dataset
from qadapter.baselines import CommonArguments, TrainingJob, run_job
from qadapter.data import encode_prompt
from qadapter.evaluate.judges import JudgeArguments, make_judges
from qadapter.generate import Answer
from qadapter.model import DEFAULT_MODEL, load_base_tokenizer


class PreferenceSet(NamedTuple):
    """Where a set comes from, and how many pairs each part gets."""

    train: str
    test: str | None
    """None: all parts come out of `train`."""
    train_pairs: int = 128
    judge_pairs: int = 256
    heldout_pairs: int = 64


SETS = {
    "academy": PreferenceSet("dsp_academy.train", "dsp_academy.test"),
    "business": PreferenceSet("dsp_business.train", "dsp_business.test"),
    "harmless": PreferenceSet("hh_harmless.train", "hh_harmless.test"),
    "politeness": PreferenceSet("politeness_llm_from_scratch", None),
    "ultrafeedback": PreferenceSet("ultrafeedback_sample.train", "ultrafeedback_sample.test", judge_pairs=128),
}
QUESTIONS = 200
BENCHMARKS = {
    "hellaswag": "hellaswag_val_first1000",
    "arc_easy": "arc_easy_test",
    "piqa": "piqa_valid",
    "lambada": "lambada_openai_first1000",
}
DOCUMENTS = 8
MAX_PROMPT, MAX_LENGTH = 96, 160


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=list(SETS))
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    if not (options.data / "preference").is_dir():
        parser.error(f"{options.data}/preference is not there: DATA holds the public files (see --help)")
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer = load_base_tokenizer(DEFAULT_MODEL)
    parts = parts_of(
        SETS[options.set],
        options.data / "preference",
        lambda pair: len(encode_prompt(pair["prompt"], tokenizer)) <= MAX_PROMPT,
    )
    for name, rows in parts.items():
        write(options.out / f"{name}.jsonl", rows)
        print(f"{name}: {len(rows)} pairs, prompts of at most {MAX_PROMPT} tokens")
    for name, file in BENCHMARKS.items():
        write(options.out / f"{name}.jsonl", read(options.data / "benchmarks" / f"{file}.jsonl")[:QUESTIONS])
    write(options.out / "wikitext.jsonl", documents(read(options.data / "benchmarks" / "wikitext2_raw_test.jsonl")))
    train_judge(options.out)


def parts_of(
    of: PreferenceSet, folder: Path, fits: Callable[[dict[str, Any]], bool] = lambda pair: True
) -> dict[str, list[dict[str, Any]]]:
    """The pairs of each part, of those that fit; no prompt is in two parts."""
    pool = by_prompt(filter(fits, read(folder / f"{of.train}.jsonl")))
    held = by_prompt(filter(fits, read(folder / f"{of.test}.jsonl"))) if of.test else pool
    train = take(pool, of.train_pairs)
    heldout = take(held, of.heldout_pairs)
    left = list(dict.fromkeys([*pool, *held]))
    both = {prompt: [*pool.get(prompt, []), *(held.get(prompt, []) if held is not pool else [])] for prompt in left}
    return {"train": train, "heldout": heldout, "judge_pairs": take(both, of.judge_pairs)}


def by_prompt(rows: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Prompts in a seeded order, with their pairs."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        pair = {key: row[key] for key in ("prompt", "chosen", "rejected")}
        groups.setdefault(json.dumps(row["prompt"]), []).append(pair)
    keys = sorted(groups)
    random.Random(0).shuffle(keys)
    return {key: groups[key] for key in keys}


def take(groups: dict[str, list[dict[str, Any]]], count: int) -> list[dict[str, Any]]:
    """Remove the first prompts until there are `count` pairs, or no prompt is left."""
    taken: list[dict[str, Any]] = []
    for prompt in list(groups):
        if len(taken) >= count:
            break
        taken += groups.pop(prompt)
    return taken


def documents(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The first articles of WikiText: each begins with a heading of one `=`."""
    articles: list[str] = []
    for row in rows:
        text = row["text"]
        if text.startswith(" = ") and not text.startswith(" = ="):
            articles.append("")
        if articles:
            articles[-1] += text
    return [{"text": article[:4000]} for article in articles[:DOCUMENTS]]


def train_judge(out: Path) -> None:
    """Train the reward model where it is not there yet, and measure it."""
    if not (out / "judge.json").exists():
        common = CommonArguments(train_file=str(out / "judge_pairs.jsonl"), max_length=MAX_LENGTH)
        facts = run_job(TrainingJob("reward", {"learning_rate": 5e-4}, common, str(out / "judge")))
        heldout = load_preference_dataset(out / "heldout.jsonl")
        (judge,) = make_judges(JudgeArguments(reward_model=[str(out / "judge")]))
        scores = [
            [verdict.score for verdict in judge.judge(heldout["prompt"], [answer(row[side]) for row in heldout], None)]
            for side in ("chosen", "rejected")
        ]
        wins = [(a > b) + 0.5 * (a == b) for a, b in zip(*scores, strict=True) if a is not None and b is not None]
        found = {"accuracy": statistics.fmean(wins), "pairs": len(wins), "failed": len(scores[0]) - len(wins)}
        found |= {"trained_on_pairs": facts.pairs, "seconds": facts.seconds, "warnings": facts.warnings}
        (out / "judge.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print((out / "judge.json").read_text(encoding="utf-8"))


def answer(messages: list[dict[str, str]]) -> Answer:
    """A given response as if it had been generated."""
    return Answer(messages[-1]["content"], [], True)


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON Lines file."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows as JSON Lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
