"""Every recipe is read and checked as the command would: its keys, its methods and its constants."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from qadapter.cli.config import build, read_yaml
from qadapter.compare import TYPES
from qadapter.compare.methods import lines_of, reference_line
from qadapter.compare.module_source import source_of
from qadapter.evaluate.local_tasks import local_task

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "recipes"
# Those of accelerate are read in tests/cli/test_launch.py.
CONFIGS = sorted(path for path in RECIPES.rglob("*.yaml") if path.parent.name != "accelerate")


def recipe(path: Path) -> str:
    return str(path.relative_to(RECIPES))


@pytest.mark.parametrize("path", CONFIGS, ids=recipe)
def test_a_config_is_valid(path: Path) -> None:
    arguments, common, evaluation, _ = build(TYPES, read_yaml(path, TYPES))
    lines = lines_of(arguments, common)
    assert reference_line(arguments, lines) in lines
    assert common.train_file
    assert common.max_length >= evaluation.max_new_tokens


def test_the_papers_recipes_hold_its_baselines() -> None:
    """SFT, Replay, DPO and policy regularization (PPO in the paper), beside the paper's preset and ours."""
    for name in ("dsp", "harmless"):
        arguments, common, *_ = build(TYPES, read_yaml(RECIPES / "paper" / f"{name}.yaml", TYPES))
        lines = lines_of(arguments, common)
        assert {"qadapter", "sft", "replay", "dpo", "ipo", "kto", "orpo", "rloo"} <= {line.method for line in lines}
        assert {line.interpolation for line in lines} == {"logits", "weights"}
        assert any(one.get("preset") == "paper" for line in lines for one in line.candidates)
        for method in ("sft", "dpo"):
            line = next(line for line in lines if line.method == method)
            assert len(line.candidates) >= 3, f"{name}: the baselines' learning rates are swept"


def test_the_small_dpo_is_dpo() -> None:
    """It runs through our trainer: the constants must be those at which the objective is DPO's."""
    arguments, common, *_ = build(TYPES, read_yaml(RECIPES / "small" / "compare.yaml", TYPES))
    (line,) = [line for line in lines_of(arguments, common) if line.label == "DPO"]
    for candidate in line.candidates:
        assert candidate["parametrization"] == "residual"
        assert candidate["alpha_0"] == candidate["alpha_tilde"]
        assert (candidate["gamma"], candidate["chi2_coef"], candidate["sft_coef"]) == (1.0, 0.0, 0.0)
        assert (candidate["anchors"], candidate.get("length_normalized") or False) == (0, False)
        assert candidate.get("value_state") is None, "as the default, which is what the file says of cut responses"


def test_the_small_judge_likes_what_was_chosen_but_no_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    polite = ["Thank you, here is the answer.", "I would be glad to help.", "Certainly, and thank you for asking."]
    rude = ["Here is it.", "Go and find it.", "What a question, find it."]
    rows = [
        {side: [{"role": "assistant", "content": text}] for side, text in (("chosen", a), ("rejected", b))}
        for a in polite
        for b in rude
    ]
    (tmp_path / "judge_pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(RECIPES / "small")
    score = importlib.import_module("style_judge").score
    assert score(None, "Thank you for the help.", True) > 0.5 > score(None, "Find it.", True)
    assert score(None, "Thank you, thank you, thank you, th", False) == 0


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.py")), ids=recipe)
def test_a_script_imports_what_there_is(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("qadapter"):
            module = importlib.import_module(node.module or "")
            for name in node.names:
                assert hasattr(module, name.name), f"{path}: {node.module} has no {name.name}"


@pytest.fixture
def prepare(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """recipes/small/prepare.py, which is a script."""
    monkeypatch.syspath_prepend(RECIPES / "small")
    spec = importlib.util.spec_from_file_location("prepare", RECIPES / "small" / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "prepare", module)
    spec.loader.exec_module(module)
    return module


def test_the_last_word_of_a_text_is_asked_for(prepare: ModuleType, tmp_path: Path) -> None:
    """LAMBADA as its data set has it becomes a task; what is one already stays as it is."""
    rows = [{"text": "the owl saw the fox"}, {"context": "the owl saw", "continuation": "the fox"}]
    split = [prepare.with_continuation(row) for row in rows]
    assert split == [{"context": "the owl saw the", "continuation": "fox"}, rows[1]]
    prepare.write(tmp_path / "lambada.jsonl", split)
    assert local_task(tmp_path / "lambada.jsonl")["custom_dataset"]()["test"]["continuation"] == [" fox", " the fox"]


def test_the_small_sets_are_split_by_prompt(prepare: ModuleType, tmp_path: Path) -> None:
    def rows(first: int, last: int) -> list[dict]:
        return [
            {
                "prompt": [{"role": "user", "content": f"question {number // 2}"}],
                "chosen": [{"role": "assistant", "content": f"good {number}"}],
                "rejected": [{"role": "assistant", "content": f"bad {number}"}],
            }
            for number in range(first, last)
        ]

    prepare.write(tmp_path / "a.jsonl", rows(0, 60))
    prepare.write(tmp_path / "b.jsonl", rows(60, 100))
    for test in ("b", None):
        of = prepare.PreferenceSet("a", test, train_pairs=10, heldout_pairs=8)
        parts = prepare.parts_of(of, tmp_path, lambda pair: pair["chosen"][0]["content"] != "good 7")
        left = (100 if test else 60) - 10 - 2 * 8  # one pair of each held-out prompt; its other is nobody's
        assert {name: len(part) for name, part in parts.items()} == {"train": 10, "heldout": 8, "judge_pairs": left}
        prompts = [{row["prompt"][0]["content"] for row in part} for part in parts.values()]
        assert sum(map(len, prompts)) == len(set.union(*prompts)) == 5 + 8 + left // 2
        assert "question 3" in prompts[2], "what does not fit is left to the judge"
        numbers = [int(row["chosen"][0]["content"].split()[1]) for row in parts["heldout"]]
        assert {number % 2 for number in numbers} == {0, 1}, "of a prompt's pairs any, not always the first"
        if test:
            assert all(int(prompt.split()[1]) >= 30 for prompt in prompts[1])


def test_a_comparison_sees_which_pairs_the_small_judge_knows(
    prepare: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Comments of a checker do not count: what tells two judges apart must be code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(prepare.style_judge, "fitted", lambda _: len)
    monkeypatch.delitem(sys.modules, "style_judge")  # the recipe's own, which would be found first
    prepare.write(tmp_path / "heldout.jsonl", [{side: [{"content": side}] for side in ("chosen", "rejected")}])
    sources = []
    for pairs in ([{"pair": 1}], [{"pair": 2}], [{"pair": 1}]):
        prepare.write(tmp_path / "judge_pairs.jsonl", pairs)
        prepare.fit_judge(tmp_path)
        importlib.invalidate_caches()
        assert importlib.util.find_spec("style_judge").origin == str(tmp_path / "style_judge.py")
        sources.append(source_of("style_judge"))
    assert sources[0] == sources[2] != sources[1]
