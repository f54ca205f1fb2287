"""Which policies are served, under which names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import make_base
from served_model import PAPER

from qadapter.core import Mixture
from qadapter.errors import ArtifactError, ConfigError
from qadapter.model import QAdapterForCausalLM
from qadapter.serve.adapters import ServedModel, load_adapters, parse_spec


def test_names_are_given_or_the_folders(served: ServedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(served.policies) == ["one", "two", "base"]
    assert parse_spec("runs/mine/") == ("mine", "runs/mine/")
    assert parse_spec("x=runs/mine") == ("x", "runs/mine")
    (tmp_path / "train-seed=0-ab").mkdir()
    monkeypatch.chdir(tmp_path)
    assert parse_spec("train-seed=0-ab") == ("train-seed=0-ab", "train-seed=0-ab")
    assert parse_spec("x=train-seed=0-ab") == ("x", "train-seed=0-ab")


def test_a_dial_is_the_mixture_of_the_adapters_own_constants(served: ServedModel) -> None:
    assert served.policies["one"].policy().mixture == PAPER.mixture()
    assert served.policies["two"].policy(0.25).mixture == Mixture(0.25, 0.75)
    assert served.policies["two"].policy(1, 0.6, 0.6).mixture == Mixture(0.5, 0.5)
    assert served.policies["base"].policy().mixture == Mixture(0.0, 1.0)
    assert {served.policies[name].policy().adapter for name in ("one", "two")} == {"default", "adapter_1"}


@pytest.mark.parametrize(
    ("name", "dial", "said"),
    [
        ("base", {"strength": 0.0}, "strength has no meaning for 'base'"),
        ("one", {"strength": 2000.0}, "weights beyond ±1000"),
        ("one", {"alpha_tilde": 1e-300}, "weights beyond ±1000"),
        ("one", {"strength": 0.0, "alpha_0": 0.0}, "leaves no policy"),
    ],
)
def test_dials_that_are_refused(served: ServedModel, name: str, dial: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        served.policies[name].policy(**dial)


def test_adapters_that_do_not_go_together(artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = str(artifacts / "one")
    with pytest.raises(ConfigError, match="two adapters are called 'one'"):
        load_adapters([one, f"one={artifacts / 'two'}"])
    with pytest.raises(ConfigError, match="an adapter is called 'base', like the base model"):
        load_adapters([f"base={one}"])
    with pytest.raises(ConfigError, match="NAME=DIR"):
        load_adapters(["=x"])
    QAdapterForCausalLM(make_base(), PAPER).save_pretrained(tmp_path / "strange")
    with pytest.raises(ArtifactError, match="was trained on another base"):
        load_adapters([one, str(tmp_path / "strange")])
    other_tokenizer = tmp_path / "other"
    shutil.copytree(artifacts / "two", other_tokenizer)
    config = json.loads((other_tokenizer / "qadapter_config.json").read_text())
    config["tokenizer_sha256"] = "0" * 64
    (other_tokenizer / "qadapter_config.json").write_text(json.dumps(config))
    monkeypatch.setattr(QAdapterForCausalLM, "from_pretrained", lambda *_args, **_kwargs: pytest.fail("too late"))
    with pytest.raises(ArtifactError, match=r"'other' \(.*another tokenizer or chat template than 'one'"):
        load_adapters([one, str(other_tokenizer)])
