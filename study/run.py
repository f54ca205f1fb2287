"""Run the study on which docs/study.md stands: preference sets × methods, and what each constant does.

    python study/run.py DATA OUT [--set academy …] [--part methods …]

DATA holds the public files (see recipes/small/prepare.py). OUT receives everything that is trained; the same command
goes on where it stopped. The results of each part of each set are copied to study/results/; `python study/summarize.py`
makes study/summary.json, the plots and the tables of docs/study.md out of them.

The parts are comparisons of recipes/small/compare.yaml with other methods:

    methods    that file as it is: the two presets, DPO and SFT with three learning rates each, Replay
    constants  the default preset with one constant changed at a time
    reach      what more training and a dial beyond 2 reach: two epochs, strength 3
    faster     twice the default's learning rate, along the dial
    likelihood the default without the likelihood of the chosen response, along the dial, after one and two epochs
    cut        whether the value of a cut response's last state matters, where many responses are cut (ultrafeedback)
    noise      the default and DPO with 0, 10, 20 and 30 % of the labels flipped, two seeds
    pairs      the same with 0 and 20 %, on many more held-out pairs: those of the judge, whom nobody asks here, the
               first half million characters of them
    brakes     the default without its anchors, as in `pairs`
    lighter    the default with anchors of a third of their weight, as in `pairs`
    rates      DPO with a smaller and a larger learning rate than those of `methods`
    others     RPO (DPO with the likelihood of the chosen response), IPO, KTO and ORPO
    rloo       policy gradients on the rewards of a model trained on the same pairs
    helpful    `methods` on a base that was made helpful before: the paper's order, for harmless
    cost       every method on a few pairs, for its time and memory: run it alone, on a machine that does nothing else
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from qadapter.evaluate.retention import load_neutral_prompts

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "study" / "results"
SETS = ["politeness", "academy", "harmless", "business", "ultrafeedback"]
Methods = dict[str, dict[str, Any]]


def ours(**changed: Any) -> dict[str, Any]:
    """The default preset with changes."""
    return {"method": "qadapter", **changed}


DPO = ours(parametrization="residual", alpha_0=0.1, alpha_tilde=0.1, gamma=1.0, chi2_coef=0.0, sft_coef=0.0, anchors=0)
BEST_DPO = {**DPO, "learning_rate": "best"}
"""With the learning rate that the part `methods` of the same set found best."""
RLOO = {"method": "rloo", "learning_rate": 5e-4, "reward_learning_rate": 5e-4, "max_completion_length": 64}
CONSTANTS: Methods = {
    "default": ours(),
    "DPO": BEST_DPO,
    "no anchors": ours(anchors=0),
    "sft_coef 0": ours(sft_coef=0.0),
    "parametrization logits": ours(parametrization="logits"),
    "rho 0.5": ours(alpha_0=0.05),
    "chi2_coef 0": ours(chi2_coef=0.0),
    "chi2_coef 3": ours(chi2_coef=3.0),
    "alpha_tilde 0.05": ours(alpha_0=0.05, alpha_tilde=0.05),
    "alpha_tilde 0.3": ours(alpha_0=0.3, alpha_tilde=0.3),
    "value_state same": ours(value_state="same"),
    "length_normalized, alpha_tilde 3": ours(length_normalized=True, alpha_0=3.0, alpha_tilde=3.0),
    "learning_rate 2e-3": ours(learning_rate=2e-3),
}
FLIPPED: dict[str, Any] = {
    "seeds": [0, 1],
    "strengths": [1],
    "eval_file": "many.jsonl",
    "checker": [],
    "tasks": [],
    "text_file": None,
}
"""Accuracy alone, on the pairs of the judge."""
MANY_CHARACTERS = 500_000
"""Of the pairs of the judge that are measured: all of politeness, a third of the long answers of academy."""
PARTS: dict[str, dict[str, Any]] = {
    "methods": {},
    "constants": {"methods": CONSTANTS, "strengths": [1], "tasks": [], "text_file": None},
    "reach": {
        "methods": {
            "default": ours(),
            "default, two epochs": ours(num_train_epochs=2.0),
            "DPO": BEST_DPO,
            "DPO, two epochs": {**BEST_DPO, "num_train_epochs": 2.0},
        },
        "reference": "DPO",
        "strengths": [1, 2, 3],
        "tasks": [],
        "text_file": None,
    },
    "faster": {
        "methods": {
            "default": ours(),
            "learning_rate 2e-3": ours(learning_rate=2e-3),
        },
        "reference": "default",
        "tasks": [],
        "text_file": None,
    },
    "likelihood": {
        "methods": {
            "default": ours(),
            "sft_coef 0": ours(sft_coef=0.0),
            "sft_coef 0, two epochs": ours(sft_coef=0.0, num_train_epochs=2.0),
            "DPO": BEST_DPO,
        },
        "reference": "DPO",
        "strengths": [1, 2],
        "tasks": [],
        "text_file": None,
    },
    "cut": {
        "methods": {
            "default": ours(),
            "default, value_state same": ours(value_state="same"),
            "DPO": BEST_DPO,
            "DPO, value_state same": {**BEST_DPO, "value_state": "same"},
        },
        "reference": "DPO",
        "strengths": [1],
        "tasks": [],
        "text_file": None,
    },
    "noise": {
        "methods": {
            "default": {**ours(), "label_noise": [0.0, 0.1, 0.2, 0.3]},
            "DPO": {**BEST_DPO, "label_noise": [0.0, 0.1, 0.2, 0.3]},
        },
        "reference": "DPO, 0% flipped",
        "seeds": [0, 1],
        "strengths": [1],
        "tasks": [],
        "text_file": None,
    },
    "pairs": {
        "methods": {
            "default": {**ours(), "label_noise": [0.0, 0.2]},
            "DPO": {**BEST_DPO, "label_noise": [0.0, 0.2]},
        },
        "reference": "DPO, 0% flipped",
        **FLIPPED,
    },
    "brakes": {
        "methods": {
            "without anchors": {**ours(anchors=0), "label_noise": [0.0, 0.2]},
        },
        "reference": "without anchors, 0% flipped",
        **FLIPPED,
    },
    "lighter": {
        "methods": {
            "anchor_coef 1": {**ours(anchor_coef=1.0), "label_noise": [0.0, 0.2]},
        },
        "reference": "anchor_coef 1, 0% flipped",
        **FLIPPED,
    },
    "rates": {
        "methods": {"DPO": {**DPO, "learning_rate": [5e-5, 2e-3]}},
        "strengths": [1],
        "tasks": [],
        "text_file": None,
    },
    "others": {
        "methods": {
            "DPO": BEST_DPO,
            "RPO": {**DPO, "sft_coef": 0.2, "learning_rate": 5e-4},
            "IPO": {"method": "ipo", "learning_rate": 5e-4},
            "KTO": {"method": "kto", "learning_rate": 5e-4},
            "ORPO": {"method": "orpo", "learning_rate": 5e-4},
        },
    },
    "rloo": {
        "methods": {
            "DPO": BEST_DPO,
            "RLOO": RLOO,
        },
    },
    "helpful": {"model": "base"},
    "cost": {
        "methods": {
            # As many for each pair as 128 are for the 256 of the other parts.
            "default": ours(anchors=16),
            "paper": ours(preset="paper"),
            "DPO": {"method": "dpo"},
            "DPO, our trainer": DPO,
            "RPO, our trainer": {**DPO, "sft_coef": 0.2},
            "SFT": {"method": "sft"},
            "Replay": {"method": "replay", "replay_max_new_tokens": 64},
            "IPO": {"method": "ipo"},
            "KTO": {"method": "kto"},
            "ORPO": {"method": "orpo"},
            "RLOO": RLOO,
        },
        "train_pairs": 32,
        "eval_file": "few.jsonl",
        "neutral_file": "few_neutral.jsonl",
        "strengths": [0.5, 1],
        "benchmark_strengths": [0.5, 1],
        "max_prompts": 2,
        "max_new_tokens": 8,
        "tasks": [],
        "text_file": None,
    },
}


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--set", nargs="+", choices=SETS, default=SETS, help="preference sets")
    parser.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS))
    options = parser.parse_args()
    for name in options.set:
        folder = options.out.absolute() / name
        run("recipes/small/prepare.py", name, str(options.data), str(folder))
        shutil.copy(folder / "judge.json", RESULTS / f"{name}.judge.json")
        for part in options.part:
            if part == "helpful":
                make_helpful(options.data, folder)
            compare(folder, part)
            shutil.copy(folder / part / "results.json", RESULTS / f"{name}.{part}.json")


def make_helpful(data: Path, folder: Path) -> None:
    """The base of `helpful` in the folder of a set: a model that learned to be helpful, as a plain one."""
    if (folder / "base" / "tokenizer_config.json").is_file():  # which is written last
        return
    helpful = folder.parent / "helpful"
    pairs, adapter = str(helpful / "train.jsonl"), str(helpful / "adapter")
    run("recipes/small/prepare.py", "helpful", str(data), str(helpful))
    run("-m", "qadapter", "train", "--train-file", pairs, "--max-length", "160", "--output-dir", adapter, "--overwrite")
    run("recipes/paper/fold.py", adapter, str(folder / "base"))


def compare(folder: Path, part: str) -> None:
    """`qadapter compare` in the folder of a set. Parts share what they train: their jobs lie in one folder."""
    config = yaml.safe_load((ROOT / "recipes" / "small" / "compare.yaml").read_text(encoding="utf-8"))
    config = {name: value for name, value in (config | PARTS[part]).items() if value is not None}
    config["methods"] = {label: with_best_rate(method, folder.name) for label, method in config["methods"].items()}
    pairs = (folder / "heldout.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "few.jsonl").write_text("".join(pairs[:8]), encoding="utf-8")
    (folder / "many.jsonl").write_text("".join(first(folder / "judge_pairs.jsonl", MANY_CHARACTERS)), encoding="utf-8")
    neutral = [json.dumps(prompt) + "\n" for prompt in load_neutral_prompts()[:8]]
    (folder / "few_neutral.jsonl").write_text("".join(neutral), encoding="utf-8")
    path = folder / f"{part}.yaml"
    path.write_text(yaml.safe_dump(config | {"output_dir": "runs"}, sort_keys=False), encoding="utf-8")
    run("-m", "qadapter", "compare", "--config", path.name, cwd=folder)
    (folder / part).mkdir(exist_ok=True)
    for name in ("results.json", "results.md", "report.html", "frontier.png"):
        (folder / "runs" / name).replace(folder / part / name)


def first(path: Path, characters: int) -> Iterator[str]:
    """The first lines of a file that together have at most so many characters."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            characters -= len(line)
            if characters < 0:
                return
            yield line


def with_best_rate(method: dict[str, Any], name: str) -> dict[str, Any]:
    """A method whose learning rate is `best` with that of the DPO that was drawn on the set."""
    if method.get("learning_rate") != "best":
        return method
    path = RESULTS / f"{name}.methods.json"
    if not path.is_file():
        raise SystemExit(f"{path} is missing: run the part `methods` of {name} first")
    lines = json.loads(path.read_text(encoding="utf-8"))["lines"]
    (dpo,) = [line for line in lines if line["label"] == "DPO"]
    return {**method, "learning_rate": dpo["hyperparameters"]["learning_rate"]}


def run(*arguments: str, cwd: Path = ROOT) -> None:
    """A Python process; ends this one where it fails."""
    print(f"$ python {' '.join(arguments)}", flush=True)
    if subprocess.run([sys.executable, *arguments], cwd=cwd, env=os.environ, check=False).returncode:
        raise SystemExit(f"failed: {' '.join(arguments)}")


if __name__ == "__main__":
    main()
