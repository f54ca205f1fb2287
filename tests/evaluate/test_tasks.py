"""lm-eval on the policy at a strength, and local files as tasks."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import PAPER, RESIDUAL, make_base, make_model

from qadapter.errors import ConfigError, DataError
from qadapter.evaluate import local_tasks
from qadapter.evaluate import tasks as tasks_module
from qadapter.evaluate.harness import _warn_once, run_tasks
from qadapter.evaluate.local_tasks import local_task
from qadapter.evaluate.policy import policy_at
from qadapter.evaluate.tasks import LoadedTask, load_tasks

pytest.importorskip("lm_eval")

ROWS = {
    "arc": {
        "question": "wa wb",
        "choices": {"text": ["va", "vb vc", "vd"], "label": ["1", "2", "3"]},
        "answerKey": "2",
    },
    "hellaswag": {
        "activity_label": "wa",
        "ctx": "wb wc [title] wd [x] we",
        "endings": ["va [substeps] vb", "vc", "vd ve", "vf"],
        "label": "1",
    },
    "piqa": {"goal": "wa", "sol1": "va vb", "sol2": "vc", "label": 1},
    "lambada": {"context": "wa wb wc", "continuation": "wd"},
    "mmlu": {"question": " wa wb ", "choices": ["va", "vb", "vc", "vd"], "answer": 2},
    "gsm8k": {"question": "wa wb", "answer": "vc vd\n#### 1,234"},
}


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def questions(count: int = 7) -> dict[str, list[dict]]:
    """Choices whose lengths differ, and two questions with the same text."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return {
        "piqa": [
            {
                "goal": f"w{letters[i % 5]} wb",
                "sol1": f"v{letters[i]}",
                "sol2": f"w{letters[i + 3]} vc ve",
                "label": i % 2,
            }
            for i in range(count)
        ],
        "lambada": [{"context": f"w{letters[i]} vb vc", "continuation": f"v{letters[i + 1]}"} for i in range(count)],
        "mmlu": [{"question": f"w{letters[i]}", "choices": ["va", "vb", "vc"], "answer": i % 3} for i in range(count)],
    }


@pytest.fixture
def tasks(tmp_path: Path) -> list:
    return load_tasks([write(tmp_path / f"{name}.jsonl", rows) for name, rows in questions().items()])


@pytest.mark.parametrize("name", ROWS)
def test_each_schema_gives_the_question_of_lm_evals_own_task(name: str, tmp_path: Path) -> None:
    """The text of lm-eval's own templates, filled in by hand."""
    (loaded,) = load_tasks([write(tmp_path / "mine.jsonl", [ROWS[name]])])
    task = loaded.task
    doc = task.task_docs[0]
    asked = {
        "arc": ("Question: wa wb\nAnswer:", ["va", "vb vc", "vd"], 1),
        "hellaswag": ("wa: wb wc. wd we", ["va vb", "vc", "vd ve", "vf"], 1),
        "piqa": ("Question: wa\nAnswer:", ["va vb", "vc"], 1),
        "lambada": ("wa wb wc", None, " wd"),
        "mmlu": ("wa wb\nA. va\nB. vb\nC. vc\nD. vd\nAnswer:", ["A", "B", "C", "D"], 2),
        "gsm8k": ("Question: wa wb\nAnswer:", None, "vc vd\n#### 1,234"),
    }[name]
    assert loaded.name == "mine"
    text = task.doc_to_text(doc)
    assert (text, task.doc_to_target(doc)) == (asked[0], asked[2])
    if asked[1] is not None:
        assert task.doc_to_choice(doc) == asked[1]


@pytest.mark.parametrize("last", ["he", "the man from Paris [step] sits", ""])
def test_a_hellaswag_row_in_two_parts_is_asked_as_by_lm_eval(last: str, tmp_path: Path) -> None:
    from datasets import Dataset
    from lm_eval.tasks.hellaswag.utils import process_docs

    first = "A man is sitting on a roof. [title] More"
    row = {**ROWS["hellaswag"], "ctx_a": first, "ctx_b": last, "ctx": f"{first} {last}"}
    (loaded,) = load_tasks([write(tmp_path / "mine.jsonl", [row])])
    theirs, ours = process_docs(Dataset.from_list([row]))[0], loaded.task.task_docs[0]
    assert {name: ours[name] for name in ("query", "choices", "gold")} == {
        name: theirs[name] for name in ("query", "choices", "gold")
    }


def test_a_generated_answer_is_read_as_gsm8k_reads_it(tmp_path: Path) -> None:
    (loaded,) = load_tasks([write(tmp_path / "mine.jsonl", [ROWS["gsm8k"]])])
    doc = loaded.task.task_docs[0]
    (ensemble,) = loaded.task._filters
    for said, right in (("so 5 and $1,234.", 1.0), ("1,234 no, 7", 0.0), ("none", 0.0)):
        (filtered,) = ensemble.filters[0]().apply([[said]], [doc])
        assert loaded.task.process_results(doc, [filtered[0]])["exact_match"] == right, said


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"prompt": "x", "reply": "y"}],
            r"mine.jsonl:1: no known task has the fields prompt, reply.\nhint: known fields",
        ),
        ([{"text": "x"}], "plain text goes to --text-file"),
        ([{"prompt": "x", "instruction_id_list": ["a"], "kwargs": [{}]}], "lm-eval's own task, ifeval"),
        ([ROWS["piqa"], ROWS["arc"]], "mine.jsonl:2: not in the fields of the first row"),
        ([ROWS["piqa"], {**ROWS["piqa"], "label": 2}], "mine.jsonl:2: label must be 0 to 1, got 2"),
        ([{**ROWS["piqa"], "sol1": " "}], "sol1 must be a text"),
        ([{**ROWS["arc"], "answerKey": "Z"}], "answerKey 'Z' is none of the labels"),
        ([{**ROWS["arc"], "choices": {"text": ["a"], "label": ["A"]}}], "at least 2"),
        ([{**ROWS["mmlu"], "choices": ["a"]}], "2 to 26 texts"),
        ([{**ROWS["mmlu"], "choices": ["a", 4, "c"]}], "choices must be texts, .* got 4"),
        ([{**ROWS["hellaswag"], "endings": [1, 2]}], "endings must be texts, .* got 1"),
        ([{**ROWS["hellaswag"], "endings": ["va", "[title]"]}], r"endings must be texts, .* got '\[title\]'"),
        (
            [ROWS["arc"], {**ROWS["arc"], "choices": {"text": ["a", None], "label": ["2", "3"]}}],
            "mine.jsonl:2: .* None",
        ),
        ([{**ROWS["arc"], "choices": {"text": [" ", "b"], "label": ["2", "3"]}}], "choices must be texts, .* got ' '"),
        ([{**ROWS["piqa"], "goal": "a \ud83d"}], r"mine.jsonl:1: goal holds a lone surrogate '\\ud83d'"),
        ([{**ROWS["hellaswag"], "label": "x"}], "label must be 0 to 3"),
        ([{**ROWS["hellaswag"], "ctx_a": "wb", "ctx_b": 3}], "ctx_a and ctx_b must be texts, got 'wb' and 3"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_rows_that_ask_nothing(rows: list[dict], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        local_task(write(tmp_path / "mine.jsonl", rows))


def test_a_perplexity_beyond_all_floats_costs_nothing_else(tmp_path: Path, tokenizer) -> None:
    rows = [{"context": "wa", "continuation": "vb " * 30}]
    model = make_model(constants=RESIDUAL)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(1e4)
    (task,) = run_tasks(
        model, tokenizer, load_tasks([write(tmp_path / "mine.jsonl", rows)]), strength=0.0, limit=None, batch_size=1,
        num_fewshot=None, chat_template=False, seed=0,
    ).values()  # fmt: skip
    assert (task["value"], task["other"]["perplexity,none"]) == (0.0, None)


def test_a_file_that_has_the_name_of_a_figure(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"`tasks\.mean` is the mean of all tasks\.\nhint: give the file another name"):
        local_task(write(tmp_path / "mean.jsonl", [ROWS["piqa"]]))


def test_unknown_names_list_the_near_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown task 'helaswag'.*\n.*did you mean .*hellaswag"):
        load_tasks(["helaswag"])


def test_a_task_whose_data_the_hub_does_not_give(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def offline(*args: object, **kwargs: object) -> None:
        raise ConnectionError("Couldn't reach the Hugging Face Hub\nand more")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(
        ConfigError, match=r"the data of task 'piqa' cannot be had: Couldn't reach the Hugging Face Hub\n"
    ):
        load_tasks(["piqa"])


def test_a_task_without_a_mean_over_its_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As lm-eval's wikitext and humaneval: it shows before a model answers anything."""
    schemas = {schema.name: schema for schema in local_tasks.SCHEMAS}
    config = dict(schemas["lambada"].config)
    config["metric_list"] = [metric for metric in config["metric_list"] if metric["metric"] == "perplexity"]
    monkeypatch.setattr(local_tasks, "SCHEMAS", (schemas["lambada"]._replace(config=config),))
    with pytest.raises(ConfigError, match=r"task 'mine' has none of the metrics acc_norm, .*; it has perplexity"):
        load_tasks([write(tmp_path / "mine.jsonl", [ROWS["lambada"]])])


def test_a_task_whose_headline_is_no_mean_over_its_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As lm-eval's tinyBenchmarks, which make theirs of a model of the questions."""
    means = tasks_module._is_mean
    monkeypatch.setattr(local_tasks, "_perplexity", lambda items: 0.5)
    schemas = {schema.name: schema for schema in local_tasks.SCHEMAS}
    made = {"metric": "acc", "aggregation": "perplexity", "higher_is_better": True}
    config = {**schemas["lambada"].config, "metric_list": [made]}
    monkeypatch.setattr(local_tasks, "SCHEMAS", (schemas["lambada"]._replace(config=config),))
    file = write(tmp_path / "mine.jsonl", [ROWS["lambada"]])
    with pytest.raises(ConfigError, match="task 'mine': its acc is not the mean over its questions"):
        load_tasks([file])
    monkeypatch.setattr(tasks_module, "_is_mean", lambda aggregation: not means(aggregation))
    assert [task.name for task in load_tasks([file])] == ["mine"], "nothing else is wrong with it"


def test_two_files_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    paths = [write(folder / "mine.jsonl", [ROWS["piqa"]]) for folder in (tmp_path, tmp_path / "more")]
    with pytest.raises(ConfigError, match="'mine' is there twice"):
        load_tasks(paths)


def test_a_task_that_is_also_in_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `mmlu mmlu_stem`, of which lm-eval would say so after the models have answered."""
    monkeypatch.setattr(tasks_module, "_check_metrics", lambda named, tasks: None)
    monkeypatch.setattr(
        tasks_module, "_named", lambda spec, found: [LoadedTask(spec, found, ["mmlu_anatomy", f"{spec}_other"])]
    )
    monkeypatch.setattr(tasks_module, "_check_names", lambda names, known: None)
    manager = SimpleNamespace(all_tasks=[], load=lambda specs: {"tasks": {}, "groups": {}})
    monkeypatch.setattr(tasks_module, "task_manager", lambda include_defaults: manager)
    with pytest.raises(ConfigError, match=r"'mmlu_anatomy' \(of mmlu\) is there twice \(of mmlu_stem\)"):
        load_tasks(["mmlu", "mmlu_stem"])


def test_more_solved_examples_than_the_file_has_others(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", questions(3)["piqa"])
    assert load_tasks([path], num_fewshot=2)
    with pytest.raises(ConfigError, match=r"num_fewshot is 3, but .*mine\.jsonl holds 3 questions"):
        load_tasks([path], num_fewshot=3)


def harness_lm(model, tokenizer, **kwargs):
    from qadapter.evaluate.harness import QAdapterLM

    return QAdapterLM(model, tokenizer=tokenizer, **kwargs)


def requests(kind: str, arguments: list[tuple]) -> list:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, args, index) for index, args in enumerate(arguments)]


TEXTS = [("wa wb wc", " va vb"), ("wa wb wc", " vc"), ("wd", " ve vf vg"), ("we wf wg wh", " va"), ("", "wa vb")]


@pytest.mark.parametrize("constants", [PAPER, RESIDUAL], ids=["paper", "residual"])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_loglikelihood_is_the_models_own(tokenizer, constants, strength: float) -> None:
    model = make_model(constants=constants)
    for batch_size in (1, 3):
        lm = harness_lm(model, tokenizer, strength=strength, batch_size=batch_size)
        found = lm.loglikelihood(requests("loglikelihood", TEXTS))
        for (context, continuation), (logp, greedy) in zip(TEXTS, found, strict=True):
            context_ids = tokenizer(context)["input_ids"] if context else [tokenizer.bos_token_id]
            ids = tokenizer(continuation, add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([context_ids + ids]), strength=strength).logits[0].double()
            states = slice(len(context_ids) - 1, -1)
            expected = logits.log_softmax(-1)[states][range(len(ids)), ids]
            assert logp == pytest.approx(float(expected.sum()), rel=1e-4)
            assert greedy == (logits[states].argmax(-1).tolist() == ids)


@pytest.mark.parametrize("constants", [PAPER, RESIDUAL], ids=["paper", "residual"])
def test_strength_0_is_what_lm_eval_says_of_the_plain_base(tokenizer, constants) -> None:
    from lm_eval.models.huggingface import HFLM

    generate = [(text, {"until": ["vz"], "max_gen_toks": 6}) for text in ("wa wb", "wc wd we wf", "va")]
    plain = HFLM(pretrained=make_base(), tokenizer=tokenizer, batch_size=2, max_length=64)
    ours = harness_lm(make_model(constants=constants), tokenizer, strength=0.0, batch_size=2, max_length=64)
    for (logp, greedy), (expected, expected_greedy) in zip(
        ours.loglikelihood(requests("loglikelihood", TEXTS)),
        plain.loglikelihood(requests("loglikelihood", TEXTS)),
        strict=True,
    ):
        assert logp == pytest.approx(expected, rel=1e-4)
        assert greedy == expected_greedy
    rolling = [("wa wb wc wd we",), ("va",)]
    assert ours.loglikelihood_rolling(requests("loglikelihood_rolling", rolling)) == pytest.approx(
        plain.loglikelihood_rolling(requests("loglikelihood_rolling", rolling)), rel=1e-4
    )
    answers = ours.generate_until(requests("generate_until", generate))
    assert answers == plain.generate_until(requests("generate_until", generate))
    assert any(answers)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_generate_until_is_the_models_own_generate(tokenizer, strength: float) -> None:
    model = make_model(constants=RESIDUAL)
    texts = ["wa wb", "wc wd we wf", "va"]
    arguments = [(text, {"until": ["vz"], "max_gen_toks": 6}) for text in texts]
    together = harness_lm(model, tokenizer, strength=strength, batch_size=3, max_length=64)
    alone = harness_lm(model, tokenizer, strength=strength, batch_size=1, max_length=64)
    found = together.generate_until(requests("generate_until", arguments))
    assert found == alone.generate_until(requests("generate_until", arguments))
    for text, answer in zip(texts, found, strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        output = model.generate(
            input_ids=ids, max_new_tokens=6, do_sample=False, pad_token_id=0, **policy_at(model, strength)
        )
        assert answer == tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True).split("vz")[0]


def test_a_text_beyond_the_context_loses_its_beginning(tokenizer) -> None:
    model = make_model(constants=RESIDUAL)
    lm = harness_lm(model, tokenizer, max_length=6)
    ((short, _),) = lm._loglikelihood_tokens([(None, [7, 8, 9, 10, 11], [12, 13])])
    ((long, _),) = lm._loglikelihood_tokens([(None, [3, 4, 5, 6, 7, 8, 9, 10, 11], [12, 13])])
    assert short == pytest.approx(long, rel=1e-5)
    with pytest.raises(ConfigError, match="scores 7 tokens at once, and the model takes 6"):
        lm._loglikelihood_tokens([(None, [3], [4] * 7)])


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_results_of_tasks_against_the_models_log_probs(tokenizer, tasks: list, strength: float) -> None:
    model = make_model(constants=RESIDUAL)
    found = run_tasks(model, tokenizer, tasks, strength=strength, batch_size=3)
    again = run_tasks(model, tokenizer, tasks, strength=strength, batch_size=16)
    assert {name: one["items"] for name, one in again.items()} == {name: one["items"] for name, one in found.items()}

    def logp(context: str, continuation: str) -> float:
        context_ids = tokenizer(context)["input_ids"]
        ids = tokenizer(continuation, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([context_ids + ids]), **policy_at(model, strength)).logits[0]
        return float(logits.log_softmax(-1)[len(context_ids) - 1 : -1][range(len(ids)), ids].sum())

    expected = []
    for row in questions()["piqa"]:
        prompt = f"Question: {row['goal']}\nAnswer:"
        scores = [logp(prompt, " " + row[side]) / len(row[side]) for side in ("sol1", "sol2")]
        expected.append(float(scores.index(max(scores)) == row["label"]))
    assert found["piqa"]["items"] == expected
    assert found["piqa"]["metric"] == "acc_norm"
    assert found["piqa"]["value"] == pytest.approx(sum(expected) / 7)
    assert set(found["piqa"]["other"]) == {"acc,none"}
    nats = [-logp(row["context"], " " + row["continuation"]) for row in questions()["lambada"]]
    assert found["lambada"]["metric"] == "acc"
    assert found["lambada"]["other"]["perplexity,none"] == pytest.approx(
        float(torch.tensor(nats).mean().exp()), rel=1e-3
    )
    assert (found["mmlu"]["count"], found["mmlu"]["higher_is_better"]) == (7, True)


def test_limit_and_solved_examples(tokenizer, tasks: list) -> None:
    model = make_model(constants=RESIDUAL)
    zero = run_tasks(model, tokenizer, tasks[:1], limit=3)
    assert zero["piqa"]["count"] == 3
    seen: list[str] = []
    tasks[0].task.set_config("num_fewshot", None)

    from qadapter.evaluate.harness import QAdapterLM

    before = QAdapterLM.loglikelihood

    def listen(self, requests, disable_tqdm=True):
        seen.extend(request.args[0] for request in requests)
        return before(self, requests, disable_tqdm)

    QAdapterLM.loglikelihood = listen
    try:
        run_tasks(model, tokenizer, tasks[:1], limit=3, num_fewshot=2)
    finally:
        QAdapterLM.loglikelihood = before
    assert {text.count("Answer:") for text in seen} == {3}


def test_what_was_cut_off_is_said_once(tokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"context": "wa " * length, "continuation": "vb"} for length in (4, 3000, 3000)]
    files = [write(tmp_path / "lambada.jsonl", rows)]
    model = make_model(constants=RESIDUAL)
    _warn_once.cache_clear()
    for strength in (0.0, 1.0):
        run_tasks(model, tokenizer, load_tasks(files), strength=strength)
    assert [text.split(" of the tasks")[0] for text in caplog.messages] == ["2 texts"]
    caplog.clear()
    lm = harness_lm(model, tokenizer, max_length=60)
    lm.generate_until(requests("generate_until", [("wa " * length, {"max_gen_toks": 8}) for length in (4, 200)]))
    assert lm.cut_texts == 1
    with pytest.raises(ConfigError, match="cannot be answered by this model"):
        lm.generate_until(requests("generate_until", [("wa", {"max_gen_toks": 60})]))


def test_solved_examples_that_a_task_does_not_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "piqa.jsonl", questions()["piqa"])
    load_tasks([path], num_fewshot=5)
    assert caplog.messages == []
    monkeypatch.setattr(tasks_module, "_takes_none", lambda task: task.config.task == "piqa")
    load_tasks([path], num_fewshot=5)
    assert caplog.messages == ["num_fewshot=5 does not change piqa: by its own definition it has no solved examples."]


def test_git_says_nothing_where_there_is_no_repository(
    tokenizer, tasks: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run_tasks(make_model(constants=RESIDUAL), tokenizer, tasks[:1], limit=1)
    assert "git" not in capfd.readouterr().err


def test_the_name_that_lm_eval_knows(tmp_path: Path, tokenizer) -> None:
    """`lm_eval --model qadapter --model_args pretrained=DIR,strength=0.5`, once the class is there."""
    import qadapter.evaluate.harness as harness

    make_base().save_pretrained(tmp_path / "base")
    from lm_eval.api.registry import get_model

    from qadapter import QAdapterForCausalLM
    from qadapter.model import load_base

    model = QAdapterForCausalLM(load_base(str(tmp_path / "base"), dtype="float32"), RESIDUAL)
    model.save_pretrained(tmp_path / "adapter", tokenizer=tokenizer)
    assert harness.QAdapterLM is get_model("qadapter")
    lm = get_model("qadapter").create_from_arg_string(
        f"pretrained={tmp_path / 'adapter'},strength=0.5", {"batch_size": 2}
    )
    assert (lm.strength, lm.batch_size) == (0.5, 2)
    assert lm.get_model_info()["model_strength"] == 0.5
    assert len(lm.loglikelihood(requests("loglikelihood", TEXTS))) == len(TEXTS)
