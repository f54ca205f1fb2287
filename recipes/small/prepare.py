"""Split one preference set for a small comparison, and fit its judge.

    python recipes/small/prepare.py SET DATA OUT

SET is one of those below. DATA is a folder with `preference/` and `benchmarks/`: the files named below as JSON Lines,
pairs in TRL's conversational form (`qadapter data convert` makes it), questions in the fields of lm-evaluation-harness.
They are public, and none is part of this repository:

    dsp_*               github.com/Linear95/DSP: data/domain_specific_preference.test.json, 500 queries to train on
    hh_harmless.*, hh_helpful.*   github.com/Linear95/DSP: data/harmless.test.json, data/helpful.test.json
    politeness_*        github.com/rasbt/LLMs-from-scratch: ch07/04_preference-tuning-with-dpo/instruction-data-with-…
    ultrafeedback_*     a sample of trl-lib/ultrafeedback_binarized on the hub
    benchmarks          hellaswag_val_first1000, arc_easy_test, piqa_valid and lambada_openai_first1000, with the rows
                        of lm-evaluation-harness's data sets; wikitext2_raw_test, {"text": …}

Writes to OUT:

    train.jsonl     pairs that the methods learn from
    heldout.jsonl   pairs of other prompts; the methods are measured on them, and their prompts are answered afresh
    judge_pairs.jsonl, style_judge.py   the judge of those answers, and the pairs of yet other prompts that it knows
    judge.json      its accuracy on the held-out pairs, and what it gives to a refusal that answers nothing
    hellaswag.jsonl, ... the first questions of each benchmark; wikitext.jsonl, plain text

Every prompt is in one part alone. Pairs to train and to measure on whose prompt has more than 96 tokens are left out,
and their responses are cut so that prompt and response have at most 160: what a CPU has time for.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import style_judge

from qadapter.data import encode_prompt
from qadapter.model import DEFAULT_MODEL, load_base_tokenizer


class PreferenceSet(NamedTuple):
    """Where a set comes from, and how many pairs each part gets."""

    train: str
    test: str | None
    """None: all parts come out of `train`."""
    train_pairs: int = 256
    heldout_pairs: int = 96


SETS = {
    "academy": PreferenceSet("dsp_academy.train", "dsp_academy.test"),
    "business": PreferenceSet("dsp_business.train", "dsp_business.test"),
    "harmless": PreferenceSet("hh_harmless.train", "hh_harmless.test"),
    "helpful": PreferenceSet("hh_helpful.train", None),
    "politeness": PreferenceSet("politeness_llm_from_scratch", None),
    "ultrafeedback": PreferenceSet("ultrafeedback_sample.train", "ultrafeedback_sample.test"),
}
QUESTIONS = 200
BENCHMARKS = {
    "hellaswag": "hellaswag_val_first1000",
    "arc_easy": "arc_easy_test",
    "piqa": "piqa_valid",
    "lambada": "lambada_openai_first1000",
}
DOCUMENTS = 8
MAX_PROMPT = 96


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
        print(f"{name}: {len(rows)} pairs")
    for name, file in BENCHMARKS.items():
        questions = read(options.data / "benchmarks" / f"{file}.jsonl")[:QUESTIONS]
        write(options.out / f"{name}.jsonl", [with_continuation(question) for question in questions])
    write(options.out / "wikitext.jsonl", documents(read(options.data / "benchmarks" / "wikitext2_raw_test.jsonl")))
    fit_judge(options.out)


def with_continuation(question: dict[str, Any]) -> dict[str, Any]:
    """LAMBADA's rows are a text whose last word is asked for; a local task wants it apart."""
    if set(question) != {"text"}:
        return question
    context, _, word = question["text"].rpartition(" ")
    return {"context": context, "continuation": word}


def parts_of(
    of: PreferenceSet, folder: Path, fits: Callable[[dict[str, Any]], bool] = lambda pair: True
) -> dict[str, list[dict[str, Any]]]:
    """The pairs of each part; no prompt is in two parts. The judge gets what is left, those that do not fit too."""
    pool = by_prompt(read(folder / f"{of.train}.jsonl"))
    held = by_prompt(read(folder / f"{of.test}.jsonl")) if of.test else pool
    train = take(pool, of.train_pairs, fits)
    for pair in train:
        held.pop(json.dumps(pair["prompt"]), None)
    heldout = take(held, of.heldout_pairs, fits, most=1)
    # A prompt of both files that was taken from one is the judge's in neither.
    taken = {json.dumps(pair["prompt"]) for pair in train + heldout}
    groups = [*pool.items(), *(held.items() if held is not pool else [])]
    return {
        "train": train,
        "heldout": heldout,
        "judge_pairs": [pair for prompt, pairs in groups if prompt not in taken for pair in pairs],
    }


def by_prompt(rows: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Prompts in a seeded order, with their pairs."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        pair = {key: row[key] for key in ("prompt", "chosen", "rejected")}
        groups.setdefault(json.dumps(row["prompt"]), []).append(pair)
    keys = sorted(groups)
    random.Random(0).shuffle(keys)
    return {key: groups[key] for key in keys}


def take(
    groups: dict[str, list[dict[str, Any]]],
    count: int,
    fits: Callable[[dict[str, Any]], bool],
    *,
    most: int | None = None,
) -> list[dict[str, Any]]:
    """Remove the first prompts whose pairs fit until there are `count` pairs, or no prompt is left.

    At most `most` pairs of a prompt are taken, at random (None: all); its others are nobody's.
    """
    taken: list[dict[str, Any]] = []
    for prompt in list(groups):
        if len(taken) >= count:
            break
        if all(map(fits, groups[prompt])):
            pairs = groups.pop(prompt)
            taken += pairs if most is None else random.Random(prompt).sample(pairs, min(most, len(pairs)))
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


# Whatever is asked: a judge of style that likes it cannot tell whether a model has learned more than to say so.
REFUSAL = "I'm sorry, I can't help with that."


def fit_judge(out: Path) -> None:
    """Put the judge where the comparison finds it, and measure it."""
    # A comparison knows a checker by its code: the pairs that this one reads must show in it.
    source = Path(__file__).with_name("style_judge.py").read_text(encoding="utf-8")
    digest = hashlib.sha256((out / "judge_pairs.jsonl").read_bytes()).hexdigest()
    (out / "style_judge.py").write_text(f'{source}\nJUDGE_PAIRS_SHA256 = "{digest}"\n', encoding="utf-8")
    judge = style_judge.fitted(out / "judge_pairs.jsonl")
    heldout = read(out / "heldout.jsonl")
    chosen, rejected = ([judge(row[side][-1]["content"]) for row in heldout] for side in ("chosen", "rejected"))
    wins = [(a > b) + 0.5 * (a == b) for a, b in zip(chosen, rejected, strict=True)]
    found = {
        "accuracy": statistics.fmean(wins),
        "chosen": statistics.fmean(chosen),
        "rejected": statistics.fmean(rejected),
        "refusal": judge(REFUSAL),
        "pairs": len(wins),
        "fitted_on_pairs": len(read(out / "judge_pairs.jsonl")),
    }
    (out / "judge.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"judge: {found}")


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON Lines file."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows as JSON Lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
