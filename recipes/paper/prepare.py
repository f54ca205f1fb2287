"""Fetch the paper's preference data and write them as the folders that the recipes beside this file run in.

    python recipes/paper/prepare.py OUT

Needs git and the Hugging Face hub. Writes OUT/<name>/train.jsonl and heldout.jsonl for the four DSP domains and for the
two halves of HH-RLHF (helpful, harmless), and OUT/helpful/heldout_prompts.jsonl, the last turns of prompts on which
the harmless stage must not forget the helpful one. Licences: DSP is CC BY-NC 4.0, HH-RLHF is MIT.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import datasets

from qadapter import load_preference_dataset

DSP = "https://github.com/Linear95/DSP"
DOMAINS = ("academy", "business", "entertainment", "literature")
HH = "Anthropic/hh-rlhf"
HALVES = {"helpful": "helpful-base", "harmless": "harmless-base"}
HELD_OUT, PROMPTS = 1000, 200


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args().out
    with tempfile.TemporaryDirectory() as clone:
        subprocess.run(["git", "clone", "--depth", "1", DSP, clone], check=True)
        for part, name in (("train", "train"), ("test", "heldout")):
            file = Path(clone) / "data" / f"domain_specific_preference.{part}.json"
            for domain in DOMAINS:
                write(load_preference_dataset(file, style=domain), out / domain / f"{name}.jsonl")
    for half, folder in HALVES.items():
        for part, name in (("train", "train"), ("test", "heldout")):
            pairs = load_preference_dataset(datasets.load_dataset(HH, data_dir=folder, split=part), on_bad_row="skip")
            if name == "heldout":
                pairs = pairs.select(range(min(HELD_OUT, len(pairs))))
            write(pairs, out / half / f"{name}.jsonl")
    helpful = load_preference_dataset(out / "helpful" / "heldout.jsonl").select(range(PROMPTS))
    lines = [json.dumps({"prompt": row["prompt"][-1]["content"], "kind": "helpful"}) + "\n" for row in helpful]
    (out / "helpful" / "heldout_prompts.jsonl").write_text("".join(lines), encoding="utf-8")


def write(pairs: datasets.Dataset, path: Path) -> None:
    """Pairs as JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ({key: row[key] for key in ("prompt", "chosen", "rejected")} for row in pairs)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"{path}: {len(pairs)} pairs")


if __name__ == "__main__":
    main()
