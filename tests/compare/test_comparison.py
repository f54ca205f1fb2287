"""A whole comparison on a tiny model: resumed, changed, failed, and reported."""

from __future__ import annotations

import dataclasses
import gc
import json
import re
import shutil
import weakref
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from judge_server import completion, serving
from safetensors.torch import load_file, save_file

from qadapter import QAdapterForCausalLM, __version__
from qadapter.baselines import TrainingFacts, TrainingJob, own, scaled_adapter
from qadapter.baselines.code_digest import code_digest
from qadapter.baselines.training_pairs import content_of_pairs, training_pairs
from qadapter.cli.config import build
from qadapter.compare import TYPES, compare_results, make_plan, results, run_comparison, running, write_reports
from qadapter.compare.frontier import Dial, Point, area_under, cost_of
from qadapter.compare.jobs import Jobs
from qadapter.compare.methods import lines_of
from qadapter.compare.mixed_code import mixed_code
from qadapter.compare.scale import SQUARE_ROOT
from qadapter.errors import ConfigError, DataError, MissingExtraError, QAdapterError
from qadapter.evaluate import measure_policy
from qadapter.evaluate.judges import SAME_TEXT
from qadapter.train import PRESETS

Values = Callable[..., dict[str, Any]]


def compare(values: dict[str, Any], **kwargs: Any) -> tuple[dict[str, Any], list[str]]:
    """The results and the lines of progress."""
    said: list[str] = []
    plan = make_plan(*build(TYPES, values))
    return compare_results(plan, run_comparison(plan, said.append, **kwargs)), said


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The strengths that were measured, in order."""
    strengths: list[float] = []

    def measure(*args: Any, strength: float, **kwargs: Any) -> dict[str, Any]:
        strengths.append(strength)
        return measure_policy(*args, strength=strength, **kwargs)

    monkeypatch.setattr(running, "measure_policy", measure)
    return strengths


def test_results_and_resuming(
    values: Values, trained: list[TrainingJob], measured: list[float], tmp_path: Path
) -> None:
    results, said = compare(values())
    assert len(trained) == 3, "two candidates of DPO and one of ours"
    assert measured == [0, 1, 0.5, 1, 1, 0.5], "the other strengths for the best of a sweep alone"
    assert len(said) == 13
    assert said[-1].startswith("[13/13] benchmarks of DPO, learning_rate=0.02, seed 0, strength 1")
    assert "min left" in said[0]

    ours, dpo = results["lines"]
    assert (ours["label"], dpo["label"], results["reference"]) == ("ours <b>", "DPO", "DPO")
    assert dpo["hyperparameters"] == {"learning_rate": 0.02}
    assert [run["drawn"] for run in results["runs"]] == [True, False, True]
    assert (ours["at_edge"], dpo["at_edge"]) == ([], ["learning_rate"])
    for line in (ours, dpo):
        points = [Point(point["x"]["value"], point["y"]["value"]) for point in line["points"]]
        assert [point["strength"] for point in line["points"]] == [0, 0.5, 1]
        assert points[0].x == 0 < points[1].x < points[2].x
        assert "gain" not in line["points"][0]
        for point, (_, y) in zip(line["points"][1:], points[1:], strict=True):
            assert point["gain"]["value"] == pytest.approx(y - points[0].y)
            assert point["gain"]["low"] <= point["gain"]["value"] <= point["gain"]["high"]
        assert line["area"] == pytest.approx(area_under(Dial(points), results["x_limit"], SQUARE_ROOT))
        assert line["area_by_seed"] == pytest.approx([line["area"]])
        ends = line["intervals"]
        assert ends["area"]["low"] <= line["area"] <= ends["area"]["high"]
        behaviour = line["at_reference"]["behaviour"]
        assert line["at_reference"]["x"] == cost_of(Dial(points), behaviour, SQUARE_ROOT)
        assert line["cost"]["pairs"] == 8
        assert line["cost"]["decode_time_vs_base"].keys() == {"0.5", "1"}
    trained_point = dpo["points"][2]
    assert results["x_limit"] == trained_point["x"]["value"]
    assert dpo["at_reference"]["reached"]
    assert dpo["at_reference"]["ratio"] < 1 + 1e-9
    assert dpo["intervals"]["reached"] == 1, "of itself, in every resample"
    assert 0 < dpo["intervals"]["ratio"]["low"] <= dpo["intervals"]["ratio"]["high"] == pytest.approx(1)
    assert ours["intervals"]["reference_gained"] == dpo["intervals"]["reference_gained"] > 0.5
    assert 0 <= dpo["points"][2]["figures"]["answers.repeating"] <= 1
    assert dpo["points"][2]["figures"]["retention.kl_to_base"] == pytest.approx(trained_point["x"]["value"])
    assert results["base"]["preference.accuracy"] == 0.5

    trained.clear(), measured.clear()
    again, said = compare(values())
    assert (trained, measured) == ([], [])
    assert all("done before" in line for line in said)
    assert again == results
    assert compare(values(), report_only=True)[0] == results


def test_a_changed_config_redoes_only_what_it_concerns(
    values: Values, pretended: list[TrainingJob], measured: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = {"ours": {"method": "qadapter"}, "SFT": {"method": "sft"}}
    compare(values(methods=methods))
    pretended.clear(), measured.clear()
    compare(values(methods={**methods, "SFT": {"method": "sft", "learning_rate": 0.01}}))
    assert [job.hyperparameters for job in pretended] == [{"learning_rate": 0.01}]
    assert measured == [1, 0.5]
    pretended.clear(), measured.clear()
    compare(values(methods=methods, strengths=[1.0, 2.0], batch_size=3))
    assert (pretended, measured) == ([], [2, 2]), "one strength is new; a batch size changes nothing"
    measured.clear()
    compare(values(methods=methods, max_new_tokens=4))
    assert (pretended, len(measured)) == ([], 5), "another evaluation of the same adapters"
    compare(values(methods=methods, label_noise=0.25))
    assert [job.label_noise for job in pretended] == [0.25, 0.25]
    pretended.clear()
    compare(values(methods={"the same under another label": methods["SFT"]}))
    assert pretended == []
    monkeypatch.setitem(PRESETS["default"], "chi2_coef", 9.0)
    compare(values(methods=methods))
    assert [job.method for job in pretended] == ["qadapter"], "another release may have other presets"


def test_equal_jobs_are_trained_once_however_they_are_written(values: Values, pretended: list[TrainingJob]) -> None:
    keys = {"learning_rate": 0.01, "chi2_coef": 0.5}
    compare(values(methods={"one": {"method": "qadapter", **keys}}))
    compare(values(methods={"two": {"method": "qadapter", **dict(reversed(keys.items()))}}))
    assert len(pretended) == 1
    pretended.clear()
    compare(values(methods={"as it is": {"method": "dpo"}, "written out": {"method": "dpo", "beta": 0.1}}))
    assert len(pretended) == 1, "0.1 is the default"
    _, said = compare(values(methods={"swept": {"method": "dpo", "beta": [0.1]}}))
    assert len(pretended) == 1
    assert all("done before" in line for line in said if line.startswith("["))


def test_other_weights_in_the_same_folder_are_another_base(
    values: Values, pretended: list[TrainingJob], measured: list[float], files: Path, tmp_path: Path
) -> None:
    """A recipe may stand on the folder that the one before it exports."""
    base = tmp_path / "base"
    shutil.copytree(files / "base", base)
    config = values(model=str(base), methods={"SFT": {"method": "sft"}})
    compare(config)
    pretended.clear(), measured.clear()
    weights = base / "model.safetensors"
    tensors = {name: -tensor for name, tensor in load_file(weights).items()}
    size = weights.stat().st_size
    save_file(tensors, weights, metadata={"format": "pt"})
    assert weights.stat().st_size == size
    compare(config)
    assert (len(pretended), measured) == (1, [0, 1, 0.5])


def test_other_weights_of_a_reward_model_train_again(
    values: Values, pretended: list[TrainingJob], files: Path, tmp_path: Path
) -> None:
    rewards = tmp_path / "rewards"
    shutil.copytree(files / "base", rewards)
    (rewards / "config.json").write_text('{"model_type": "llama", "id2label": {"0": "reward"}}')
    config = values(methods={"RLOO": {"method": "rloo", "reward_model": str(rewards)}})
    for content, trained in ((b"old", 1), (b"old", 1), (b"new", 2)):
        (rewards / "model.safetensors").write_bytes(content)
        compare(config)
        assert len(pretended) == trained


def test_a_killed_run_goes_on(values: Values, pretended: list[TrainingJob], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[float] = []

    def measure(*args: Any, strength: float, **kwargs: Any) -> dict[str, Any]:
        calls.append(strength)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure_policy(*args, strength=strength, **kwargs)

    monkeypatch.setattr(running, "measure_policy", measure)
    config = values(methods={"ours": {"method": "qadapter"}, "SFT": {"method": "sft"}})
    with pytest.raises(KeyboardInterrupt):
        compare(config)
    assert calls == [0, 1, 0.5]
    with pytest.raises(QAdapterError, match=r"not finished yet: measure ours, seed 0, strength 0\.5"):
        compare(config, report_only=True)
    results, _ = compare(config)
    assert calls == [0, 1, 0.5, 0.5, 1, 0.5]
    assert len(pretended) == 2
    assert not list(Path(config["output_dir"]).rglob("*part-*"))
    shutil.rmtree(config["output_dir"])
    fresh, _ = compare(config)
    assert [line["points"] for line in fresh["lines"]] == [line["points"] for line in results["lines"]]


def test_a_failed_job_keeps_what_was_finished(
    values: Values, pretended: list[TrainingJob], measured: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(job: TrainingJob, log_file: Path) -> None:
        raise QAdapterError(f"training {job.method} failed")

    sft = {"SFT": {"method": "sft"}}
    train = running.run_in_process
    monkeypatch.setattr(running, "run_in_process", lambda job, log: (fail if job.method == "kto" else train)(job, log))
    with pytest.raises(QAdapterError, match="training kto failed"):
        compare(values(methods={**sft, "KTO": {"method": "kto"}}))
    assert measured == [0, 1, 0.5]
    compare(values(methods=sft))
    assert measured == [0, 1, 0.5], "all of it was kept"


def test_a_job_file_that_a_power_cut_emptied_is_made_again(values: Values, pretended: list[TrainingJob]) -> None:
    first, _ = compare(values())
    (job,) = Path(values()["output_dir"]).glob("jobs/measure-base-*.json")
    job.write_text("")
    pretended.clear()
    again, said = compare(values())
    assert pretended == []
    assert f"warning: {job} is no JSON, and its job not finished" in said
    assert _without_seconds(again) == _without_seconds(first)


def _without_seconds(results: dict[str, Any]) -> dict[str, Any]:
    facts = {name: value for name, value in results["facts"].items() if not name.startswith("seconds of ")}
    return {**results, "facts": facts}


def test_a_judge_that_failed_on_the_hard_prompts_chooses_no_candidate(values: Values) -> None:
    """The second candidate was judged on the one prompt that the base, too, answers well."""
    plan = make_plan(*build(TYPES, values(frontier_y="checker:tiny_checker:odd")))

    def record(strength: float, items: list[float | None]) -> dict[str, Any]:
        return {
            "strength": strength,
            "judges": {"checker:tiny_checker:odd": {"items": items}},
            "preference": {"accuracy": 0.5},
            "retention": {"items": [{"kl": 0.1, "tokens": 1}]},
        }

    base = record(0, [1.0, 0.0, 0.0])
    candidates = [running.CandidateResult({}, [], [record(1, items)]) for items in ([1.0, 0.5, 0.5], [1.0, None, None])]
    assert running.best_candidate(candidates, base, plan) == 0
    assert results._point(plan, base, candidates[1].records[0]).y == pytest.approx(1 / 3)


def test_behaviour_is_paired_where_a_judge_failed_on_some_answers(values: Values, pretended: list[TrainingJob]) -> None:
    results, _ = compare(values(checker=["tiny_checker:picky"], frontier_y="checker:tiny_checker:picky", max_prompts=8))
    points = [point for line in results["lines"] for point in line["points"]]
    assert any(point["figures"]["judges_failed.checker:tiny_checker:picky"] for point in points)
    for line in results["lines"]:
        base, *others = line["points"]
        for point in others:
            y = point["y"]
            assert y["value"] == pytest.approx(base["y"]["value"] + point["gain"]["value"])
            assert y["low"] <= y["value"] <= y["high"]


def test_a_measured_model_is_gone_when_the_next_one_is_trained(
    values: Values, pretended: list[TrainingJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process of the training needs the room; the LoRA layers are in cycles, which nothing else collects."""
    train, loaded, seen = running.run_in_process, [], []

    def load(*args: Any, **kwargs: Any) -> QAdapterForCausalLM:
        model = from_pretrained(*args, **kwargs)
        loaded.append(weakref.ref(model.base))
        return model

    def run(*args: Any) -> Any:
        seen.append([base() for base in loaded])
        return train(*args)

    from_pretrained = QAdapterForCausalLM.from_pretrained
    monkeypatch.setattr(running.QAdapterForCausalLM, "from_pretrained", load)
    monkeypatch.setattr(running, "run_in_process", run)
    gc.disable()
    try:
        compare(values())
    finally:
        gc.enable()
    assert [len(bases) for bases in seen] == [0, 1, 2]
    assert not any(base for bases in seen for base in bases)


def test_a_judge_that_was_given_up_is_no_finished_job(values: Values, monkeypatch: pytest.MonkeyPatch) -> None:
    given_up = {
        "items": [1.0, None, None], "not_asked": 1,
        "notes": ["better in both orders", "HTTP 503", "not asked, after 20 failures in a row; the last: HTTP 503"],
    }  # fmt: skip
    monkeypatch.setattr(running, "measure_policy", lambda *_, **__: {"judges": {"endpoint:m": given_up}})
    with pytest.raises(QAdapterError, match=r"endpoint:m was not asked about 1 of 3 answers: HTTP 503\n.*run the same"):
        compare(values())
    assert not list(Path(values()["output_dir"]).rglob("*.json"))


def test_a_judge_that_does_not_answer_shows_before_anything_is_trained(
    values: Values, pretended: list[TrainingJob], measured: list[float]
) -> None:
    endpoint = {"judge_endpoint": "http://127.0.0.1:1/v1", "judge_model": "m", "judge_retries": 0}
    for _ in range(2):
        with pytest.raises(ConfigError, match="does not answer"):
            compare(values(**endpoint))
    assert pretended == []
    assert measured == [0], "the base, once, whose answers no judge is asked about"


def test_what_judging_took_is_summed(values: Values, pretended: list[TrainingJob], tmp_path: Path) -> None:
    with serving() as server:
        server.respond = lambda body: completion("tie")
        config = values(
            judge_endpoint=server.url, judge_model="m", judge_cache=str(tmp_path / "cache.jsonl"),
            judge_price_in=1e4, judge_price_out=0.0,
        )  # fmt: skip
        results, _ = compare(config)
    judged = results["judging"]["endpoint:m"]
    assert judged["requests"] == len(server.bodies) > 0
    assert judged["usd"] == pytest.approx(len(server.bodies))  # 100 tokens each
    assert results["facts"]["judge endpoint:m"].startswith(f"{len(server.bodies)} requests, ")
    assert results["facts"]["judge endpoint:m"].endswith(f"0 failed, ${len(server.bodies)}.00")


def test_a_measurement_that_two_lines_share_is_paid_once(
    values: Values, pretended: list[TrainingJob], tmp_path: Path
) -> None:
    methods = {"logits": {"method": "dpo"}, "weights": {"method": "dpo", "interpolation": "weights"}}
    with serving() as server:
        server.respond = lambda body: completion("tie")
        config = values(
            methods=methods, judge_endpoint=server.url, judge_model="m", judge_cache=str(tmp_path / "cache.jsonl"),
        )  # fmt: skip
        results, _ = compare(config)
        assert results["judging"]["endpoint:m"]["requests"] == len(server.bodies) > 0
        assert results["judging"]["endpoint:m"]["usd"] is None
        asked = len(server.bodies)
        priced, _ = compare(config | {"judge_price_in": 1e4, "judge_price_out": 0.0})
        assert len(server.bodies) == asked
    assert priced["judging"]["endpoint:m"]["usd"] == pytest.approx(asked), "prices that were given afterwards"


def test_a_diverged_candidate_is_not_drawn(
    values: Values, pretended: list[TrainingJob], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its folder holds what is no number; without a judge behaviour is the margin, no number either."""

    def spoil(job: TrainingJob, log: Path) -> Any:
        facts = train(job, log)
        if job.hyperparameters.get("learning_rate") == worst:
            (file,) = Path(job.output_dir).rglob("adapter_model.safetensors")
            save_file({name: tensor * float("nan") for name, tensor in load_file(file).items()}, file)
        return facts

    train, worst = running.run_in_process, 9.0
    monkeypatch.setattr(running, "run_in_process", spoil)
    config = values(methods={"SFT": {"method": "sft", "learning_rate": [9.0, 0.01]}})
    results, _ = compare(config)
    assert results["lines"][0]["hyperparameters"] == {"learning_rate": 0.01}
    diverged, drawn = results["runs"]
    assert (diverged["drawn"], diverged["x"], diverged["y"]) == (False, None, None)
    assert drawn["drawn"]
    json.loads(json.dumps(results, allow_nan=False))
    write_reports(results, tmp_path)
    with pytest.raises(QAdapterError, match=r"SFT diverged: .*no numbers"):
        compare(values(methods={"SFT": {"method": "sft", "learning_rate": 9.0}}))


def test_a_missing_trl_shows_before_anything_is_measured(
    values: Values, measured: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qadapter.compare.plan.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"trl"):
        compare(values())
    assert measured == []
    make_plan(*build(TYPES, values(methods={"ours": {"method": "qadapter"}})))


def test_the_facts_of_a_comparison_without_answers(values: Values, pretended: list[TrainingJob], files: Path) -> None:
    rows = (files / "pairs.jsonl").read_text().splitlines()
    # What is bad by its tokens alone: the prompt leaves no room to answer.
    bad = json.loads(rows[0]) | {"prompt": [{"role": "user", "content": "wa " * 40}]}
    pairs = files.parent / "with_a_bad_row.jsonl"
    pairs.write_text("\n".join([*rows, json.dumps(bad)]) + "\n")
    results, _ = compare(values(train_file=str(pairs), on_bad_row="skip", checker=[], frontier_y=None))
    assert results["facts"]["prompts answered"] == 0, "no judge, no prompts"
    assert results["facts"]["pairs per run"] == 8


def test_held_out_prompts_that_were_trained_on_are_counted(
    values: Values, files: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = (files / "pairs.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "train.jsonl").write_text("".join(lines[:5]))
    (tmp_path / "heldout.jsonl").write_text("".join(lines[5:]))
    make_plan(
        *build(TYPES, values(train_file=str(tmp_path / "train.jsonl"), eval_file=str(tmp_path / "heldout.jsonl")))
    )
    assert "held-out pairs have a prompt" not in caplog.text
    make_plan(*build(TYPES, values(train_file=str(tmp_path / "train.jsonl"))))
    assert "5 of the 8 held-out pairs have a prompt of the training pairs" in caplog.text
    assert "prompts to answer" not in caplog.text
    asked = [{"prompt": json.loads(line)["prompt"]} for line in lines[3:6]] + [{"prompt": "vc"}] * 2
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    changed = {"train_file": str(tmp_path / "train.jsonl"), "prompts_file": str(tmp_path / "prompts.jsonl")}
    make_plan(*build(TYPES, values(**changed)))
    assert "2 of the 3 prompts to answer are prompts of the training pairs" in caplog.text, "of max_prompts"
    assert "prompts.jsonl: 1 of 5 prompts repeat one before them; each is answered once." in caplog.text


def test_every_run_is_held_to_the_pairs_that_were_planned(values: Values, pretended: list[TrainingJob]) -> None:
    """They are read again by the process of each run, and its result stands for them in all later ones."""
    compare(values(label_noise=[0.0, 0.5], strengths=[1.0]))
    assert {(job.label_noise, job.pairs["sha256"]) for job in pretended if job.pairs} == {
        (noise, content_of_pairs(training_pairs(job.common, label_noise=noise, seed=0))["sha256"])
        for job in pretended[:1]
        for noise in (0.0, 0.5)
    }
    assert all(job.pairs for job in pretended)


def test_the_versions_that_did_the_jobs(values: Values, pretended: list[TrainingJob]) -> None:
    config = values(methods={"DPO": {"method": "dpo"}})
    compare(config)
    (file,) = Path(config["output_dir"]).glob("jobs/train-*.json")
    file.write_text(file.read_text().replace(f'"qadapter_version": "{__version__}"', '"qadapter_version": "0.0.9"'))
    results, _ = compare(config)
    assert results["facts"]["qadapter"] == f"0.0.9, {__version__}"


def test_the_code_that_did_the_jobs(values: Values, pretended: list[TrainingJob], tmp_path: Path) -> None:
    config = values(methods={"DPO": {"method": "dpo"}})
    results, said = compare(config)
    assert results["facts"]["code"] == code_digest()
    assert "mixed code" not in results["facts"]
    assert not any(line.startswith("warning: these results") for line in said)
    (trained,), (base,) = (
        list(Path(config["output_dir"]).glob(f"jobs/{kind}-*.json")) for kind in ("train", "measure-base")
    )
    trained.write_text(json.dumps(json.loads(trained.read_text()) | {"code": "0123abcd"}))
    base.write_text(json.dumps({name: value for name, value in json.loads(base.read_text()).items() if name != "code"}))
    pretended.clear()
    results, said = compare(config, report_only=True)
    facts = results["facts"]
    assert set(facts["code"].split(", ")) == {code_digest(), "0123abcd", "unknown"}
    assert said[-1] == f"warning: {facts['mixed code']}"
    assert f"mix jobs of at least 3 versions of qadapter's code ({facts['code']})" in facts["mixed code"]
    write_reports(results, tmp_path)
    for name in ("report.html", "results.md"):
        assert "mix jobs of at least 3 versions" in (tmp_path / name).read_text()
    compare(config)
    assert pretended == [], "an upgrade goes on with what is finished"


def test_the_libraries_that_did_the_jobs(values: Values, pretended: list[TrainingJob], tmp_path: Path) -> None:
    config = values(methods={"DPO": {"method": "dpo"}})
    results, _ = compare(config)
    words = f"torch {version('torch')}"
    assert words in results["facts"]["libraries"].split("; ")
    files = sorted(Path(config["output_dir"]).glob("jobs/*.json"))
    contents = [json.loads(file.read_text()) for file in files]
    assert all(content["libraries"]["torch"] == version("torch") for content in contents)
    for name in ("transformers", "peft", "trl"):
        assert contents[0]["libraries"][name] == version(name)
    # A job of before it was noted, and one of another release.
    (of_before,) = (file for file in files if file.name.startswith("measure-base-"))
    content = json.loads(of_before.read_text())
    del content["libraries"]
    of_before.write_text(json.dumps(content))
    assert "mixed code" not in compare(config, report_only=True)[0]["facts"], "nothing is known to differ"
    (of_training,) = (file for file in files if file.name.startswith("train-"))
    content = json.loads(of_training.read_text())
    content["libraries"] |= {"torch": "0.4"}
    of_training.write_text(json.dumps(content))
    pretended.clear()
    results, said = compare(config)
    assert pretended == [], "what is finished stays so"
    words = f"mix jobs done with different versions of other libraries (torch 0.4, {version('torch')})"
    assert words in results["facts"]["mixed code"]
    assert said[-1] == f"warning: {results['facts']['mixed code']}"


def test_what_is_said_of_mixed_code_leaves_nothing_of_before(
    values: Values, trained: list[TrainingJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anchors that several trainings share lie beside the jobs, under names that know of no code."""
    config = values(methods={"ours": {"method": "qadapter", "anchors": 4}}, strengths=[1.0])
    compare(config)
    folders = {path for path in Path(config["output_dir"]).iterdir() if path.is_dir()}
    advice = mixed_code(["a", "b"]) or ""
    named = re.search(r"remove the folders (\w+) and (\w+) in the output directory", advice)
    assert named is not None
    assert {path.name for path in folders} == set(named.groups())
    for path in folders:
        shutil.rmtree(path)
    sample, sampled = own.sample_anchors, list[int]()
    monkeypatch.setattr(own, "sample_anchors", lambda *args, **kwargs: sampled.append(1) or sample(*args, **kwargs))
    trained.clear()
    compare(config)
    assert (len(trained), len(sampled)) == (1, 1)


def test_a_training_has_the_code_of_its_own_process(
    values: Values, pretended: list[TrainingJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    def upgraded(job: TrainingJob, log: Path) -> TrainingFacts:
        return dataclasses.replace(train(job, log), qadapter_version="9.9", code="0123abcd")

    train = running.run_in_process
    monkeypatch.setattr(running, "run_in_process", upgraded)
    results, said = compare(values(methods={"DPO": {"method": "dpo"}}))
    assert results["facts"]["qadapter"] == f"{__version__}, 9.9"
    assert set(results["facts"]["code"].split(", ")) == {code_digest(), "0123abcd"}
    assert said[-1].startswith("warning: these results mix jobs of 2 versions of qadapter's code (")


def test_the_seconds_of_all_jobs(values: Values, pretended: list[TrainingJob], tmp_path: Path) -> None:
    """Of those that the results stand on: two lines that share a training share its time."""
    methods = {"one": {"method": "dpo"}, "two": {"method": "dpo"}, "SFT": {"method": "sft"}}
    config = values(methods=methods, strengths=[1.0])
    compare(values(methods={**methods, "gone": {"method": "kto"}}, strengths=[1.0]))
    seconds = {"measure": 1.0, "benchmarks": 10.0, "train-dpo": 100.0, "train-sft": 1000.0, "train-kto": 10000.0}
    for kind, taken in seconds.items():
        for file in Path(config["output_dir"]).glob(f"jobs/{kind}-*.json"):
            file.write_text(json.dumps(json.loads(file.read_text()) | {"seconds": taken}))
    results, _ = compare(config)
    facts = {name: value for name, value in results["facts"].items() if name.startswith("seconds of ")}
    assert facts == {
        "seconds of all jobs": 1123.0,
        "seconds of jobs, benchmarks": 20.0,
        "seconds of jobs, measure": 3.0,
        "seconds of jobs, train dpo": 100.0,
        "seconds of jobs, train sft": 1000.0,
    }
    write_reports(results, tmp_path)
    assert "- seconds of all jobs: 1123.0\n" in (tmp_path / "results.md").read_text()
    page = (tmp_path / "report.html").read_text()
    assert re.search(r"seconds of all jobs\W[^\n]*1123\.0", page)


def test_only_the_first_pairs_are_measured(values: Values, pretended: list[TrainingJob]) -> None:
    results, _ = compare(values(max_pairs=2, methods={"DPO": {"method": "dpo"}}))
    assert results["facts"]["held-out pairs"].endswith("pairs.jsonl (2)")
    assert results["facts"]["prompts answered"] == 2
    (line,) = results["lines"]
    assert line["hyperparameters"] == {}
    assert line["trained_with"]["beta"] == 0.1


@pytest.mark.parametrize("ties", [0, 2])
def test_a_judge_that_scores_nothing_is_no_finished_job(
    values: Values, monkeypatch: pytest.MonkeyPatch, ties: int
) -> None:
    """A tie of two answers with the same text does not show that the judge works: nobody was asked."""
    failing = {"items": [0.5] * ties + [None] * 3, "notes": [SAME_TEXT] * ties + ["OSError: no license"] * 3}
    monkeypatch.setattr(running, "measure_policy", lambda *_, **__: {"judges": {"checker:m:f": failing}})
    with pytest.raises(QAdapterError, match="checker:m:f scored none of the 3 answers: OSError: no license") as caught:
        compare(values())
    assert str(caught.value).startswith("measure the base: the judge")
    assert "take this method or swept value out of the config" in str(caught.value)
    assert not list(Path(values()["output_dir"]).rglob("*.json"))


def test_weights_are_interpolated_where_that_is_asked_for(values: Values, pretended: list[TrainingJob]) -> None:
    methods = {
        "logits": {"method": "sft", "learning_rate": 0.05},
        "weights": {"method": "sft", "learning_rate": 0.05, "interpolation": "weights"},
    }
    results, _ = compare(values(methods=methods))
    assert len(pretended) == 1, "both dials turn the same adapter"
    logits, weights = (line["points"] for line in results["lines"])
    assert logits[2]["x"] == weights[2]["x"]
    assert logits[1]["x"]["value"] != pytest.approx(weights[1]["x"]["value"], rel=1e-3)
    plan = make_plan(*build(TYPES, values(methods=methods)))
    model = QAdapterForCausalLM.from_pretrained(pretended[0].output_dir, dtype="float32")
    tokenizer = plan.common.tokenizer()
    base = measure_policy(model, tokenizer, plan.evaluation, strength=0.0, inputs=plan.inputs)
    with scaled_adapter(model, 0.5):
        record = measure_policy(model, tokenizer, plan.evaluation, strength=1.0, base=base, inputs=plan.inputs)
    assert weights[1]["x"]["value"] == pytest.approx(record["retention"]["kl_to_base"], rel=1e-4)


def test_seeds_and_noise(values: Values, pretended: list[TrainingJob]) -> None:
    methods = {"SFT": {"method": "sft", "learning_rate": 0.02}}
    results, said = compare(values(methods=methods, seeds=[0, 1], label_noise=[0.0, 0.5], strengths=[1.0]))
    assert [(job.label_noise, job.seed) for job in pretended] == [(0, 0), (0, 1), (0.5, 0), (0.5, 1)]
    clean, noisy = results["lines"]
    assert noisy["label"] == "SFT, 50% flipped"
    arguments, common, *_ = build(TYPES, values(methods=methods, label_noise=[0.0, 0.005]))
    few = lines_of(arguments, common)
    assert [line.label for line in few] == ["SFT, 0% flipped", "SFT, 0.5% flipped"]
    assert len(clean["area_by_seed"]) == 2
    first, second = (run["y"] for run in results["runs"] if run["label"] == clean["label"])
    assert said.count("warning: sft leaves out 1 prompt") == 1, "once, not for every run"
    point = clean["points"][1]["y"]
    assert point["value"] == pytest.approx((first + second) / 2)
    assert point["low"] < point["value"] < point["high"]
    assert clean["points"][1]["y"]["value"] != noisy["points"][1]["y"]["value"]


def test_what_is_slow_is_measured_of_the_drawn_candidate_alone(
    values: Values, pretended: list[TrainingJob], measured: list[float], tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text("wa wb wc wd", encoding="utf-8")
    config = {
        "text_file": str(tmp_path / "text.txt"),
        "methods": {"SFT": {"method": "sft", "learning_rate": [0.1, 0.2]}},
    }
    results, said = compare(values(**config, benchmark_strengths=[1.0]))
    (line,) = results["lines"]
    slow = ["text.nats_per_token" in point["figures"] for point in line["points"]]
    assert slow == [True, False, True], "the base, strength 0.5, strength 1"
    assert line["cost"]["decode_time_vs_base"].keys() == {"1"}
    assert [run["drawn"] for run in results["runs"]].count(True) == 1
    assert sum("] benchmarks of SFT" in text for text in said) == 1
    measured.clear()
    results, _ = compare(values(**config))
    assert measured == [], "only the slow part of strength 0.5 was missing"
    assert all("text.nats_per_token" in point["figures"] for point in results["lines"][0]["points"])


def test_another_frontier_finds_what_the_first_one_did_not_need(
    values: Values, pretended: list[TrainingJob], tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text("wa wb wc wd", encoding="utf-8")
    asked = [{"goal": f"wa w{letter}", "sol1": "va", "sol2": "vb vc", "label": 0} for letter in "bcd"]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked), encoding="utf-8")
    config = {
        "text_file": str(tmp_path / "text.txt"), "tasks": [str(tmp_path / "asked.jsonl")], "strengths": [1.0],
        "methods": {"SFT": {"method": "sft"}},
    }  # fmt: skip
    compare(values(**config, frontier_x="tasks"))
    results, _ = compare(values(**config))
    assert len(pretended) == 1
    assert {"text.nats_per_token", "tasks.asked"} <= results["lines"][0]["points"][-1]["figures"].keys()


def test_the_reports(values: Values, pretended: list[TrainingJob], tmp_path: Path) -> None:
    methods = {
        "ours <b>|": {"method": "qadapter", "learning_rate": 0.02},
        "DPO": {"method": "dpo", "learning_rate": [1e-5, 2e-5]},
    }
    results, _ = compare(values(methods=methods))
    write_reports(results, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")
    page, text = ((tmp_path / name).read_text() for name in ("report.html", "results.md"))
    assert "<svg" in page
    assert "ours <b>" not in page, "text is escaped"
    assert "ours &lt;b&gt;|" in page
    assert "src=" not in page, "one file"
    assert "ours <b>\\| |" in text
    assert "a wider one may do better: DPO (learning_rate" in text
    for line in results["lines"]:
        line["points"][1]["x"]["value"], line["equal_behaviour"] = 0.000042, [{"share": 1.0, "x": 0.000053}]
    write_reports(results, tmp_path)
    small = (tmp_path / "results.md").read_text()
    assert " 4.2e-05 (" in small, "a small KL is not shown as 0.0000"
    assert " 5.3e-05 |" in small
    first = results["lines"][0]
    first["intervals"] |= {"area": {"low": 0.1, "high": 0.3}, "ratio": {"low": 0.2, "high": None}}
    for reached, ratio, shown in (
        (True, 0.5, "0.50× (0.20× to not reached)"),
        (False, None, "not reached (from 0.20×)"),
    ):
        first["at_reference"] = {"reached": reached, "ratio": ratio, "ratio_dialled": None}
        write_reports(results, tmp_path)
        assert f" {shown} |" in (tmp_path / "results.md").read_text()
        assert " (0.1000 to 0.3000) |" in (tmp_path / "results.md").read_text()
    for heading in ("The frontier", "All points", "Cost", "All training runs"):
        assert heading in page
        assert f"## {heading}" in text


def test_a_dial_that_does_not_begin_at_the_base_is_not_joined_with_it(
    values: Values, pretended: list[TrainingJob]
) -> None:
    methods = {
        "ours": {"method": "qadapter", "anchors": 0},
        "paper": {"method": "qadapter", "preset": "paper"},
        "DPO": {"method": "dpo"},
    }
    results, _ = compare(values(methods=methods, strengths=[0.5, 1.0]))
    from_base = {line["label"]: line["dial_from_base"] for line in results["lines"]}
    assert from_base == {"ours": True, "paper": False, "DPO": True}
    for line in results["lines"]:
        points = [Point(point["x"]["value"], point["y"]["value"]) for point in line["points"]]
        dial = Dial(points, line["dial_from_base"])
        assert line["area"] == pytest.approx(area_under(dial, results["x_limit"], SQUARE_ROOT))
        assert line["area_by_seed"] == pytest.approx([line["area"]])
        assert line["intervals"]["area"]["low"] <= line["area"] <= line["intervals"]["area"]["high"]


@pytest.mark.parametrize("name", ["results.json", "frontier.png", "results.md", "report.html"])
def test_a_report_that_finds_no_room_leaves_the_one_before(
    values: Values, pretended: list[TrainingJob], tmp_path: Path, name: str, on_a_full_disk: Callable[[Path], None]
) -> None:
    results, _ = compare(values(methods={"DPO": {"method": "dpo"}}, strengths=[1.0]))
    write_reports(results, tmp_path)
    before = (tmp_path / name).read_bytes()
    on_a_full_disk(tmp_path / name)
    with pytest.raises(OSError, match=rf"No space left on device: .*{name}'"):
        write_reports(results, tmp_path)
    assert (tmp_path / name).read_bytes() == before
    assert not list(tmp_path.glob(".part-*"))


def test_a_job_that_finds_no_room_is_named_and_leaves_nothing(
    tmp_path: Path, on_a_full_disk: Callable[[Path], None]
) -> None:
    jobs = Jobs(tmp_path, 1, lambda _: None)
    jobs.expect("measure", 1)
    on_a_full_disk(tmp_path / "one.json")
    with pytest.raises(OSError, match=r"No space left on device: .*one\.json'"):
        jobs.result("one", "measure", "measure", dict)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        ({"train_pairs": 9}, DataError, "holds 8 pairs"),
        ({"eval_file": "nowhere.jsonl"}, DataError, "nowhere.jsonl"),
        ({"max_length": 6}, DataError, "no room to answer"),
        ({"preference_file": "x"}, ConfigError, "their key is eval_file"),
        ({"frontier_y": "checker:tiny_checker:od"}, ConfigError, r"did you mean 'checker:tiny_checker:odd'\?"),
        ({"checker": ["tiny_checker:even"]}, ConfigError, "even"),
        ({"frontier_x": "tasks"}, ConfigError, "`tasks` names none"),
        ({"benchmark_strengths": [0.7]}, ConfigError, "benchmark_strengths: 0.7 is not one of strengths"),
        ({"output_dir": ""}, ConfigError, "output_dir is required"),
        ({"reference": "dpo"}, ConfigError, r"did you mean 'DPO'\?"),
        (
            {"lr_scheduler_type": "cosin"},
            ConfigError,
            r"'cosin' is unknown \(did you mean 'cosine'\?",
        ),
        (
            {"methods": {"paper": {"method": "qadapter", "preset": "paper", "anchors": 4}}},
            ConfigError,
            "4 anchors with anchor_coef 0.0",
        ),
        (
            {"methods": {"RLOO": {"method": "rloo", "reward_model": "no/such/folder"}}},
            ConfigError,
            "the reward model 'no/such/folder' cannot be loaded",
        ),
    ],
    ids=str,
)
def test_wrong_input_shows_before_anything_starts(
    values: Values, pretended: list[TrainingJob], overrides: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        compare(values(**overrides))
    assert pretended == []
    assert not Path(values()["output_dir"]).exists()


@pytest.mark.parametrize("long", ["train_file", "eval_file", "text_file"])
def test_more_tokens_than_the_base_has_positions(values: Values, tmp_path: Path, long: str) -> None:
    """Before anything is measured or trained."""
    config = values(methods={"DPO": {"method": "dpo"}})
    base = tmp_path / "base"
    shutil.copytree(config["model"], base)
    settings = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(settings | {"max_position_embeddings": 64}))
    words = " ".join(["wa"] * 70)
    row = {"text": words} if long == "text_file" else {"prompt": "wa ", "chosen": f"vb {words}", "rejected": "vc"}
    (tmp_path / "long.jsonl").write_text(json.dumps(row) + "\n")
    config |= {"model": str(base), long: str(tmp_path / "long.jsonl"), "max_length": 100}
    with pytest.raises(DataError, match=r"have 7\d tokens, and the base has 64 positions"):
        make_plan(*build(TYPES, config))
    make_plan(*build(TYPES, config | {"max_length": 64}))
