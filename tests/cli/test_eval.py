"""`qadapter eval` on a trained tiny artifact."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from qadapter import evaluate as evaluate_package
from qadapter.cli.main import main


def says_yes(answer: str) -> bool:
    """The checker of these tests."""
    return "yes" in answer


def no_preference(prompt: list[dict[str, str]], answer: str) -> float:
    """A checker that is always undecided."""
    return 0.5


def raises(prompt: list[dict[str, str]], answer: str, finished: bool) -> float:
    """A checker that cannot tell."""
    raise ValueError("no idea")


CHECKERS = ("--checker", f"{__name__}:says_yes", f"{__name__}:no_preference")


def evaluate(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["eval", *argv]) == 0
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tasks") / "animals.jsonl"
    rows = [
        {"goal": f"Is the {animal} like the owl?", "sol1": "yes, it is", "sol2": "no", "label": 0}
        for animal in ("cat", "dog", "fox")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_everything_in_one_run(
    trained: Path, pairs_file: Path, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    neutral, text = tmp_path / "neutral.jsonl", tmp_path / "text.jsonl"
    neutral.write_text('{"prompt": "Is the cat here?"}\n{"prompt": "the dog", "kind": "document"}\n')
    text.write_text('{"text": "the cat is not like the dog"}\n{"text": " \\n"}\n{"text": "owl"}\n')
    output, report = tmp_path / "result.json", tmp_path / "report.html"
    flags = [
        *("--preference-file", str(pairs_file), "--neutral-file", str(neutral), "--text-file", str(text)),
        *("--tasks", str(questions), "--max-prompts", "4", "--max-new-tokens", "6", "--strength", "1", "0.5"),
        *("--dtype", "float32"),
    ]
    out = evaluate(capsys, str(trained), *flags, *CHECKERS, "--output", str(output), "--report", str(report))
    result = json.loads(output.read_text())
    base, full, half = result["policies"]
    assert [policy["strength"] for policy in result["policies"]] == [0.0, 1.0, 0.5]

    # What scripts read.
    assert result["dtype"] == "float32"
    constants = json.loads((trained / "qadapter_config.json").read_text())["constants"]
    assert result["dial_from_base"] == (constants["alpha_0"] == constants["alpha_tilde"])
    assert result["preference"]["accuracy"] == full["preference"]["accuracy"]
    assert result["preference"]["pairs"] == 24
    assert result["retention"]["kl_to_base"] == full["retention"]["kl_to_base"] > half["retention"]["kl_to_base"] > 0
    assert base["retention"]["kl_to_base"] == 0

    assert full["text"]["documents"] == 2
    assert full["tasks"]["animals"]["count"] == 3
    assert full["answers"]["prompts"] == 4
    difference = full["difference"]
    changed = full["text"]["nats_per_token"] - base["text"]["nats_per_token"]
    assert difference["text.nats_per_token"]["difference"] == pytest.approx(changed)
    assert difference["retention.kl_to_base"]["low"] <= full["retention"]["kl_to_base"]
    names = [name for name in difference if name.startswith("judges.")]
    assert names == [f"judges.checker:{name}" for name in CHECKERS[1:]]
    (agreed,) = full["agreement"]
    assert agreed["prompts"] == 4

    for line in ("gained", "kept", "pair accuracy", "animals", "KL to the base"):
        assert line in out
    assert "strength 0.5" in out.splitlines()[0]
    page = report.read_text()
    assert "<svg" in page
    assert "<script" not in page


def test_a_judge_that_fails_is_said_before_the_benchmarks_and_in_the_table(
    trained: Path, pairs_file: Path, questions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--preference-file", str(pairs_file), "--tasks", str(questions), "--max-prompts", "2"]
    assert main(["eval", str(trained), *flags, "--max-new-tokens", "2", "--checker", f"{__name__}:raises"]) == 0
    said = capsys.readouterr()
    for label in ("base", "strength 1"):
        line = (
            f"{label}: checker:{__name__}:raises failed on 2 of 2 answers; they are not counted. The first: "
            "ValueError: no idea"
        )
        assert line in said.out
        assert said.err.index(f"warning: {line}") < said.err.index("base: tasks")


def test_a_prompt_without_room_for_an_answer_shows_before_anything_is_measured(
    trained: Path, pairs_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": "Hi"}) + "\n" + json.dumps({"prompt": "Hi " * 180}) + "\n")
    flags = ["--preference-file", str(pairs_file), "--prompts-file", str(prompts), "--max-new-tokens", "8"]
    assert main(["eval", str(trained), *flags]) == 2
    said = capsys.readouterr().err
    assert "prompt 2 of 2 has 549 tokens" in said
    assert "base: " not in said


def test_what_was_cut_stands_in_the_result(
    trained: Path,
    pairs_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    flags = ["--preference-file", str(pairs_file), "--json", "--report", str(tmp_path / "report.html")]
    assert json.loads(evaluate(capsys, str(trained), *flags))["preference"]["cut_responses"] == 0
    result = json.loads(evaluate(capsys, str(trained), *flags, "--max-length", "17"))
    cut = result["preference"]["cut_responses"]
    assert 0 < cut <= 48
    assert f"{cut} of 48 responses are longer than max_length=17" in caplog.text
    assert "held-out responses cut at max_length" in (tmp_path / "report.html").read_text()


def test_prompts_that_are_plain_text_stand_in_the_report(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs, report = tmp_path / "pairs.jsonl", tmp_path / "report.html"
    pairs.write_text('{"prompt": "the cat", "chosen": " is here", "rejected": " is not"}\n')
    flags = ["--preference-file", str(pairs), "--max-new-tokens", "2", "--report", str(report)]
    evaluate(capsys, str(trained), *flags, "--checker", "qadapter.demo.checker:brief_with_follow_up")
    page = report.read_text()
    assert "the cat" in page
    label = re.findall(r"<!-- (gain: .*?) -->", page, re.DOTALL)
    assert label
    assert all(len(line) <= 44 for text in label for line in text.split("\n")), "a longer one is cut off"


def test_a_judge_that_is_not_there_shows_before_the_model_is_loaded(
    trained: Path, pairs_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("qadapter.model.QAdapterForCausalLM.from_pretrained", never)
    flags = ["--preference-file", str(pairs_file), "--judge-endpoint", "http://127.0.0.1:1/v1", "--judge-model", "m"]
    flags += ["--judge-retries", "0", "--judge-cache", str(tmp_path / "judgments.jsonl")]
    assert main(["eval", str(trained), *flags]) == 2
    assert "http://127.0.0.1:1/v1/chat/completions does not answer" in capsys.readouterr().err


def test_solved_examples_that_a_task_does_not_take_are_said(
    trained: Path, questions: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("qadapter.evaluate.tasks._takes_none", lambda task: True)
    assert main(["eval", str(trained), "--tasks", str(questions), "--num-fewshot", "2", "--task-limit", "1"]) == 0
    assert "num_fewshot=2 does not change animals" in caplog.text


def test_the_benchmarks_come_after_all_that_a_judge_may_refuse(
    trained: Path, pairs_file: Path, questions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--preference-file", str(pairs_file), "--tasks", str(questions), "--max-prompts", "2", *CHECKERS]
    assert main(["eval", str(trained), *flags, "--max-new-tokens", "2"]) == 0
    stages = [line.rpartition(" s  ")[2] for line in capsys.readouterr().err.splitlines() if " s  " in line]
    parts = ["preference", "answers", "judges", "retention"]
    quick = [f"{policy}: {part}" for policy in ("base", "strength 1") for part in parts]
    assert stages == [*quick, "base: tasks", "strength 1: tasks"]


def test_what_is_known_before_the_benchmarks_is_not_lost_in_them(
    trained: Path, pairs_file: Path, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate_package, "measure_benchmarks", killed)
    flags = ["--preference-file", str(pairs_file), "--tasks", str(questions), "--max-prompts", "2", *CHECKERS]
    flags += ["--max-new-tokens", "2", "--output", str(tmp_path / "result.json")]
    assert main(["eval", str(trained), *flags]) == 130
    base, full = json.loads((tmp_path / "result.json").read_text())["policies"]
    assert len(full["answers"]["items"]) == len(base["answers"]["items"]) == 2
    assert "preference.accuracy" in full["difference"]


def test_where_there_is_no_room_for_the_result_it_is_printed_and_the_one_before_is_kept(
    trained: Path,
    pairs_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    on_a_full_disk: Callable[[Path], None],
) -> None:
    output = tmp_path / "result.json"
    output.write_text("what was measured before the benchmarks")
    on_a_full_disk(output)
    assert main(["eval", str(trained), "--preference-file", str(pairs_file), "--output", str(output)]) == 2
    said = capsys.readouterr()
    assert "pair accuracy" in said.out
    assert said.err.endswith(f"error: {output}: No space left on device\n")
    assert output.read_text() == "what was measured before the benchmarks"


def test_a_result_that_nobody_reads_is_saved(
    trained: Path, pairs_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_args: object) -> str:
        raise BrokenPipeError

    monkeypatch.setattr("qadapter.cli.eval_table.table", closed)
    monkeypatch.setattr("os.dup2", lambda *_: None)
    output = tmp_path / "result.json"
    assert main(["eval", str(trained), "--preference-file", str(pairs_file), "--output", str(output)]) == 2
    assert len(json.loads(output.read_text())["policies"]) == 2


def test_an_adapter_that_diverged(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(trained, broken)
    file = broken / "adapter" / "adapter_model.safetensors"
    save_file({name: tensor * float("nan") for name, tensor in load_file(file).items()}, file)
    assert main(["eval", str(broken)]) == 2
    assert "gives values that are no numbers: it diverged in training" in capsys.readouterr().err


def test_json_instead_of_the_table_and_another_batch_size(
    trained: Path, pairs_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    neutral = tmp_path / "neutral.jsonl"
    neutral.write_text('{"prompt": "Is the cat here?"}\n')
    flags = ["--preference-file", str(pairs_file), "--neutral-file", str(neutral), "--json"]
    one = json.loads(evaluate(capsys, str(trained), *flags))
    other = json.loads(evaluate(capsys, str(trained), *flags, "--batch-size", "5"))
    assert other["preference"]["margin"] == pytest.approx(one["preference"]["margin"], rel=1e-4)
    assert "answers" not in one["policies"][1]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "the adapter's folder comes first"),
        (["nowhere"], "is not a Q-Adapter artifact"),
        (["TRAINED", "--preference-file", "nowhere.jsonl"], "nowhere.jsonl"),
        (["TRAINED", "--text-file", "nowhere.txt"], "nowhere.txt"),
        (["TRAINED", "--output", "no/such/folder/x.json"], "the folder does not exist"),
        (["TRAINED", "--report", "no/such/folder/x.html"], "the folder does not exist"),
        (["TRAINED", "--output", "x.json", "--report", "./x.json"], "--output and --report name one file, x.json"),
        (["TRAINED", "--seed", "-1"], "seed must be a whole number from 0 to 4294967295, got -1"),
        (["TRAINED", "--strength", "0"], "strength 0 is the base"),
        (["TRAINED", "--strength", "nan"], "--strength must be above 0"),
        (["TRAINED", "--strength", "1", "1.0"], "names a dial twice"),
        (["TRAINED", "--batch-size", "0"], "batch_size must be at least 1"),
        (["TRAINED", "--prefrence-file", "x"], "did you mean '--preference-file'"),
        (["TRAINED", "--checker", "no_such_module:f"], "no_such_module"),
        (["TRAINED", CHECKERS[0], CHECKERS[1]], "judges but no prompts"),
        (["TRAINED", "--judge-endpoint", "http://localhost:1/v1"], "judge_model"),
        (["TRAINED", "--tasks", "nowhere.jsonl"], "no such file: nowhere.jsonl"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_input_shows_before_the_model_is_loaded(
    trained: Path,
    argv: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("qadapter.model.QAdapterForCausalLM.from_pretrained", never)
    assert main(["eval", *(str(trained) if word == "TRAINED" else word for word in argv)]) == 2
    assert message in capsys.readouterr().err


def test_a_neutral_file_without_prompts(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "n.jsonl").write_text('{"prompt": "the cat"}\n{"text": "the dog"}\n')
    assert main(["eval", str(trained), "--neutral-file", str(tmp_path / "n.jsonl")]) == 2
    assert "n.jsonl:2: missing or empty field 'prompt'" in capsys.readouterr().err


@pytest.mark.parametrize(("flag", "field"), [("--neutral-file", "prompt"), ("--text-file", "text")])
def test_half_a_character_in_a_file(
    flag: str, field: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "n.jsonl").write_text(json.dumps({field: "the \ud83d"}))
    assert main(["eval", str(trained), flag, str(tmp_path / "n.jsonl")]) == 2
    said = f"n.jsonl:1: {field} holds a lone surrogate '\\ud83d', which is no character"
    assert said in capsys.readouterr().err


def test_a_neutral_prompt_without_room_for_an_answer(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "n.jsonl"
    file.write_text(json.dumps({"prompt": "the cat " * 5000}) + "\n")
    monkeypatch.setattr("qadapter.evaluate.measure_policy", None)
    assert main(["eval", str(trained), "--neutral-file", str(file)]) == 2
    said = capsys.readouterr().err
    assert f"{file}: the longest has " in said
    assert "give shorter prompts with neutral_file" in said


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    import dataclasses

    from qadapter.cli.eval_arguments import TYPES

    text = evaluate(capsys, "--help")
    assert "(default: )" not in text
    for one in TYPES:
        for field in dataclasses.fields(one):
            assert f"--{field.name.replace('_', '-')}\n" in text
